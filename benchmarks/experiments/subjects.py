"""What the quality experiment is about: a teacher, the recipes for its students, and the figures that measure them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ...checkpoints import load_generator
from ...checkpoints.provenance import tensors_sha256
from ...compression import DEMO_RECIPES, RECIPES, DistillConfig
from ...compression.distillation.losses import FeatureMaps
from ...datasets.images import ImageSet, open_images
from ...efforts import EffortName
from ...generators import Generator
from ...metrics import evaluate, load_avatar_reader
from ...metrics.efficientnet import load_features
from ...metrics.likeness import seed_diversity
from ...metrics.photographs import evaluate_against, real_features

Figures = Callable[[Generator, int, int], dict[str, float]]
"""From a generator, the number of images and the seed of a cell to the figures of a curve."""
_SAVED = 4  # checkpoints of a training
_BATCH = 250  # images per call when measuring
_FIRST_SEED = 1000  # of the images that are measured; no cell trains with these seeds


@dataclass(frozen=True)
class Subject:
    """A teacher, frozen, with a recipe for each effort.

    ``perceptual``: features of the perceptual loss, which is off without them. ``data``: real images for the recipes
    with a discriminator, without them the teacher's own samples. ``facts``: what the figures depend on besides the
    recipe; nothing for the demo. ``measured``: when, as shares of the steps.
    """

    teacher: Generator
    recipes: Mapping[EffortName, DistillConfig]
    figures: Figures
    perceptual: FeatureMaps | None = None
    data: ImageSet | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    measured: tuple[float, ...] = (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)

    def recipe(self, effort: EffortName, steps: int, seed: int) -> DistillConfig:
        """Return the recipe of an effort over this many steps."""
        saved = max(steps // _SAVED, 1)
        return replace(self.recipes[effort], steps=steps, seed=seed, log_every=steps, checkpoint_every=saved)


def demo(device: str) -> Subject:
    """Return the demo: its teacher and recipes, the features of its reader, and its portraits as real images."""
    with as_file(files("dcp_deploy") / "assets" / "demo_teacher.safetensors") as path:
        teacher = _frozen(path, device)
    reader = load_avatar_reader(device)
    return Subject(teacher, {**RECIPES, **DEMO_RECIPES}, demo_figures, perceptual=reader.pyramid)


def demo_figures(generator: Generator, samples: int, seed: int) -> dict[str, float]:
    """Measure against the portraits; "rare_recall" is the mean of the rare values' rates, each at most 1."""
    metrics = evaluate(generator, samples=samples, seed=_FIRST_SEED + seed, batch=_BATCH)
    names = ("fid", "precision", "recall", "density", "coverage", "mode_coverage", "frequency_error")
    rare = [min(rate, 1.0) for rate in metrics.rare.values()]
    return {
        **{name: getattr(metrics, name) for name in names},
        "rare_recall": sum(rare) / len(rare),
        **{f"rare {name}": rate for name, rate in metrics.rare.items()},
    }


def photographs(teacher: Path, data: Path, cache: Path, device: str) -> Subject:
    """Return a teacher with real images, measured in EfficientNet-Lite0's features, which ``cache`` keeps.

    The recipes have no perceptual loss, like those of ``build`` without ``--lpips``. Raises what loading the teacher,
    opening the images and loading the features raise.
    """
    generator = _frozen(teacher, device)
    config = generator.config
    images = open_images(data, resolution=config.image_size, c_dim=config.c_dim)
    extractor = load_features(device=device)
    real = real_features(images, extractor, count=None, cache=cache)

    def figures(student: Generator, samples: int, seed: int) -> dict[str, float]:
        seed, labels = _FIRST_SEED + seed, images.labels
        metrics = evaluate_against(student, real, extractor, samples=samples, seed=seed, batch=_BATCH, labels=labels)
        names = ("fid", "precision", "recall", "density", "coverage")
        around = seed_diversity(student, seed=seed, labels=labels).l1
        return {**{name: getattr(metrics, name) for name in names}, "seed_diversity": around}

    recipes = {effort: replace(recipe, perceptual=0.0) for effort, recipe in RECIPES.items()}
    facts = {"teacher": tensors_sha256(generator), "data": images.identity, "features": extractor.name}
    # EfficientNet takes a minute for 2000 images on one core, as long as the training between two measurements.
    return Subject(generator, recipes, figures, data=images, facts=facts, measured=(0, 1))


def _frozen(path: Path, device: str) -> Generator:
    return load_generator(path).to(device).eval().requires_grad_(False)
