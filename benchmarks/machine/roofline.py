"""The roofline model: how far a candidate is from the machine's limits (Williams, Waterman and Patterson 2009).

    floor = max(operations / rate of a matrix product, bytes / rate of a copy)

Both rates are measured between the rounds of the run, so they meet the same load as the candidates. Both are medians,
like the latency they are compared with. The bytes are the unavoidable ones: weights, inputs and outputs, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """Compare a candidate with the rates of its device; None where those in its precision were not measured.

    Half precisions on a CPU count as float32, because ONNX Runtime and torch compute them so. OpenVINO's bfloat16 does
    not, since it uses the CPU's bfloat16 products.
    """
    widened = device == "cpu" and (precision == "fp16" or (precision == "bf16" and backend != "openvino"))
    computed_in = "fp32" if widened else precision
    compute = next((r for r in limits if (r.device, r.kind, r.precision) == (device, "compute", computed_in)), None)
    memory = next((r for r in limits if (r.device, r.kind) == (device, "memory")), None)
    if compute is None or memory is None:
        return None
    times: dict[Kind, float] = {
        "compute": work.operations / compute.per_second, "memory": work.bytes / memory.per_second,
    }  # fmt: skip
    bound = max(times, key=times.__getitem__)
    floor_ms = times[bound] * 1e3
    return Roofline(work.operations, work.bytes, work.traffic_bytes, floor_ms, bound, p50_ms / floor_ms)


# ---- ceilings of a machine ----

# A product takes tens of milliseconds, as long as a call of a candidate. One of 4 ms, after a pause with cold caches,
# reached half of the rate, and convolutions seemed faster than products. A copy is larger than any cache.
CPU_SIDE, CPU_BYTES = 2048, 64 * 2**20
GPU_SIDE, GPU_BYTES = 4096, 512 * 2**20


def machine_ceilings(devices: Sequence[str], threads: int | None = None) -> list[Ceiling]:
    """Return a matrix product in each precision and a copy for each of "cpu" and "cuda"; ``threads`` are the CPU's."""
    found: list[Ceiling] = []
    for device in dict.fromkeys(devices):
        precisions = ("fp32",) if device == "cpu" else ("fp32", "fp16", "bf16")
        found += [_product(device, precision, threads) for precision in precisions]
        found.append(_copy(device, threads))
    return found


def _product(device: str, precision: str, threads: int | None) -> Ceiling:
    import torch

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    side = CPU_SIDE if device == "cpu" else GPU_SIDE
    a, b = (torch.randn(side, side).to(device, kinds[precision]) for _ in range(2))
    out = torch.empty_like(a)
    run = _waiting(lambda: torch.mm(a, b, out=out), device, threads)
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
