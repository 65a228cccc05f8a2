"""Which images stand for the real ones in a build: those of --data, the demo's own, or the teacher's samples."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import BuildConfig
from ..devices import torch_device
from ..errors import InputError, MissingCapabilityError
from ..progress import Reporter
from ..teachers.downloads import Fetched, fetch
from .distilling import mask_of, recipe_of

if TYPE_CHECKING:
    from ..compression import DistillConfig, PruningPlan
    from ..datasets.images import ImageSet
    from ..generators import GeneratorConfig

_SAMPLES = "the teacher's own samples"
_AVATARS = "the demo's portraits, drawn on the fly"
DATA = "--data"


def open_data(config: BuildConfig, teacher: GeneratorConfig) -> ImageSet | None:
    """The images of --data, checked against the teacher's resolution and classes; None without --data.

    Raises what :func:`open_images` does.
    """
    from ..datasets.images import open_images

    if config.data is None:
        return None
    return open_images(config.data, resolution=teacher.resolution, resize=config.resize, c_dim=teacher.c_dim)


def data_settings(config: BuildConfig) -> dict[str, Any]:
    """What tells one --data from another, for the key of a stage that looks at it; nothing without --data."""
    from ..datasets.images import identify_images

    return {} if config.data is None else {DATA: identify_images(config.data, resize=config.resize)}


def real_facts(images: ImageSet | None, recipe: DistillConfig, *, demo: bool) -> dict[str, Any]:
    """What the real images were, for run.json and the plan: plain values.

    ``demo``: whether the demo's portraits are at hand. Only a discriminator looks at real images in training.
    """
    facts = {"real": _AVATARS if demo else _SAMPLES, "in_training": recipe.has_discriminator, "mirrored": recipe.mirror}
    return facts if images is None else {**facts, "real": DATA, **images.facts()}


def real_words(facts: Mapping[str, Any]) -> str:
    """Those facts in one line."""
    words = str(facts["real"])
    if words == DATA:
        left_out = [f"{facts['skipped']} of them bad and skipped"] if facts["skipped"] else []
        left_out += [f"files that are none: {facts['ignored_files']}"] if facts["ignored_files"] else []
        words = ", ".join([f"{facts['images']} of {facts['path']} ({facts['kind']})", *left_out])
        if not facts["in_training"]:
            words += (
                "; training does not look at them, for this recipe has no discriminator (--effort standard has): they "
                "are in the report's picture only"
            )
    return words


@dataclass(frozen=True)
class TeacherFile:
    """The teacher's file, and where it came from (``origin``, for run.json)."""

    path: Path
    origin: dict[str, Any]

    @classmethod
    def of(cls, fetched: Fetched) -> TeacherFile:
        """A file of the cache."""
        return cls(fetched.path, fetched.to_dict())


def teacher_source(config: BuildConfig, reporter: Reporter) -> TeacherFile:
    """The file to start from: ``config.teacher``, else what ships for the preset, else what can be fetched for it.

    Raises InputError when the given file does not exist, MissingCapabilityError when the preset's cannot be had here,
    CorruptFileError when what came is not what it should be.
    """
    here = _teacher_here(config)
    if here is not None:
        return here
    teacher = config.preset.teacher
    with reporter.task(f"fetch {teacher.file}, MB") as progress:
        return TeacherFile.of(fetch(teacher, say=reporter.message, progress=progress))


def _teacher_here(config: BuildConfig) -> TeacherFile | None:
    """The teacher that needs no download; None when the preset's has to be fetched, or lies in the cache."""
    if config.teacher is not None:
        if not config.teacher.is_file():
            raise InputError(f"there is no teacher file {config.teacher}", "Check the path given to --teacher.")
        return TeacherFile(config.teacher, {"origin": "file", "path": str(config.teacher)})
    teacher = config.preset.teacher
    if teacher.url is not None:
        return None
    asset = Path(str(resources.files("dcp_deploy") / "assets" / teacher.file))
    if not asset.is_file():
        raise MissingCapabilityError(
            f"this installation lacks its demo teacher ({asset.name})",
            "Install dcp-deploy again, or give --teacher FILE.",
        )
    return TeacherFile(asset, {"origin": "package", "path": str(asset), "licence": teacher.licence})


def _planned(config: BuildConfig, source: TeacherFile) -> PruningPlan:
    """The plan's widths and costs. They depend on how many channels go, not on which: any scores will do."""
    from ..checkpoints import read_checkpoint
    from ..compression import plan, score

    try:
        teacher = read_checkpoint(source.path).generator  # what it lacks is said by the stage that reads it for good
    except InputError as error:
        if "url" not in source.origin:
            raise
        again = f"It came from {source.origin['url']}: delete {source.path.parent} to fetch it anew."
        raise type(error)(error.message, f"{error.remedy}\n{again}".strip()) from error
    return plan(teacher, score(teacher, method="random"), **config.widths_wanted)


def _real(config: BuildConfig, planned: PruningPlan, images: ImageSet | None) -> dict[str, Any]:
    """What the real images are, of a build that is about to start."""
    demo = unmeasurable(config, {"resolution": planned.teacher.resolution, "c_dim": planned.teacher.c_dim}) is None
    return real_facts(images, recipe_of(config, demo=config.is_demo), demo=demo)


def _check_machine(config: BuildConfig) -> None:
    """Find out now what would stop a stage after minutes of work."""
    build_device(config)
    mask_of(config)
    data_settings(config)  # that there are images; whether they fit is known once the teacher is
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingCapabilityError(
            "build compares and measures the exported files with ONNX Runtime, which is not installed",
            "pip install 'dcp-deploy[cpu]', or [gpu] in its place",
        )
    _check_target(config)
    if config.target and not any(map(importlib.util.find_spec, ("tensorrt_rtx", "tensorrt"))):
        raise MissingCapabilityError(
            f"--target {config.target} asks for an engine, and no TensorRT is installed",
            "pip install 'dcp-deploy[rtx]', or leave --target out",
        )


def _check_target(config: BuildConfig) -> None:
    """UsageError for a GPU that nobody knows."""
    from ..export.tensorrt.targets import parse_targets

    if config.target:
        parse_targets(config.target)


def build_device(config: BuildConfig) -> str:
    """The torch device of a build."""
    return torch_device(config.device)


def numbers(config: BuildConfig, macs: int = 0) -> dict[str, Any]:
    """Every number of the effort for a teacher of so many MACs, the recipe's with "distill_" before their names."""
    work = config.work.for_teacher(macs).to_dict() if macs else config.work.to_dict()
    recipe = asdict(recipe_of(config, demo=config.is_demo))
    return {**work, **{f"distill_{name}": value for name, value in recipe.items()}}


def unmeasurable(config: BuildConfig, network: dict[str, Any]) -> str | None:
    """Why the quality of this build cannot be measured; None when it can."""
    from ..datasets.avatars import RESOLUTION

    if config.data is not None and (config.dataset != "demo" or config.teacher is not None):
        return "this stage measures no quality against the images of --data: dcp-deploy eval --data does"
    if config.dataset != "demo":
        return f"there are no real images of {config.dataset!r} here to compare with"
    if network["resolution"] != RESOLUTION or network["c_dim"]:
        return f"the demo's measures need an unconditional generator at {RESOLUTION} px"
    return None
