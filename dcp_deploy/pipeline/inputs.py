"""What a build starts from, resolved once: teacher file, widths, recipe, device, mask and real images."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SCORES, BuildConfig, Effort
from ..devices import torch_device
from ..errors import InputError, MissingCapabilityError, UsageError
from ..extensions.functions import OwnFunction, find_function, parse_loss
from ..extensions.loggers import check_loggers
from ..gates import LATENTS, QUALITY, SPEED, Requirement, parse_requirements
from ..progress import Reporter
from ..teachers.downloads import cached, cached_path, fetch
from ..teachers.hub import cached_from_hub, fetch_from_hub, is_hub, parse_address
from .distilling import loggers_of, mask_of, recipe_of

if TYPE_CHECKING:
    from ..compression import DistillConfig, PruningPlan
    from ..compression.masks import SegmentationMask
    from ..datasets.images import ImageSet
    from ..generators import GeneratorConfig

DATA = "--data"
DEMO_REQUIREMENTS = ("fid<3", "recall>=0.85*teacher", "mode_coverage>=0.95")
"""What a student of the demo must reach by default: `quick` does, a student of 60 steps does not."""


@dataclass(frozen=True)
class TeacherFile:
    """The teacher's file, and where it came from (``origin``, for run.json)."""

    path: Path
    origin: dict[str, Any]


@dataclass(frozen=True)
class BuildInputs:
    """What all stages of a build receive, made by :func:`resolve_inputs`. Models and images are opened only once."""

    config: BuildConfig
    teacher: TeacherFile
    pruning_plan: PruningPlan
    """The widths and costs of teacher and student. They depend on how many channels are removed, not on which."""
    effort: Effort
    """The counts of the effort level for a teacher of this size."""
    recipe: DistillConfig
    device: str
    mask: SegmentationMask | None
    images: ImageSet | None
    """The images of --data."""
    requirements: Sequence[Requirement]
    """What the student must reach."""
    own_score: OwnFunction | None
    """The user's function that scores the channels; None for a score of this package."""
    not_measurable: str | None
    """Why the demo's quality measures do not fit this build; None if they do."""

    @property
    def demo_measurable(self) -> bool:
        """Whether the demo's features and portraits fit this build's teacher, so that quality can be measured."""
        return self.not_measurable is None

    def image_facts(self) -> dict[str, Any]:
        """Describe the real images for run.json and the plan. ``skipped`` grows as bad images are found."""
        return real_facts(self.images, self.recipe, demo_measurable=self.demo_measurable)


def resolve_inputs(config: BuildConfig, reporter: Reporter, teacher: TeacherFile | None = None) -> BuildInputs:
    """Resolve everything that the stages need to know. Writes nothing, but for a fetched teacher into the cache.

    ``teacher`` is the teacher's file if the caller has found it already. Raises what opening the device, the mask, the
    teacher (:func:`given_teacher`, :func:`fetch_teacher`) and the images (:func:`open_data`) raises.
    """
    from ..distributed.joining import check_devices
    from ..evaluation.latents import why_not_inverted
    from ..generators import count_macs

    check_machine(config)
    device, mask = torch_device(config.device), mask_of(config)
    check_devices(config.devices, device)
    teacher = teacher or given_teacher(config) or fetch_teacher(config, reporter)
    plan = _plan_widths(config, teacher)
    not_measurable = why_not_measurable(config, plan.teacher)
    return BuildInputs(
        config=config,
        teacher=teacher,
        pruning_plan=plan,
        effort=config.counts.for_teacher(count_macs(plan.teacher)),
        recipe=recipe_of(config, demo_recipe=config.demo_recipe),
        device=device,
        mask=mask,
        images=open_data(config, plan.teacher),
        requirements=requirements_of(config, not_measurable, why_not_inverted(plan.config, device)),
        own_score=own_score_of(config),
        not_measurable=not_measurable,
    )


def own_score_of(config: BuildConfig) -> OwnFunction | None:
    """Return the user's function that ``config.score`` names, which imports it; None for a score of this package."""
    return None if config.score in SCORES else find_function("score", config.score)


def check_machine(config: BuildConfig) -> None:
    """Fail before any work, and before a download, for what a later stage lacks or cannot do.

    Raises MissingCapabilityError for a package (also of a logger) or a GPU for --target, UsageError for an unknown GPU,
    several targets, and a score or loss of the user's that is not found, InputError for a file that does not exist.
    """
    from ..compression.pruning.planning import given_targets

    given = config.plan_arguments
    given_targets(
        config.ratio, macs=given["target_macs"], parameters=given["target_params"], latency=given["target_latency"]
    )
    check_loggers(loggers_of(config))
    own_score_of(config)
    for text in config.loss or []:
        find_function("loss", parse_loss(text)[0])
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingCapabilityError(
            "build compares and measures the exported files with ONNX Runtime, which is not installed",
            "Install it: pip install 'dcp-deploy[cpu]', or [gpu] in its place.",
        )
    for name in ("lpips", "inception", "discriminator"):
        path: Path | None = getattr(config, name)
        if path is not None and not path.is_file():
            raise InputError(f"--{name} {path} does not exist", "Check the path.")
    if config.target:
        _check_target(config.target)


def _check_target(target: str) -> None:
    from ..export.tensorrt.targets import FLAVOURS, choose_flavour, parse_targets, present_gpu

    targets = parse_targets(target)
    flavour = choose_flavour("auto", targets)
    package, extra = FLAVOURS[flavour]
    if importlib.util.find_spec(package) is None:
        raise MissingCapabilityError(
            f"--target {target} asks for an engine of {flavour}, and the package {package} is not installed",
            f"Install it: pip install 'dcp-deploy[{extra}]', or leave --target out.",
        )
    if flavour == "tensorrt" and targets != (present_gpu(),):
        raise MissingCapabilityError(
            f"--target {target}: TensorRT builds on the GPU it builds for; this machine has {present_gpu() or 'none'}",
            "Build without --target here, and the engine there: dcp-deploy engine student.onnx.",
        )


# ---- the teacher ----


def given_teacher(config: BuildConfig) -> TeacherFile | None:
    """Return the teacher file of --teacher, or the one that ships for the preset; None if it has to be fetched.

    Raises InputError if the given file does not exist, MissingCapabilityError if this installation lacks its file.
    """
    if is_hub(config.teacher):
        return None
    if config.teacher is not None:
        if not config.teacher.is_file():
            raise InputError(f"the teacher file {config.teacher} does not exist", "Check the path given to --teacher.")
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


def cached_teacher(config: BuildConfig) -> TeacherFile | None:
    """Return the teacher from the cache, the Hub's or our own; None if it is not there."""
    if is_hub(config.teacher):
        kept = cached_from_hub(parse_address(config.teacher))
        return None if kept is None else TeacherFile(*kept)
    fetched = cached(config.preset.teacher)
    return None if fetched is None else TeacherFile(fetched.path, fetched.to_dict())


def fetch_teacher(config: BuildConfig, reporter: Reporter) -> TeacherFile:
    """Return the teacher from the cache, or download it: the preset's, or the one that --teacher names on the Hub.

    Raises MissingCapabilityError if it cannot be downloaded, CorruptFileError if its content is not as expected.
    """
    from ..datasets.images import identify_images

    if is_hub(config.teacher):
        return TeacherFile(*fetch_from_hub(parse_address(config.teacher), say=reporter.message))
    teacher = config.preset.teacher
    if config.data is not None and cached_path(teacher) is None:
        identify_images(config.data)  # fail before the download; whether the images fit shows when the teacher is read
    with reporter.task(f"fetch {teacher.file}, MB") as progress:
        fetched = fetch(teacher, say=reporter.message, progress=progress)
    return TeacherFile(fetched.path, fetched.to_dict())


def _plan_widths(config: BuildConfig, file: TeacherFile) -> PruningPlan:
    """Plan with random scores: widths and costs depend on how many channels are removed, not on which."""
    from ..checkpoints import read_checkpoint
    from ..compression import plan, score

    try:
        # The teacher stage reports the reader's notes.
        teacher = read_checkpoint(file.path, network=config.network).generator
    except InputError as error:
        if "url" not in file.origin:
            raise
        again = f"It came from {file.origin['url']}: delete {file.path.parent} to fetch it again."
        raise type(error)(error.message, f"{error.remedy}\n{again}".strip()) from error
    if config.target_latency is not None:
        teacher.to(torch_device(config.device))
    return plan(teacher, score(teacher, method="random"), **config.plan_arguments)


# ---- real images and quality ----


def open_data(config: BuildConfig, teacher: GeneratorConfig) -> ImageSet | None:
    """Open the images of --data for the teacher's image size and classes; None without --data.

    Raises the same errors as :func:`open_images`.
    """
    from ..datasets.images import open_images

    if config.data is None:
        return None
    return open_images(config.data, resolution=teacher.image_size, resize=config.resize, c_dim=teacher.c_dim)


def real_facts(images: ImageSet | None, recipe: DistillConfig, *, demo_measurable: bool) -> dict[str, Any]:
    """Describe the real images in plain values: those of --data, else the demo's portraits or the teacher's samples.

    Only a discriminator looks at real images in training.
    """
    other = "the demo's portraits, drawn on the fly" if demo_measurable else "the teacher's own samples"
    facts = {"real": other, "in_training": recipe.gan > 0, "mirrored": recipe.mirror}
    return facts if images is None else {**facts, "real": DATA, **images.facts()}


def real_words(facts: Mapping[str, Any]) -> str:
    """Put the result of :func:`real_facts` into one line."""
    words = str(facts["real"])
    if words == DATA:
        left_out = [f"{facts['skipped']} of them bad and skipped"] if facts["skipped"] else []
        left_out += [f"other files ignored: {facts['ignored_files']}"] if facts["ignored_files"] else []
        words = ", ".join([f"{facts['images']} of {facts['path']} ({facts['kind']})", *left_out])
        if not facts["in_training"]:
            words += (
                "; training does not look at them because this recipe has no discriminator (--effort standard has "
                "one): only the report's picture shows them"
            )
    return words


def why_not_measurable(config: BuildConfig, teacher: GeneratorConfig) -> str | None:
    """Return why the demo's quality measures do not fit this build; None if they do."""
    from ..datasets.canvas import RESOLUTION

    if config.data is not None and (config.dataset != "demo" or config.teacher is not None):
        return "this stage measures no quality against the images of --data: dcp-deploy eval --data does"
    if config.dataset != "demo":
        return f"there are no real images of {config.dataset!r} here to compare with"
    if teacher.image_size != (RESOLUTION, RESOLUTION) or teacher.c_dim:
        return f"the demo's measures need an unconditional generator at {RESOLUTION} px"
    return None


def requirements_of(config: BuildConfig, not_measurable: str | None, not_inverted: str | None) -> list[Requirement]:
    """Return what the student must reach: the given requirements, else for the demo :data:`DEMO_REQUIREMENTS`.

    Raises UsageError for a figure that this build does not measure: of quality (``not_measurable``: why), or of
    inverted images (``not_inverted``).
    """
    defaults = DEMO_REQUIREMENTS if config.demo_recipe and not_measurable is None else ()
    parsed = parse_requirements(config.require or defaults, (*QUALITY, *LATENTS, SPEED))
    for one in parsed:
        if not_measurable is not None and one.metric in QUALITY:
            raise UsageError(
                f"--require {one.text!r} cannot be checked: {not_measurable}",
                "Leave it out, and use dcp-deploy eval --require afterwards.",
            )
        if not_inverted is not None and one.metric == "inverted_mse":
            raise UsageError(f"--require {one.text!r} cannot be checked: {not_inverted}", "Leave it out.")
    return parsed


def effort_numbers(effort: Effort, recipe: DistillConfig) -> dict[str, Any]:
    """Return every number of the effort and, with "distill_" before their names, of the recipe."""
    return {**effort.to_dict(), **{f"distill_{name}": value for name, value in recipe.to_dict().items()}}
