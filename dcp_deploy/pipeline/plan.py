"""Estimates for ``--dry-run``: seconds from a short measurement, bytes from counting."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SCORES, BuildConfig, Effort
from ..efforts import CHANGES
from ..errors import MissingCapabilityError
from ..files import free_space
from ..progress import Reporter
from ..teachers.downloads import announcement
from ..teachers.hub import is_hub, parse_address
from .distilling import mask_of, recipe_of
from .inputs import BuildInputs, cached_teacher, check_machine, effort_numbers, given_teacher, resolve_inputs

if TYPE_CHECKING:
    from ..compression import DistillConfig, PruningPlan
    from ..generators import Generator

_PROBE_SECONDS = 0.5
_PROCESS_BYTES = 600_000_000  # Python, torch and ONNX Runtime before any work
_FLOAT = 4


@dataclass(frozen=True)
class Estimate:
    """Seconds of each stage on this machine, and the largest memory and disk use of the build in bytes."""

    images_per_second: float
    """Images per second of the teacher, measured at planning time."""
    seconds: dict[str, float]
    memory_bytes: int
    disk_bytes: int

    @property
    def total_seconds(self) -> float:
        """Seconds of all stages together."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "total_seconds": self.total_seconds}


@dataclass(frozen=True)
class BuildPlan:
    """What ``build`` would do: ``table`` for people, ``facts`` for JSON.

    ``estimate`` is None if the teacher has to be fetched first; then ``facts`` holds no widths or costs either.
    """

    table: str
    facts: dict[str, Any]
    estimate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**self.facts, "estimate": None if self.estimate is None else self.estimate.to_dict()}


def plan_build(config: BuildConfig, reporter: Reporter | None = None) -> BuildPlan:
    """Plan a build and estimate how long it takes. Writes and fetches nothing.

    ``reporter`` gets what speaks against the widths. Raises the same errors as :func:`build` before its work.
    """
    check_machine(config)
    file = given_teacher(config) or cached_teacher(config)
    if file is None:
        return _plan_to_fetch(config)
    reporter = reporter or Reporter()
    inputs = resolve_inputs(config, reporter, file)
    plan = inputs.pruning_plan
    for caveat in plan.caveats:
        reporter.message(f"prune: {caveat}")
    check_space(config.directory, plan)
    numbers = effort_numbers(inputs.effort, inputs.recipe)
    facts = {"config": config.to_dict(), "effort": numbers, "images": inputs.image_facts()}
    return BuildPlan(str(plan), {**facts, "fetch": None, **plan.to_dict()}, _estimate(inputs))


def _plan_to_fetch(config: BuildConfig) -> BuildPlan:
    """Plan without the teacher: its widths, and all that follows from them, are not known yet.

    Raises what opening the mask and the images raises, as far as that shows without the teacher.
    """
    from ..datasets.images import identify_images

    mask_of(config)
    if config.data is not None:
        identify_images(config.data)
    url: str | None
    megabytes: int | None
    if is_hub(config.teacher):
        address = parse_address(config.teacher)
        what, file, url, megabytes, licence = str(address), address.file, str(address), None, "that of its repository"
    else:
        teacher = config.preset.teacher
        what, file, url = announcement(teacher), teacher.file, teacher.url
        megabytes, licence = teacher.megabytes, teacher.licence
    fetching = {"file": file, "url": url, "megabytes": megabytes, "licence": licence}
    numbers = effort_numbers(config.counts, recipe_of(config, demo_recipe=config.demo_recipe))
    return BuildPlan(
        f"build would fetch {what}.\nWidths, parameters, time and memory are known once it is "
        "fetched, or for another teacher with --teacher FILE.",
        {"config": config.to_dict(), "effort": numbers, "fetch": fetching},
        None,
    )


def _estimate(inputs: BuildInputs) -> Estimate:
    """Time the teacher for half a second and scale by multiplications; good to a factor of about two."""
    from ..generators import Generator

    plan, counts, recipe = inputs.pruning_plan, inputs.effort, inputs.recipe
    rate = _images_per_second(Generator(plan.teacher).to(inputs.device))  # speed does not depend on the weights
    costs = plan.to_dict()
    big, small = 1 / rate, costs["student"]["macs"] / costs["teacher"]["macs"] / rate  # seconds per image
    discriminator = recipe.discriminator_width**2 * (1 - recipe.gan_start) if recipe.gan else 0.0
    evaluated = 100 + (counts.evaluation_samples if inputs.demo_measurable else 0)  # 100: grids and latents
    seconds = {
        "score": _score_seconds(inputs.config.score, counts, big),
        # Each layer of both networks runs once; covariances take about five times as long.
        "prune": 6 * counts.refine_latents * (big + small) if "reconstruct" in inputs.config.refine else 1.0,
        # Per image: teacher and student with and without offset, the student's backward pass, and a discriminator
        # that at full width costs about as much as the teacher: on real, on fake, and for the student, both ways.
        "distill": recipe.steps * recipe.batch * (2 * big + 7 * small + 9 * big * discriminator),
        "export": 15.0,
        "verify": 2 * 3 * counts.parity_latents * (big + small),
        "evaluate": evaluated * (big + 2 * small) + 30.0,
        "bench": counts.bench_seconds + 20.0,
    }
    return Estimate(rate, seconds, _memory_needed(plan, recipe), disk_needed(plan))


def _score_seconds(method: str, counts: Effort, image: float) -> float:
    """Return the time to score; ``image`` is that of one image of the teacher."""
    if method in ("weight-in", "weight-out", "random"):
        return 0.1  # no image is made
    # Per latent: one image with its graph, then per direction one image and one backward pass (two images' work).
    if method in CHANGES:
        return counts.change_latents * image * 3  # two images, and their moments
    passes = {"style": 1, "activation": 1, "content": 3}.get(method, 1 + 3 * counts.score_directions)
    if method not in SCORES:
        passes = 3  # a guess: nobody knows what a user's function does
    return counts.score_latents * image * passes


def check_space(folder: Path, plan: PruningPlan) -> None:
    """Raise MissingCapabilityError if the disk cannot hold the run; what the run directory has already counts."""
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = disk_needed(plan) - present, free_space(folder)
    if free < needed:
        raise MissingCapabilityError(
            f"no space for this build in {folder}: it needs about {needed / 1e6:.0f} MB more, {free / 1e6:.0f} MB are "
            "free",
            "Free some space, or give another --out.",
        )


def disk_needed(plan: PruningPlan) -> int:
    """Return bytes of a run directory: models, ONNX files, engine, and two checkpoints while one replaces the other."""
    teacher, student = _parameters(plan)
    models = 2 * teacher + 4 * student
    # Weights, two moments, the average and the best one; the discriminator is about the teacher's size.
    checkpoint = 5 * student + 3 * teacher
    return _FLOAT * (models + 2 * checkpoint) + 20_000_000


def _memory_needed(plan: PruningPlan, recipe: DistillConfig) -> int:
    """Return the peak bytes of distillation: weights, gradients, moments, and activations kept for backward."""
    teacher, student = _parameters(plan)
    weights = 5 * teacher + 5 * student
    # Each convolution keeps about four maps of its output's size; the discriminator's are about the teacher's.
    maps = 2 * (_pixels(plan, plan.widths) + _pixels(plan, plan.teacher.widths))
    return _PROCESS_BYTES + _FLOAT * (weights + 4 * math.ceil(recipe.batch / recipe.accumulate) * maps)


def _parameters(plan: PruningPlan) -> tuple[int, int]:
    """Return the parameters of teacher and student."""
    costs = plan.to_dict()
    return int(costs["teacher"]["parameters"]), int(costs["student"]["parameters"])


def _pixels(plan: PruningPlan, widths: tuple[int, ...]) -> int:
    """Return the numbers in all feature maps of one image."""
    from ..generators import layer_specs

    config = plan.teacher
    areas = [math.prod(config.size_at(resolution)) for resolution in config.resolutions for _ in range(2)]
    if config.layout is not None:  # the leaky ReLU works on maps of a higher rate
        specs = layer_specs(config.resolution, config.layout)
        areas = [(spec.in_size * spec.tmp_rate // spec.in_rate) ** 2 for spec in specs]
    return sum(width * area for width, area in zip(widths, areas, strict=True))


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
