"""Distil with a build's settings: its recipe, real images, features, mask, and quality measured on a schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import BuildConfig
from ..errors import MissingCapabilityError, UsageError
from ..extensions.loggers import TrainingLoggers
from ..files import sha256_file
from ..progress import Progress, Reporter, Within, duration

if TYPE_CHECKING:
    from ..compression import DistillConfig, DistillResult
    from ..compression.distillation.records import Measure
    from ..compression.distillation.timing import Expected
    from ..compression.masks import SegmentationMask
    from ..datasets.images import ImageSet
    from ..generators import Generator

MEASURED_SAMPLES = 2000  # per measurement during training; the final evaluation uses more
MEASURED_PHOTOGRAPHS = 5000  # at most, of --data, and as many samples: more than Inception's 2048 features need
DISTANCES = ("fid", "kid", "precision", "recall", "density", "coverage")
RUN_IDS = "loggers.json"  # in the folder of the checkpoints
_LOGGED = (
    "dataset", "teacher", "data", "ratio", "target_macs", "target_params", "align", "score", "refine", "effort",
    "lpips", "devices", "keep", "precision",
)  # fmt: skip
"""Settings that loggers get beside the recipe."""
MEASURED = ("fid", "precision", "recall", "density", "coverage", "mode_coverage")


def recipe_of(config: BuildConfig, *, demo_recipe: bool) -> DistillConfig:
    """Return the effort's recipe with the settings of ``config``; ``demo_recipe`` chooses the demo's own recipes."""
    from ..compression import DEMO_RECIPES, RECIPES

    recipe = {**RECIPES, **(DEMO_RECIPES if demo_recipe else {})}[config.effort]
    return replace(
        recipe,
        seed=config.seed,
        steps=config.steps or recipe.steps,
        mirror=config.mirror,
        losses=tuple(config.loss or ()),
        accumulate=config.accumulate,
        precision=config.train_precision,
    )


def distilling_settings(config: BuildConfig, mask: SegmentationMask | None) -> dict[str, Any]:
    """Return the settings besides the recipe that decide the student, for the stage's key; empty by default."""
    settings: dict[str, Any] = {}
    if config.keep != "last":
        settings["keep"] = config.keep
    if config.devices > 1:
        settings["devices"] = config.devices
    names = ("lpips", "discriminator", *(["inception"] if config.keep == "best" else []))
    settings |= files_of(config, *names)
    return settings if mask is None else {**settings, "mask": mask.identity}


def files_of(config: BuildConfig, *names: str) -> dict[str, str]:
    """Return the sha256 of those files of the settings that are given, by the name of the setting."""
    given = {name: path for name in names if (path := getattr(config, name)) is not None}
    return {name: sha256_file(path) if path.is_file() else "missing" for name, path in given.items()}


def distillation_facts(
    config: BuildConfig,
    recipe: DistillConfig,
    result: DistillResult,
    *,
    demo_measurable: bool,
    mask: SegmentationMask | None,
    images: ImageSet | None,
) -> dict[str, Any]:
    """Return what a student's file records of its distillation; the arguments are those of :func:`distill_student`."""
    facts = recipe.to_dict()
    for name in ("log_every", "checkpoint_every"):  # they do not change the student
        del facts[name]
    features = perceptual_features(config, demo_measurable=demo_measurable)
    if features != "lpips":  # its file is among the settings below
        facts["features"] = features
    if features == "none":
        facts["perceptual"] = 0.0
    if recipe.gan:
        others = "the demo's portraits" if demo_measurable else "the teacher's own samples"
        facts["real_images"] = others if images is None else images.identity
    if result.best is not None:
        facts["kept_step"] = result.best.step
    return {"verb": "distill", **facts, **distilling_settings(config, mask)}


def mask_of(config: BuildConfig) -> SegmentationMask | None:
    """Open the model of --mask; None without one. Raises the same errors as :func:`open_mask`."""
    return None if config.mask is None else open_mask(config.mask, config.mask_background, config.mask_inputs)


def open_mask(path: Path, background: str, inputs: str) -> SegmentationMask:
    """Open a segmentation model. ``background`` lists the classes that do not count, such as "0,16".

    Raises UsageError for another kind of list, and the same errors as :class:`SegmentationMask`.
    """
    from ..compression.masks import SegmentationMask

    numbers = background.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--mask-background {background!r} is not a list of classes", "Write for instance 0,16.")
    return SegmentationMask(path, background=[int(n) for n in numbers], inputs=inputs)  # type: ignore[arg-type]


def distill_student(
    student: Generator,
    teacher: Generator,
    config: BuildConfig,
    recipe: DistillConfig,
    *,
    demo_measurable: bool,
    mask: SegmentationMask | None,
    images: ImageSet | None,
    checkpoints: Path,
    loggers: TrainingLoggers,
    progress: Progress,
    reporter: Reporter,
) -> DistillResult:
    """Distil by ``recipe``; ``config`` names the files, and ``config.keep`` which student is returned.

    The real images are ``images``, else the demo's portraits if ``demo_measurable``, else samples of the teacher.

    If ``demo_measurable``, the perceptual loss uses the demo's features, and quality on the schedule is measured
    against the demo's portraits. These features mean nothing for other teachers: then the loss is LPIPS with the
    weights of ``config.lpips``, or off, and quality is measured against ``images`` if Inception is available.
    """
    from ..checkpoints import read_discriminator
    from ..compression import distill
    from ..datasets.portrait import avatars

    device = str(next(teacher.parameters()).device)
    for line in _notes_on_cpu(config, device):
        reporter.message(line)
    perceptual = _perceptual(config, device, demo_measurable=demo_measurable)
    if perceptual is None and recipe.perceptual:
        reporter.message(
            "distill: the perceptual loss is off. --lpips vgg16-397923af.pth (torchvision's weights) turns it on"
        )
        recipe = replace(recipe, perceptual=0.0)
    # Read the given files first: to measure may mean to fetch a network and to read real images for half an hour.
    discriminator = None if config.discriminator is None else read_discriminator(config.discriminator)
    measure = None
    if recipe.measure_every:
        inside, seed = Within(reporter, progress), 1000 + config.seed  # no evaluation uses these latents
        if demo_measurable:
            measure = _measure_demo(seed)
        elif images is not None:
            measure = _measure_against(images, config.inception, device, seed, inside)
    figure = "l1_to_teacher" if measure is None else "fid"
    result = distill(
        student,
        teacher,
        data=images if images is not None else avatars if demo_measurable else None,
        perceptual=perceptual,
        mask=mask,
        discriminator=discriminator,
        config=recipe,
        checkpoint_dir=checkpoints,
        progress=progress,
        expect=lambda expected: reporter.message(expected_words(expected)),
        measure=measure,
        # The schedule is the same with and without Inception, so that a resumed run goes on if it was installed
        # meanwhile. With keep="best" it starts again, because another figure decides then.
        measure_at=recipe.measured_steps if demo_measurable or images is not None else (),
        keep_best=None if config.keep == "last" else figure,
        loggers=loggers,
        devices=config.devices,
        threads=config.threads,
    )
    if result.best is None:
        return result
    reporter.message(f"distill: kept the average after {result.best.step} steps, {figure} {result.best.value:.4g}")
    return replace(result, generator=result.best.generator)


def checkpoints_of(directory: Path, key: str) -> Path:
    """Return the folder of a build's checkpoints, for the settings and inputs of the stage's key only."""
    return directory / "checkpoints" / key[:16]


def loggers_of(config: BuildConfig) -> list[str]:
    """Return the loggers that the settings name."""
    board = [] if config.tensorboard is None else [f"tensorboard={config.tensorboard}"]
    return [*(config.logger or []), *board]


def open_loggers(config: BuildConfig, logs: Path, reporter: Reporter, *, record: Path | None = None) -> TrainingLoggers:
    """Return the loggers of a training. ``logs`` is the folder of those that need one, ``record`` the file of run ids.

    Without ``record`` the ids are kept beside the checkpoint. Raises MissingCapabilityError for a missing package.
    """
    settings = {name: value for name, value in config.to_dict().items() if name in _LOGGED and value is not None}
    return TrainingLoggers(loggers_of(config), logs, record=record, settings=settings, say=reporter.message)


def _notes_on_cpu(config: BuildConfig, device: str) -> list[str]:
    """Return sentences on options that are meant for GPUs and also work on the CPU."""
    if device != "cpu":
        return []
    notes = []
    if config.devices > 1:
        notes.append(
            f"distill: without a GPU, --devices {config.devices} are processes on this CPU that share every batch"
        )
    if config.train_precision != "fp32":
        notes.append(
            f"distill: --train-precision {config.train_precision} without a GPU works, but most CPUs compute it more "
            "slowly than fp32"
        )
    return notes


def perceptual_features(config: BuildConfig, *, demo_measurable: bool) -> Literal["lpips", "demo", "none"]:
    """Return the features of the perceptual loss: those of --lpips, else the demo's where they mean something."""
    return "lpips" if config.lpips is not None else "demo" if demo_measurable else "none"


def _perceptual(config: BuildConfig, device: str, *, demo_measurable: bool) -> Any:
    """Return the perceptual loss's feature maps or distance; None without one."""
    features = perceptual_features(config, demo_measurable=demo_measurable)
    if features == "none":
        return None
    if config.lpips is not None:
        from ..metrics.published import load_lpips

        return load_lpips(config.lpips, device=device)
    from ..metrics import load_avatar_reader

    return load_avatar_reader(device).pyramid


def _measure_demo(seed: int) -> Measure:
    """Return a function that measures a student against the demo's portraits."""
    from ..metrics import evaluate

    def measure(average: Generator) -> dict[str, float]:
        figures = evaluate(average, samples=MEASURED_SAMPLES, seed=seed).to_dict()
        return {name: figures[name] for name in MEASURED}

    return measure


def _measure_against(
    images: ImageSet, weights: Path | None, device: str, seed: int, reporter: Reporter
) -> Measure | None:
    """Return a function that measures a student against real images by Inception's features, as eval does.

    Returns None after one message if there are too few images or Inception is not available. Given weights must work:
    raises MissingCapabilityError without the package, and what reading them raises.
    """
    from ..evaluation.quality import features_of, open_inception
    from ..metrics.photographs import FEWEST, evaluate_against

    without = "distill: FID against the real images is not measured during training: "
    if len(images) < FEWEST:
        reporter.message(f"{without}there are {len(images)}, and at least {FEWEST} are needed to compare with")
        return None
    try:
        inception = open_inception(weights, device, reporter)
    except MissingCapabilityError as error:
        if weights is not None:
            raise
        reporter.message(f"{without}{error.message} ({error.remedy})")
        return None
    count = min(len(images), MEASURED_PHOTOGRAPHS)
    classes = ", and its classes are as frequent as theirs" if images.labels else ""
    reporter.message(
        f"distill: FID during training compares {MEASURED_PHOTOGRAPHS} samples with {count} of the real images{classes}"
    )
    real = features_of(images, inception, count, reporter)

    def measure(average: Generator) -> dict[str, float]:
        settings: dict[str, Any] = {"samples": MEASURED_PHOTOGRAPHS, "seed": seed, "labels": images.labels}
        figures = evaluate_against(average, real, inception, **settings).to_dict()
        return {name: figures[name] for name in DISTANCES}

    return measure


def expected_words(expected: Expected) -> str:
    """Return ``distill: 1800 steps, about 5 min (0.16 s each, ...), on 2 CPU threads``."""
    each = expected.seconds / max(expected.steps, 1)
    computed = "" if expected.threads is None else f", on {expected.threads}"
    return (
        f"distill: {expected.steps} steps, about {duration(expected.seconds)} ({each:.2g} s each, by {expected.timed} "
        f"steps timed here just now; measuring comes on top){computed}"
    )
