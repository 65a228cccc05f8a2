"""The roofline model: how far a candidate is from the machine's limits (Williams, Waterman and Patterson 2009).

    floor = max(operations / rate of a matrix product, bytes / rate of a copy)

A file in int8 has convolutions in int8 and others in floating point; the times of both add up. The rates are measured
between the rounds of the run, so they meet the same load as the candidates. They are medians, like the latency they are
compared with. The bytes are the unavoidable ones: weights, inputs and outputs, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any, Literal

Kind = Literal["compute", "memory"]


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one call, counted from its graph."""

    operations: int
    """Operations of matrix products and convolutions, two for each multiply-accumulate."""
    bytes: int
    """Bytes of weights, inputs and outputs, each once."""
    traffic_bytes: int
    """Bytes moved if every node of the graph read its inputs and wrote its outputs, which fusion can reduce."""
    int8_operations: int = field(default=0, kw_only=True)
    """Those of the operations that multiply integers."""


@dataclass(frozen=True)
class Ceiling:
    """One operation that runs near a limit of the machine."""

    name: str
    device: str
    kind: Kind
    precision: str
    """Precision of the numbers; "" for a copy."""
    run: Callable[[], object]
    """One call, which returns when the operation is done."""
    amount: float
    """Operations or bytes of one call."""


@dataclass(frozen=True)
class Rate:
    """A ceiling as measured: operations or bytes per second, the median of ``count`` calls."""

    name: str
    device: str
    kind: Kind
    precision: str
    per_second: float
    count: int


Ceilings = tuple[Rate, ...]


@dataclass(frozen=True)
class Roofline(Work):
    """One candidate compared with the limits of its machine."""

    floor_ms: float
    """The least time a call can take at the measured rates."""
    bound: Kind
    """The limit that the floor comes from."""
    of_floor: float
    """Median latency over the floor; 1 is the limit."""


def measured_ceilings(ceilings: Sequence[Ceiling], seconds: Mapping[str, Sequence[float]]) -> Ceilings:
    """Return the rates of the ceilings, from the seconds of their calls."""
    return tuple(
        Rate(one.name, one.device, one.kind, one.precision, one.amount / median(seconds[one.name]),
             len(seconds[one.name]))
        for one in ceilings
    )  # fmt: skip


def roofline(
    work: Work, limits: Ceilings, device: str, precision: str, p50_ms: float, *, backend: str = ""
) -> Roofline | None:
    """Compare a candidate with the rates of its device; None where those in its precisions were not measured."""
    memory = _rate(limits, device, "memory", "")
    seconds = 0.0
    for operations, precision_of in (
        (work.operations - work.int8_operations, _float_precision(limits, device, precision, backend)),
        (work.int8_operations, "int8"),
    ):
        rate = _rate(limits, device, "compute", precision_of)
        if operations and rate is None:
            return None
        seconds += operations / rate if rate else 0.0
    if memory is None:
        return None
    times: dict[Kind, float] = {"compute": seconds, "memory": work.bytes / memory}
    bound = max(times, key=times.__getitem__)
    floor_ms = times[bound] * 1e3
    return Roofline(**asdict(work), floor_ms=floor_ms, bound=bound, of_floor=p50_ms / floor_ms)


def _rate(limits: Ceilings, device: str, kind: Kind, precision: str) -> float | None:
    found = (rate for rate in limits if (rate.device, rate.kind, rate.precision) == (device, kind, precision))
    return next((rate.per_second for rate in found), None)


def _float_precision(limits: Ceilings, device: str, precision: str, backend: str) -> str:
    """Return the precision in which a file's products of floating-point numbers are computed.

    On a CPU ONNX Runtime and torch compute half precisions in float32. OpenVINO computes bf16 files, and what is not
    integers in int8 files, in bfloat16 if the CPU has such products.
    """
    if device != "cpu":
        return precision
    narrow = backend == "openvino" and precision in ("bf16", "int8")
    return "bf16" if narrow and _rate(limits, device, "compute", "bf16") else "fp32"


# ---- ceilings of a machine ----

# A product takes tens of milliseconds, as long as a call of a candidate. One of 4 ms, after a pause with cold caches,
# reached half of the rate, and convolutions seemed faster than products. A copy is larger than any cache.
CPU_SIDES = {"fp32": 2048, "bf16": 4096, "int8": 4096}
CPU_BYTES = 64 * 2**20
GPU_SIDE, GPU_BYTES = 4096, 512 * 2**20


def machine_ceilings(devices: Sequence[str], threads: int | None = None) -> list[Ceiling]:
    """Return a matrix product in each precision and a copy for each of "cpu" and "cuda"; ``threads`` are the CPU's.

    A CPU has products of bfloat16 and int8 only if it has instructions for them (AMX, AVX-512 BF16, VNNI).
    """
    found: list[Ceiling] = []
    for device in dict.fromkeys(devices):
        precisions = _cpu_precisions() if device == "cpu" else ("fp32", "fp16", "bf16")
        found += [_product(device, precision, threads) for precision in precisions]
        found.append(_copy(device, threads))
    return found


def _cpu_precisions() -> tuple[str, ...]:
    import torch

    has = torch.cpu.get_capabilities()
    bf16 = ("bf16",) if has.get("amx_bf16") or has.get("avx512_bf16") else ()
    int8 = ("int8",) if has.get("amx_int8") or has.get("avx512_vnni") or has.get("avx_vnni") else ()
    return ("fp32", *bf16, *int8)


def _product(device: str, precision: str, threads: int | None) -> Ceiling:
    """Return a product of two square matrices; in int8 its sums are int32."""
    import torch

    side = CPU_SIDES[precision] if device == "cpu" else GPU_SIDE
    operation: Callable[[], Any]
    if precision == "int8":
        whole = [torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2)]
        operation = partial(torch._int_mm, *whole)
    else:
        kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        a, b = (torch.randn(side, side).to(device, kinds[precision]) for _ in range(2))
        operation = partial(torch.mm, a, b, out=torch.empty_like(a))
    run = _waiting(operation, device, threads)
    return Ceiling(f"matrix product {precision}, {device}", device, "compute", precision, run, 2.0 * side**3)


def _copy(device: str, threads: int | None) -> Ceiling:
    """Return a copy whose bytes count twice, as read and as written."""
    import torch

    size = CPU_BYTES if device == "cpu" else GPU_BYTES
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    run = _waiting(lambda: target.copy_(source), device, threads)
    return Ceiling(f"copy, {device}", device, "memory", "", run, 2.0 * size)


def _waiting(operation: Callable[[], Any], device: str, threads: int | None) -> Callable[[], None]:
    """Return a function that runs the operation on that many threads and waits for it."""
    import torch

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        with torch.inference_mode():
            operation()
        torch.set_num_threads(before)
        if device != "cpu":
            torch.cuda.synchronize()

    return run
