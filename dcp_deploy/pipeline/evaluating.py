"""Measure the networks of a build: quality, and how well the teacher's latents work in the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import BuildConfig
from ..progress import Progress, shifted

if TYPE_CHECKING:
    from ..checkpoints.directions import Direction
    from ..generators import Generator


def measure_quality(
    load: Callable[[str], Generator], models: Sequence[str], *, samples: int, seed: int, progress: Progress
) -> tuple[dict[str, Any], dict[str, Direction]]:
    """Return the figures of each network of avatars, and the teacher's direction in w for each factor.

    ``load`` opens a network by its name in ``models``; "teacher" is one of them. At most 10,000 samples are taken.
    """
    from ..evaluation.latents import factor_directions
    from ..metrics.evaluate import REFERENCE_SAMPLES, read_images

    samples = min(samples, REFERENCE_SAMPLES)
    figures: dict[str, Any] = {}
    directions: dict[str, Direction] = {}
    for index, model in enumerate(models):
        part = shifted(progress, index * samples, len(models) * samples)
        network = load(model)
        readings = read_images(network, samples=samples, seed=seed, progress=part)
        figures[model] = readings.compare().to_dict()
        if model == "teacher":
            directions = factor_directions(network, readings)
    return figures, directions


def measure_latents(
    student: Generator,
    teacher: Generator,
    config: BuildConfig,
    factors: Mapping[str, Direction] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Return what :func:`~.evaluation.latents.compare_latents` measures, ready for JSON.

    ``factors`` are the directions of :func:`measure_quality`, None where the demo's reader cannot read the images.
    """
    from ..evaluation.latents import compare_latents
    from ..metrics.drawing import model_device
    from ..metrics.published import load_lpips

    lpips = None if config.lpips is None else load_lpips(config.lpips, device=model_device(student))
    found = compare_latents(student, teacher, factors=factors, lpips=lpips, seed=config.seed, progress=progress)
    return found.to_dict()
