"""How long a distillation takes on many GPUs, on paper: counted work, at rates that were measured for inference.

No step of training was timed on a GPU. The work of every kind of step is counted on tensors without data, and divided
by two rates at which PyTorch ran a generator on one H200 (docs/gpu.md): the teacher's for 64 images and the student's
for 8. A process has only four images in a step, so training may be slower than both. Messages are counted as they are
sent, over links of stated speed, as if nothing overlapped with them.

    python -m dcp_deploy.benchmarks.experiments.scaling
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dcp_deploy.compression import RECIPES, DistillConfig
from dcp_deploy.compression.distillation.batch import draw_batch
from dcp_deploy.compression.distillation.recipe import Terms, terms_at
from dcp_deploy.compression.distillation.state import TrainingSetup
from dcp_deploy.compression.distillation.step import regularise_path, update_all
from dcp_deploy.compression.distillation.task import Task
from dcp_deploy.distributed.team import Team
from dcp_deploy.generators import Generator, GeneratorConfig, count_macs

META = torch.device("meta")
KEPT = 0.3  # share of the channels that a student keeps
EACH = 4  # images of a process in one step: one group of the relation loss
GPUS = (1, 8, 64)
TEACHER_MS, STUDENT_MS = (64, 86.93), (8, 10.46)  # batch, and milliseconds of it: PyTorch, float32 with TF32, 256 px
WITHIN, BETWEEN = 450e9, 50e9  # bytes per second and GPU: NVLink of eight H200s, 400 Gb/s between machines
MESSAGE = 30e-6  # seconds of latency of a message


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of convolutions and matrix products inside the block.

    Torch's own FlopCounterMode cannot count gradients of gradients.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry

        result = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass(frozen=True)
class Work:
    """What a process does in a step, as a mean over a training: operations per image, and messages."""

    operations: float
    bytes: float
    messages: float


def networks(resolution: int) -> tuple[Generator, Generator]:
    """Return a full-width teacher and its student, without data."""
    config = GeneratorConfig.stylegan2(resolution)
    widths = tuple(max(8, round(width * KEPT / 8) * 8) for width in config.widths)
    with META:
        return Generator(config).eval().requires_grad_(False), Generator(replace(config, widths=widths))


def count_work(config: DistillConfig, teacher: Generator, student: Generator) -> Work:
    """Count one step of each kind of a training, and weight it by how often it occurs."""
    config = replace(config, perceptual=0.0, batch=2 * EACH)
    kinds: dict[Terms, int] = {}
    counts = Counter[Terms]()
    for step in range(config.steps):
        kind = terms_at(config, step)
        counts[kind] += 1
        kinds.setdefault(kind, step)
    total = torch.zeros(3, dtype=torch.float64)
    for kind, step in kinds.items():
        operations, sent = _count_step(config, teacher, student, step)
        total += counts[kind] * torch.tensor([operations / EACH, sum(sent), len(sent)], dtype=torch.float64)
    return Work(*(total / config.steps).tolist())


def _count_step(config: DistillConfig, teacher: Generator, student: Generator, step: int) -> tuple[int, list[int]]:
    """Return the operations of one process of two in a step, and the bytes of its messages."""
    sent: list[int] = []

    def start(tensor: torch.Tensor) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return lambda: None

    directions = torch.zeros(EACH, teacher.config.w_dim)
    setup = TrainingSetup(
        config, teacher, None, None, directions, (directions, None, directions), META, team=Team(0, 2, start)
    )
    state = Task(student, teacher, config).state(META)
    state.step = step
    with Counting() as counting:
        update_all(state, setup, draw_batch(setup, step).to(META))
        if terms_at(config, step).path_length:
            regularise_path(state, setup)
    return counting.operations, sent


@cache
def rates() -> tuple[float, float]:
    """Return the faster and the slower measured rate, in operations per second."""
    found = []
    for network, (batch, milliseconds) in zip(networks(256), (TEACHER_MS, STUDENT_MS), strict=True):
        found.append(2 * count_macs(network) * batch / (milliseconds / 1000))
    return max(found), min(found)


def hours(config: DistillConfig, work: Work, gpus: int) -> tuple[float, float, float]:
    """Return the hours of computing at both rates, and those of messages if nothing overlaps with them.

    More than four GPUs take four images each, and as many images in all, in fewer steps.
    """
    images = config.steps * config.batch
    fast, slow = (images * work.operations / rate / gpus / 3600 for rate in rates())
    link = WITHIN if gpus <= 8 else BETWEEN
    each = 2 * (gpus - 1) / gpus * work.bytes / link + (work.messages * MESSAGE if gpus > 1 else 0.0)
    return fast, slow, images / max(config.batch, EACH * gpus) * each / 3600


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    fast, slow = rates()
    yield f"Rates: {fast / 1e12:.1f} and {slow / 1e12:.1f} TFLOP/s."
    yield ""
    yield "| px | effort | GFLOP per image | MB per step | messages | GPUs | batch | steps | hours | of messages |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for resolution in (256, 1024):
        teacher, student = networks(resolution)
        for effort in ("standard", "paper"):
            config = RECIPES[effort]
            work = count_work(config, teacher, student)
            for gpus in GPUS:
                batch = max(config.batch, EACH * gpus)
                short, long, sending = (f"{float(f'{value:.2g}'):g}" for value in hours(config, work, gpus))
                yield (
                    f"| {resolution} | {effort} | {work.operations / 1e9:.0f} | {work.bytes / 1e6:.0f} | "
                    f"{work.messages:.1f} | {gpus} | {batch} | {config.steps * config.batch // batch:,} | "
                    f"{short} to {long} | {sending} |"
                )


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
