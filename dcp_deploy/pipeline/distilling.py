"""Distil as a build's config says: its recipe, real images, features, mask, and quality on a schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import BuildConfig
from ..errors import MissingCapabilityError, UsageError
from ..files import sha256_file
from ..progress import Progress, Reporter, Within, duration

if TYPE_CHECKING:
    from ..compression import DistillConfig, DistillResult
    from ..compression.distillation.records import Measure
    from ..compression.distillation.timing import Expected
    from ..compression.masks import SegmentationMask
    from ..datasets.images import ImageSet
    from ..generators import Generator

MEASURED_SAMPLES = 2000  # each time while training; the figures at the end come from more
MEASURED_PHOTOGRAPHS = 5000  # of --data at most, and as many samples: more than Inception's 2048 features need
DISTANCES = ("fid", "kid", "precision", "recall", "density", "coverage")
AUGMENT_TARGET, GUIDE, FEATURE_GAN = 0.6, 10.0, 1.0  # as their papers have them, where they are asked for
MEASURED = ("fid", "precision", "recall", "density", "coverage", "mode_coverage")


def recipe_of(config: BuildConfig, *, demo: bool) -> DistillConfig:
    """How to distil: the effort's recipe with the settings of ``config``.

    ``demo``: whether it is the demo, which has recipes of its own.
    """
    from ..compression import DEMO_RECIPES, RECIPES

    recipe = {**RECIPES, **(DEMO_RECIPES if demo else {})}[config.effort]
    return replace(
        recipe,
        seed=config.seed,
        steps=config.steps or recipe.steps,
        mirror=config.mirror,
        accumulate=config.accumulate,
        precision=config.train_precision,
        augment_target=AUGMENT_TARGET if config.augment else recipe.augment_target,
        guide=recipe.guide if config.guide is None else GUIDE,
        feature_gan=FEATURE_GAN if config.feature_gan else recipe.feature_gan,
        beta1=0.0 if config.feature_gan else recipe.beta1,  # as it follows a discriminator then
    )


def distilling_settings(config: BuildConfig) -> dict[str, Any]:
    """What else decides the student, for the key of the stage: nothing for a config that asks for nothing special."""
    settings: dict[str, Any] = {}
    if config.keep != "last":
        settings["keep"] = config.keep
    if config.devices > 1:
        settings["devices"] = config.devices
    for name in ("lpips", "discriminator", "guide", *(["inception"] if config.keep == "best" else [])):
        path: Path | None = getattr(config, name)
        if path is not None:
            settings[name] = sha256_file(path) if path.is_file() else "missing"
    if (mask := mask_of(config)) is not None:
        settings["mask"] = mask.identity
    return settings


def mask_of(config: BuildConfig) -> SegmentationMask | None:
    """The model of --mask, opened; None without. Raises what :class:`SegmentationMask` does."""
    return None if config.mask is None else open_mask(config.mask, config.mask_background, config.mask_inputs)


def open_mask(path: Path, background: str, inputs: str) -> SegmentationMask:
    """A segmentation model; ``background`` are the classes that do not count, "0,16". UsageError for no such list."""
    from ..compression.masks import SegmentationMask

    numbers = background.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--mask-background {background!r} is no list of classes", "Write for instance 0,16.")
    return SegmentationMask(path, background=[int(n) for n in numbers], inputs=inputs)  # type: ignore[arg-type]


def distill_student(
    student: Generator,
    teacher: Generator,
    config: BuildConfig,
    recipe: DistillConfig,
    *,
    demo: bool,
    images: ImageSet | None = None,
    checkpoints: Path,
    progress: Progress | None = None,
    reporter: Reporter | None = None,
) -> DistillResult:
    """Distil by ``recipe``; the result's generator is the one to ``config.keep``, and ``config`` names the files.

    ``images`` are the real images. Without them ``demo`` brings the demo's, and else the teacher's own samples are the
    real ones. ``demo`` also brings features for the perceptual loss, and measures of quality for the schedule. Without
    it that loss is LPIPS where ``config.lpips`` gives its network's weights, else off, and quality is measured against
    ``images`` where there is Inception: no features of ours mean anything for other teachers' images.
    """
    from ..checkpoints import read_discriminator
    from ..compression import distill
    from ..datasets.avatars import avatars

    reporter = reporter or Reporter()
    device = str(next(teacher.parameters()).device)
    perceptual = _perceptual(config, device, demo=demo)
    if perceptual is None and recipe.perceptual:
        reporter.message("distill: without the perceptual loss; --lpips FILE brings it (the weights of VGG16)")
        recipe = replace(recipe, perceptual=0.0)
    # What was given is read first: measuring may have to fetch its network and look at the data for half an hour.
    discriminator, guide = (
        None if path is None else read_discriminator(path) for path in (config.discriminator, config.guide)
    )
    mask = mask_of(config)
    inside = Within(reporter, progress)
    measure = _measure(config, images, device, inside, demo=demo) if recipe.measure_every else None
    figure = "l1_to_teacher" if measure is None else "fid"
    result = distill(
        student,
        teacher,
        data=images if images is not None else avatars if demo else None,
        perceptual=perceptual,
        mask=mask,
        discriminator=discriminator,
        guide=guide,
        config=recipe,
        checkpoint_dir=checkpoints,
        progress=None if progress is None else lambda done, total, _: progress(done, total),
        expect=lambda expected: reporter.message(expected_words(expected)),
        measure=measure,
        # The same run whether or not Inception is there, so a resumed one may measure from where it is; where the best
        # is kept, by another figure then, it is not.
        measure_at=recipe.measured_steps if demo or images is not None else (),
        keep_best=None if config.keep == "last" else figure,
        tensorboard=config.tensorboard,
        devices=config.devices,
    )
    if result.best is None:
        return result
    reporter.message(f"distill: kept the average after {result.best.step} steps, {figure} {result.best.value:.4g}")
    return replace(result, generator=result.best.generator)


def _perceptual(config: BuildConfig, device: str, *, demo: bool) -> Any:
    """Feature maps, or a distance, for the perceptual loss."""
    if config.lpips is not None:
        from ..metrics.published import load_lpips

        return load_lpips(config.lpips, device=device)
    if not demo:
        return None
    from ..metrics import load_avatar_reader

    return load_avatar_reader(device).pyramid


def _measure(
    config: BuildConfig, images: ImageSet | None, device: str, reporter: Reporter, *, demo: bool
) -> Measure | None:
    """Quality of a student, from latents that no evaluation draws; None where nothing can be compared with."""
    seed = 1000 + config.seed
    if demo:
        return _measure_demo(seed)
    return None if images is None else _measure_against(images, config.inception, device, seed, reporter)


def _measure_demo(seed: int) -> Measure:
    from ..metrics import evaluate

    def measure(average: Generator) -> dict[str, float]:
        figures = evaluate(average, samples=MEASURED_SAMPLES, seed=seed).to_dict()
        return {name: figures[name] for name in MEASURED}

    return measure


def _measure_against(
    images: ImageSet, weights: Path | None, device: str, seed: int, reporter: Reporter
) -> Measure | None:
    """Quality against real images, by Inception as eval has it. None, said once, where that cannot be had.

    Weights that were given must work: MissingCapabilityError without the package, and what reading them raises.
    """
    from ..evaluation.quality import features_of, open_inception
    from ..metrics.photographs import FEWEST, evaluate_against

    without = "distill: without FID against the real images on the way: "
    if len(images) < FEWEST:
        reporter.message(f"{without}there are {len(images)}, and {FEWEST} are the fewest to compare with")
        return None
    try:
        inception = open_inception(weights, device, reporter)
    except MissingCapabilityError as error:
        if weights is not None:
            raise
        reporter.message(f"{without}{error.message} ({error.remedy})")
        return None
    count = min(len(images), MEASURED_PHOTOGRAPHS)
    reporter.message(f"distill: FID on the way is of {MEASURED_PHOTOGRAPHS} samples against {count} of the real images")
    real = features_of(images, inception, count, reporter)

    def measure(average: Generator) -> dict[str, float]:
        figures = evaluate_against(average, real, inception, samples=MEASURED_PHOTOGRAPHS, seed=seed).to_dict()
        return {name: figures[name] for name in DISTANCES}

    return measure


def expected_words(expected: Expected) -> str:
    """``distill: 1800 steps, about 5 min (0.16 s each, by 2 steps timed here just now; measuring comes on top)``."""
    each = expected.seconds / max(expected.steps, 1)
    return (
        f"distill: {expected.steps} steps, about {duration(expected.seconds)} ({each:.2g} s each, by {expected.timed} "
        "steps timed here just now; measuring comes on top)"
    )
