"""Measure how much of the memory bandwidth the kernels reach: a part of the experiment :mod:`.gpu`.

    for each kernel, variant, type, layout and width: the layer of 256 px at batch 32
    repeat: for each of them, shuffled: time it, and a device copy that moves as many bytes

The kernels do very little arithmetic per byte, so a copy of as many bytes is their limit. Bytes are those that must
move: each input read once, each output written once. Reading an input twice therefore lowers a kernel's rate.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...kernels.cuda.calls import (
    TAGS,
    KernelCall,
    epilogue_rgb_call,
    fir_epilogue_call,
    modconv_epilogue_call,
    to_rgb_call,
)
from .gpu_machine import Machine

Operator = Literal["modconv", "modconv_d2s", "fir", "rgb", "rgb_bytes", "epilogue_rgb", "epilogue_rgb_bytes"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
TEACHER_WIDTH, STUDENT_WIDTH = 128, 40  # channels at 256 px: of StyleGAN2, and 70 % fewer in steps of 8
SETS = 2  # buffers used in turn, so that more bytes than any L2 cache holds lie between two uses of one
LAUNCHES = 4  # launches per timing


@dataclass(frozen=True)
class Case:
    """One kernel on one shape. Its wide variant moves 16 bytes per access, the other one element."""

    operator: Operator
    dtype: torch.dtype
    channels_last: bool
    wide: bool
    channels: int
    size: int = 256
    batch: int = 32

    @property
    def source(self) -> tuple[int, int, int, int]:
        """The shape of x."""
        if self.operator == "modconv_d2s":
            return self.batch, 4 * self.channels, self.size // 2, self.size // 2
        side = self.size + 1 if self.operator == "fir" else self.size
        return self.batch, self.channels, side, side

    @property
    def target(self) -> tuple[int, int, int, int]:
        """The shape of y, where the kernel writes one."""
        return self.batch, self.channels, self.size, self.size


def cases(size: int = 256, batch: int = 32, widths: tuple[int, int] = (TEACHER_WIDTH, STUDENT_WIDTH)) -> Iterator[Case]:
    """Yield every kernel in both variants at the teacher's width, and the wide variants at the student's width."""
    teacher, student = widths
    for operator, dtype, last in product(OPERATORS, TAGS, (False, True)):
        if operator.startswith("epilogue") and not last:
            continue  # these kernels exist for channels last only
        for wide, channels in ((True, teacher), (True, student), (False, teacher)):
            yield Case(operator, dtype, last, wide, channels, size, batch)


class Buffers:
    """Random features and memory for results, large enough for every case."""

    def __init__(self, of: Sequence[Case], device: torch.device) -> None:
        self.device = device
        self.x: dict[torch.dtype, Tensor] = {}
        for dtype in {case.dtype for case in of}:
            most = max(math.prod(case.source) for case in of if case.dtype == dtype)
            self.x[dtype] = torch.randn(1 + most, device=device).to(dtype)
        size = max(math.prod(case.target) * case.dtype.itemsize for case in of)
        self.y = torch.empty(size, dtype=torch.uint8, device=device)

    def call(self, case: Case) -> KernelCall:
        """Return the launch of one case, with all its options in use."""
        x = self.x[case.dtype][0 if case.wide else 1 :]  # the narrow variant's input is not aligned to 16 bytes
        features = _shaped(x, case.source, case.channels_last)
        size = math.prod(case.target) * case.dtype.itemsize
        y = _shaped(self.y[:size].view(case.dtype), case.target, case.channels_last)
        scale, bias = self._ones(case.batch, case.channels), self._ones(case.channels)
        noise = self._ones(case.size, case.size)
        made: KernelCall | None
        terms: dict[str, Any] = {"clamp": 256.0, "next_scale": self._ones(case.batch, case.channels)}
        if case.operator in ("modconv", "modconv_d2s"):
            terms["depth_to_space"] = case.operator == "modconv_d2s"
            made = modconv_epilogue_call(features, scale, noise, bias, y, **terms)
        elif case.operator == "fir":
            made = fir_epilogue_call(features, scale, noise, bias, y, **terms)
        else:
            made = self._with_image(case, features, (scale, noise, bias), y)
        assert made is not None
        return made

    def _with_image(self, case: Case, x: Tensor, terms: tuple[Tensor, Tensor, Tensor], y: Tensor) -> KernelCall | None:
        """Return toRGB alone or after the epilogue; with byte output it is the last layer, which keeps no features."""
        as_bytes, half = case.operator.endswith("_bytes"), case.size // 2
        shape = (case.batch, case.size, case.size, 3) if as_bytes else (case.batch, 3, case.size, case.size)
        image = torch.empty(shape, dtype=torch.uint8 if as_bytes else torch.float32, device=self.device)
        colours = self._ones(case.batch, case.channels), self._ones(3, case.channels), self._ones(3)
        skip = self._ones(case.batch, 3, half, half)
        if case.operator.startswith("rgb"):
            return to_rgb_call(x, *colours, skip, image, clamp=256.0)
        kept, next_scale = (None, None) if as_bytes else (y, self._ones(case.batch, case.channels))
        return epilogue_rgb_call(
            x, *terms, *colours, skip, kept, image, next_scale=next_scale, clamp=256.0, rgb_clamp=256.0
        )

    def _ones(self, *shape: int) -> Tensor:
        return torch.ones(shape, device=self.device)


def bytes_of(call: KernelCall) -> int:
    """Return the bytes that must move through memory: every tensor of the call once."""
    return sum(argument.nbytes for argument in call.arguments if isinstance(argument, Tensor))


def measure(
    chosen: Sequence[Case], machine: Machine, *, rounds: int = 20, ends: float = math.inf, seed: int = 0
) -> list[dict[str, Any]]:
    """Time every case and the copy of as many bytes, up to ``rounds`` times, and after the first until ``ends``.

    ``ends`` is a time of ``time.monotonic``.
    """
    device = machine.device
    buffers = [Buffers(chosen, device) for _ in range(SETS)]
    calls = [[held.call(case) for held in buffers] for case in chosen]
    half = [bytes_of(per_set[0]) // 1024 * 512 for per_set in calls]  # aligned, so that the copy is fast
    flat = [torch.empty(2 * max(half), dtype=torch.uint8, device=device) for _ in range(SETS)]
    for held in flat:
        held.view(torch.int32)[: held.numel() // 4].random_()
    runs = [[lambda call=call: machine.launch(call, device) for call in per_set] for per_set in calls]
    copies = [[lambda held=held, n=n: held[n : 2 * n].copy_(held[:n]) for held in flat] for n in half]
    times: list[list[tuple[float, float]]] = [[] for _ in chosen]
    order = random.Random(seed)
    for number in range(rounds + 1):
        if number > 1 and time.monotonic() > ends:
            break
        for index in order.sample(range(len(chosen)), len(chosen)):
            pair = _timed(runs[index], machine), _timed(copies[index], machine)
            if number > 0:  # the first round loads kernels and raises the clocks
                times[index].append(pair)
    return [_row(case, per_set[0], pairs) for case, per_set, pairs in zip(chosen, calls, times, strict=True)]


def _timed(in_turn: Sequence[Callable[[], Any]], machine: Machine) -> float:
    """Return the milliseconds of one call on the GPU, the mean of LAUNCHES in a row."""
    begin, end = machine.event(), machine.event()
    in_turn[-1]()  # keeps the GPU busy while the host enqueues the rest
    begin.record()
    for number in range(LAUNCHES):
        in_turn[number % len(in_turn)]()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / LAUNCHES


def _row(case: Case, call: KernelCall, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the medians of one kernel: milliseconds, bytes per second, and the share of the copy's rate."""
    size = bytes_of(call)
    own_time, copy_time = (median(times) for times in zip(*pairs, strict=True))
    return {
        "operator": case.operator, "kernel": call.kernel, "channels": case.channels, "bytes": size,
        "time_ms": own_time, "copy_time_ms": copy_time,
        "rate": size / own_time * 1e3, "copy_rate": size / copy_time * 1e3,
        "share": median(copy / own for own, copy in pairs),
    }  # fmt: skip


def _shaped(flat: Tensor, shape: tuple[int, ...], last: bool) -> Tensor:
    part = flat[: math.prod(shape)]
    if not last:
        return part.view(shape)
    batch, channels, height, width = shape
    return part.view(batch, height, width, channels).permute(0, 3, 1, 2)
