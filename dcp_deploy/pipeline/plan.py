"""What a build will take: seconds from a short measurement, bytes from counting. Estimates, and called so."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..config import BuildConfig, Effort
from ..teachers.downloads import announcement, cached
from .distilling import recipe_of
from .inputs import TeacherFile, _check_target, _planned, _real, _teacher_here, build_device, numbers, open_data

if TYPE_CHECKING:
    from ..compression import DistillConfig, PruningPlan
    from ..generators import Generator

_PROBE_SECONDS = 0.5
_PROCESS_BYTES = 600_000_000  # Python, torch and ONNX Runtime before any work
_FLOAT = 4


@dataclass(frozen=True)
class Estimate:
    """Seconds per stage on this machine, and the most memory and disk that the build holds at once, in bytes."""

    images_per_second: float
    """Of the teacher, measured just now."""
    seconds: dict[str, float]
    memory_bytes: int
    disk_bytes: int

    @property
    def total_seconds(self) -> float:
        """All stages."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "total_seconds": self.total_seconds}


def estimate(
    teacher: Generator, planned: PruningPlan, work: Effort, recipe: DistillConfig, *, refine: str = "none"
) -> Estimate:
    """Time the teacher for half a second and scale by multiplications; good to a factor of about two."""
    rate = _images_per_second(teacher)
    costs = planned.to_dict()
    big, small = 1 / rate, costs["student"]["macs"] / costs["teacher"]["macs"] / rate  # seconds per image
    discriminator = recipe.discriminator_width**2 * (1 - recipe.gan_start) if recipe.gan else 0.0
    guide = 1.0 if recipe.guide else 0.0
    seconds = {
        # Per latent: one image with its graph, then per direction one image and one backward pass (two images' work).
        "score": work.score_latents * big * (1 + 3 * work.score_directions),
        # For every layer of both networks all layers before it are drawn anew; covariances take about as long.
        "prune": work.refine_latents * len(planned.widths) * (big + small) if "reconstruct" in refine else 1.0,
        # Per image: teacher and student with and without offset, the student's backward pass, and a discriminator
        # that at full width costs about as much as the teacher: on real, on fake, and for the student, both ways.
        # A guide is as large, learns nothing, and looks at the teacher's image and, both ways, at the student's.
        "distill": recipe.steps * recipe.batch * (2 * big + 7 * small + 9 * big * discriminator + 3 * big * guide),
        "export": 15.0,
        "verify": 2 * 3 * work.parity_latents * (big + small),
        "evaluate": work.evaluation_samples * (big + 2 * small) + 30.0,
        "bench": work.bench_seconds + 10.0,
    }
    return Estimate(rate, seconds, memory_needed(planned, recipe), disk_needed(planned))


def disk_needed(planned: PruningPlan) -> int:
    """Bytes of a whole run directory: models, ONNX files, engine, and two checkpoints while one replaces the other."""
    teacher, student = _parameters(planned)
    models = 2 * teacher + 4 * student
    # Weights, two moments, the average and the best one; the discriminator is about the teacher's size.
    checkpoint = 5 * student + 3 * teacher
    return _FLOAT * (models + 2 * checkpoint) + 20_000_000


def memory_needed(planned: PruningPlan, recipe: DistillConfig) -> int:
    """Bytes at the height of distillation: weights, gradients and moments, and the activations kept for backward."""
    teacher, student = _parameters(planned)
    weights = teacher + 5 * student + (5 if recipe.guide else 4) * teacher
    # Each convolution keeps about four maps of its output's size; the discriminator holds about the teacher's.
    maps = 2 * (_pixels(planned, planned.widths) + _pixels(planned, planned.teacher.widths))
    return _PROCESS_BYTES + _FLOAT * (weights + 4 * math.ceil(recipe.batch / recipe.accumulate) * maps)


def _parameters(planned: PruningPlan) -> tuple[int, int]:
    """Of teacher and student."""
    costs = planned.to_dict()
    return int(costs["teacher"]["parameters"]), int(costs["student"]["parameters"])


def _pixels(planned: PruningPlan, widths: tuple[int, ...]) -> int:
    """Numbers in all feature maps of one image."""
    from ..generators import layer_specs

    config = planned.teacher
    sizes = [resolution for resolution in config.resolutions for _ in range(2)]
    if config.layout is not None:  # the leaky ReLU works on maps of a higher rate
        specs = layer_specs(config.resolution, config.layout)
        sizes = [spec.in_size * spec.tmp_rate // spec.in_rate for spec in specs]
    return sum(width * size * size for width, size in zip(widths, sizes, strict=True))


def _images_per_second(generator: Generator, batch: int = 4) -> float:
    import torch

    config = generator.config
    device = next(generator.parameters()).device
    z = torch.randn(batch, config.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    c = torch.eye(config.c_dim, device=device)[[0] * batch] if config.c_dim else None
    with torch.no_grad():
        begin, fastest = time.perf_counter(), math.inf
        while time.perf_counter() - begin < _PROBE_SECONDS:
            start = time.perf_counter()
            generator(z, c).sum().item()
            fastest = min(fastest, time.perf_counter() - start)  # the first call and other load only slow it down
    return batch / fastest


@dataclass(frozen=True)
class BuildPlan:
    """What ``build`` would do: ``table`` for people, ``facts`` for JSON.

    ``estimate`` is None as long as the teacher has yet to be fetched: then the plan says no more than that.
    """

    table: str
    facts: dict[str, Any]
    estimate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**self.facts, "estimate": None if self.estimate is None else self.estimate.to_dict()}


def plan_build(config: BuildConfig) -> BuildPlan:
    """What ``build`` would make of this config, and about how long it would take. Writes and fetches nothing."""
    from ..checkpoints import load_generator
    from ..generators import count_macs

    _check_target(config)
    source = _teacher_here(config)
    if source is None:
        there = cached(config.preset.teacher)
        source = TeacherFile.of(there) if there is not None else None
    if source is None:
        return _plan_to_fetch(config)
    planned = _planned(config, source)
    teacher = load_generator(source.path).to(build_device(config)).requires_grad_(False)
    macs = count_macs(planned.teacher)
    recipe = recipe_of(config, demo=config.is_demo)
    guess = estimate(teacher, planned, config.work.for_teacher(macs), recipe, refine=config.refine)
    real = _real(config, planned, open_data(config, planned.teacher))
    facts = {"config": config.to_dict(), "effort": numbers(config, macs), "images": real, "fetch": None}
    facts |= planned.to_dict()
    return BuildPlan(str(planned), facts, guess)


def _plan_to_fetch(config: BuildConfig) -> BuildPlan:
    """The plan while the teacher is somewhere else: its widths, and all that follows from them, are not known yet."""
    teacher = config.preset.teacher
    fetching = {"file": teacher.file, "url": teacher.url, "megabytes": teacher.megabytes, "licence": teacher.licence}
    return BuildPlan(
        f"build would fetch {announcement(teacher)}.\nWidths, parameters, time and memory can be told once it is here, "
        "or of another teacher with --teacher FILE.",
        {"config": config.to_dict(), "effort": numbers(config), "fetch": fetching},
        None,
    )
