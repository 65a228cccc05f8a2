"""How much of the memory's bandwidth the kernels reach: ``python -m dcp_deploy.benchmarks.kernels --out FILE``.

    for each kernel, form, type, layout and width: the layer of 256 px at batch 32
    repeat: for each of them, shuffled: time it, and a device copy that moves as many bytes

The kernels do next to no arithmetic per byte, so the copy is their limit: a kernel that takes as long as the copy of
the same number of bytes cannot be made faster. Bytes are those that must move, each input read once and each output
written once; what a kernel reads twice counts against it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import MissingCapabilityError
from ..files import write_json
from ..kernels.calls import TAGS, KernelCall, fir_epilogue_call, modconv_epilogue_call, to_rgb_call
from ..kernels.launch import launch
from .environment import capture_environment

Operator = Literal["modconv", "modconv_d2s", "fir", "rgb", "rgb_bytes"]
OPERATORS: tuple[Operator, ...] = ("modconv", "modconv_d2s", "fir", "rgb", "rgb_bytes")
TEACHER_WIDTH, STUDENT_WIDTH = 128, 40  # channels at 256 px: StyleGAN2's, and 70 % fewer in steps of 8
SETS = 2  # of buffers, in turn: far more bytes than any L2 cache holds lie between two uses of one
LAUNCHES = 4  # per timing


@dataclass(frozen=True)
class Case:
    """One kernel on one shape. ``wide``: 16 bytes per access, else one element."""

    operator: Operator
    dtype: torch.dtype
    channels_last: bool
    wide: bool
    channels: int
    size: int = 256
    batch: int = 32

    @property
    def source(self) -> tuple[int, int, int, int]:
        """Shape of x; the output has ``channels`` channels of ``size`` x ``size`` pixels, or three."""
        if self.operator == "modconv_d2s":
            return self.batch, 4 * self.channels, self.size // 2, self.size // 2
        side = self.size + 1 if self.operator == "fir" else self.size
        return self.batch, self.channels, side, side

    @property
    def target(self) -> tuple[int, ...]:
        if self.operator == "rgb_bytes":
            return self.batch, self.size, self.size, 3
        return self.batch, 3 if self.operator == "rgb" else self.channels, self.size, self.size

    @property
    def target_dtype(self) -> torch.dtype:
        return {"rgb": torch.float32, "rgb_bytes": torch.uint8}.get(self.operator, self.dtype)


@dataclass(frozen=True)
class Row:
    """What one kernel reached. Rates count the bytes that must move, in bytes per second; times are medians."""

    kernel: str
    channels: int
    bytes: int
    time_ms: float
    copy_time_ms: float
    rate: float
    copy_rate: float
    share: float
    """Of the copy's rate, the median over rounds."""


def cases(size: int = 256, batch: int = 32) -> Iterator[Case]:
    """Every kernel of the fast forms at the teacher's width, the wide ones at the student's too."""
    for operator, dtype, last in product(OPERATORS, TAGS, (False, True)):
        for wide, channels in ((True, TEACHER_WIDTH), (True, STUDENT_WIDTH), (False, TEACHER_WIDTH)):
            yield Case(operator, dtype, last, wide, channels, size, batch)


class Buffers:
    """Random features and room for results, cut to the shape of any case."""

    def __init__(self, of: Sequence[Case], device: torch.device) -> None:
        self.device = device
        self.x = {
            dtype: torch.randn(1 + max(_count(case.source) for case in of if case.dtype == dtype), device=device).to(
                dtype
            )
            for dtype in {case.dtype for case in of}
        }
        self.y = torch.empty(
            max(_count(case.target) * case.target_dtype.itemsize for case in of), dtype=torch.uint8, device=device
        )

    def call(self, case: Case) -> KernelCall:
        """The launch of one case, its options all in use."""
        offset = 0 if case.wide else 1  # misses its 16 bytes
        x = _shaped(self.x[case.dtype][offset:], case.source, case.channels_last)
        count = _count(case.target) * case.target_dtype.itemsize
        last = case.channels_last and not case.operator.startswith("rgb")
        y = _shaped(self.y[:count].view(case.target_dtype), case.target, last)
        made = self._rgb(case, x, y) if case.operator.startswith("rgb") else self._epilogue(case, x, y)
        assert made is not None
        return made

    def _epilogue(self, case: Case, x: Tensor, y: Tensor) -> KernelCall | None:
        per_sample = torch.ones(case.batch, case.channels, device=self.device)
        noise, bias = (
            torch.ones(case.size, case.size, device=self.device),
            torch.ones(case.channels, device=self.device),
        )
        if case.operator == "fir":
            return fir_epilogue_call(x, per_sample, noise, bias, y, clamp=256.0, next_scale=per_sample)
        shuffled = case.operator == "modconv_d2s"
        return modconv_epilogue_call(
            x, per_sample, noise, bias, y, clamp=256.0, next_scale=per_sample, depth_to_space=shuffled
        )

    def _rgb(self, case: Case, x: Tensor, image: Tensor) -> KernelCall | None:
        styles, weight = (
            torch.ones(case.batch, case.channels, device=self.device),
            torch.ones(3, case.channels, device=self.device),
        )
        bias, half = torch.ones(3, device=self.device), case.size // 2
        skip = torch.ones(case.batch, 3, half, half, device=self.device)
        return to_rgb_call(x, styles, weight, bias, skip, image, clamp=256.0)


def bytes_of(call: KernelCall) -> int:
    """What must move through memory: every tensor of the call once."""
    return sum(argument.nbytes for argument in call.arguments if isinstance(argument, Tensor))


def measure(chosen: Sequence[Case], *, rounds: int = 20, seed: int = 0) -> list[Row]:
    """Time every case against the copy of as many bytes, on the current GPU.

    Raises MissingCapabilityError without a GPU.
    """
    if not torch.cuda.is_available():
        raise MissingCapabilityError("there is no NVIDIA GPU here", "run this where nvidia-smi lists one")
    device = torch.device("cuda", torch.cuda.current_device())
    buffers = [Buffers(chosen, device) for _ in range(SETS)]
    calls = [[held.call(case) for held in buffers] for case in chosen]
    half = [bytes_of(per_set[0]) // 2 for per_set in calls]
    flat = [torch.empty(2 * max(half), dtype=torch.uint8, device=device) for _ in range(SETS)]
    for held in flat:
        held.view(torch.int32)[: held.numel() // 4].random_()
    runs = [[lambda call=call: launch(call, device) for call in per_set] for per_set in calls]
    copies = [[lambda held=held, n=n: held[n : 2 * n].copy_(held[:n]) for held in flat] for n in half]
    times: list[list[tuple[float, float]]] = [[] for _ in chosen]
    order = random.Random(seed)
    for number in range(rounds + 1):
        for index in order.sample(range(len(chosen)), len(chosen)):
            pair = _timed(runs[index]), _timed(copies[index])
            if number > 0:  # the first round loads kernels and wakes the clocks
                times[index].append(pair)
    return [_row(case, per_set[0], pairs) for case, per_set, pairs in zip(chosen, calls, times, strict=True)]


def _timed(in_turn: Sequence[Callable[[], Any]]) -> float:
    """Milliseconds of one call on the GPU, the mean of LAUNCHES in a row."""
    event: Any = torch.cuda.Event  # without annotations
    begin, end = event(enable_timing=True), event(enable_timing=True)
    in_turn[-1]()  # keeps the GPU busy while the host enqueues the rest
    begin.record()
    for number in range(LAUNCHES):
        in_turn[number % len(in_turn)]()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / LAUNCHES


def _row(case: Case, call: KernelCall, pairs: Sequence[tuple[float, float]]) -> Row:
    size = bytes_of(call)
    time, copy_time = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    share = median(copy / own for own, copy in pairs)
    return Row(call.kernel, case.channels, size, time, copy_time, size / time * 1e3, size / copy_time * 1e3, share)


def _shaped(flat: Tensor, shape: tuple[int, ...], last: bool) -> Tensor:
    part = flat[: _count(shape)]
    if not last:
        return part.view(shape)
    batch, channels, height, width = shape
    return part.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def table(rows: Sequence[Row]) -> str:
    """One line per kernel, the slowest first."""
    lines = [f"{'kernel':28} {'channels':>8} {'ms':>8} {'TB/s':>7} {'copy':>7} {'share':>6}"]
    for row in sorted(rows, key=lambda row: row.share):
        rates = f"{row.rate / 1e12:7.3f} {row.copy_rate / 1e12:7.3f} {row.share:6.1%}"
        lines.append(f"{row.kernel:28} {row.channels:8} {row.time_ms:8.4f} {rates}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bandwidth of every kernel against a device copy, in one run.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    chosen = list(cases(arguments.size, arguments.batch))
    rows = measure(chosen, rounds=arguments.rounds)
    record = {"environment": asdict(capture_environment()), "rounds": arguments.rounds, "size": arguments.size}
    write_json(arguments.out, {**record, "batch": arguments.batch, "rows": [asdict(row) for row in rows]})
    print(table(rows))


if __name__ == "__main__":
    main()
