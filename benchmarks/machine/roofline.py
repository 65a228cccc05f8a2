"""How far a candidate is from what the machine could do at most.

    floor = max(operations / rate of a matrix product, bytes / rate of a copy)

Both rates are measured in the run itself, between the rounds, so they meet the same load as the candidates; both are
medians, like the latency that is compared with them. Bytes of the floor are those that nothing can avoid: weights,
inputs and outputs, once. (Williams, Waterman and Patterson 2009.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Kind = Literal["compute", "memory"]


@dataclass(frozen=True)
class Work:
    """What one call has to do, counted from its graph."""

    operations: int
    """Of matrix products and convolutions, two for each multiply-accumulate."""
    bytes: int
    """Weights, inputs and outputs, each once."""
    traffic_bytes: int
    """If every node of the graph read its inputs and wrote its outputs: what fusing can save."""


@dataclass(frozen=True)
class Ceiling:
    """One thing that the machine is known to do well."""

    name: str
    device: str
    kind: Kind
    precision: str
    """Of the numbers; "" for a copy."""
    run: Callable[[], object]
    """Returns when it is done."""
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
class Roofline:
    """One candidate against its machine."""

    operations: int
    bytes: int
    traffic_bytes: int
    floor_ms: float
    """No call can take less at the measured rates."""
    bound: Kind
    """What the floor comes from."""
    of_floor: float
    """Median latency over the floor: 1 is the limit."""


def measured_ceilings(ceilings: Sequence[Ceiling], seconds: Mapping[str, Sequence[float]]) -> Ceilings:
    """Rates from the seconds that each ceiling's calls took."""
    return tuple(
        Rate(one.name, one.device, one.kind, one.precision, one.amount / median(seconds[one.name]),
             len(seconds[one.name]))
        for one in ceilings
    )  # fmt: skip


def roofline(
    work: Work, limits: Ceilings, device: str, precision: str, p50_ms: float, *, backend: str = ""
) -> Roofline | None:
    """None where the rate of this device in this precision was not measured.

    A CPU's half precisions count as float32, which ONNX Runtime and torch compute them in here, but not OpenVINO its
    bfloat16, where the CPU has such products.
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

# A product of tens of milliseconds, as long as a call of what is compared with it: one of 4 ms, woken from a pause with
# cold caches, reached half of the rate and made convolutions look better than products. A copy that no cache holds.
CPU_SIDE, CPU_BYTES = 2048, 64 * 2**20
GPU_SIDE, GPU_BYTES = 4096, 512 * 2**20


def machine_ceilings(devices: Sequence[str], threads: int | None = None) -> list[Ceiling]:
    """A matrix product in each precision and a copy, for "cpu" and "cuda". ``threads`` are the CPU's."""
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
    run = _finished(lambda: torch.mm(a, b, out=out), device, threads)
    return Ceiling(f"matrix product {precision}, {device}", device, "compute", precision, run, 2.0 * side**3)


def _copy(device: str, threads: int | None) -> Ceiling:
    """Bytes are counted twice: read and written."""
    import torch

    size = CPU_BYTES if device == "cpu" else GPU_BYTES
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    run = _finished(lambda: target.copy_(source), device, threads)
    return Ceiling(f"copy, {device}", device, "memory", "", run, 2.0 * size)


def _finished(operation: Callable[[], Any], device: str, threads: int | None) -> Callable[[], None]:
    """The operation on that many threads, waited for."""
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
