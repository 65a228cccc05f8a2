"""The settings of a build: one validated object, and its TOML form."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from .efforts import ALIGN, EFFORT, EFFORTS, HYBRID_SHARE, RATIO, REFINE, SCORE, Effort, EffortName
from .errors import CorruptFileError, InputError, UsageError, as_share, choose
from .extensions.functions import check_name, parse_loss
from .extensions.loggers import parse_logger
from .gates import LATENTS, QUALITY, SPEED, parse_requirements
from .teachers.presets import DATASETS, Dataset, find_dataset

__all__ = ["DATASETS", "EFFORTS", "BuildConfig", "Effort", "EffortName", "read_toml", "to_toml"]


SIZE_SHARES = ("ratio", "target_macs", "target_params")
"""The settings that give the size of a student as a share; a sweep takes several values of one."""
SHARES = (*SIZE_SHARES, "hybrid_share")


SIZES = (*SIZE_SHARES, "target_latency")
"""The settings that decide how large a student is."""


def milliseconds(text: str) -> float:
    """Read "3ms" or "3" as 3.0. Raises ValueError for anything else."""
    try:
        value = float(text.removesuffix("ms"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{text!r} is not a time: write for example 3ms or 0.5ms")
    return value


class BuildConfig(BaseModel):
    """All settings of ``build``. Construct it directly, or with :meth:`parse` for one-line UsageErrors.

    The first paragraph below each field is also the help of its flag.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    dataset: str = "demo"
    """Preset of the teacher and the real images; dcp-deploy datasets lists them."""
    teacher: Path | None = None
    """A generator file to use instead of the preset's teacher, or hf://OWNER/NAME/FILE on the Hugging Face Hub."""
    network: str | None = None
    """Which generator of a file that holds several, such as G or G_ema; dcp-deploy inspect lists them.

    By default the moving average. Verbs that take ``teacher`` beside another file choose in the teacher's.
    """
    data: Path | None = None
    """Real images: a folder, a zip file or an LMDB. By default the demo's portraits, or the teacher's own samples."""
    resize: Literal["error", "crop"] = "error"
    """What to do with images of ``data`` of another size: refuse them, or scale down their centred part."""
    mirror: bool = False
    """Flip half of the images of ``data`` left to right."""
    out: Path | None = None
    """Run directory [``build/<dataset>``]."""
    ratio: float = Field(default=RATIO, ge=0, lt=1)
    """Share of the channels of every layer that is removed: 0.7 removes 70 %."""
    target_macs: float | None = Field(default=None, gt=0, le=1)
    """Share of the teacher's MACs to keep, instead of ``ratio``. The widths keep as much of the scores as possible."""
    target_params: float | None = Field(default=None, gt=0, le=1)
    """Share of the teacher's parameters to keep, instead of ``ratio``."""
    target_latency: str | None = None
    """Time of one image in torch on this device, such as 3ms, instead of ``ratio``.

    Each layer is measured anew for every plan, so two builds can differ a little.
    """
    align: int = Field(default=ALIGN, ge=1)
    """Keep multiples of this many channels in each layer."""
    score: Literal[
        "diversity", "gradient", "content", "change", "hybrid", "random", "weight-in", "weight-out", "style",
        "activation",
    ] | str = SCORE  # fmt: skip
    """How channels are ranked: "diversity" is published, "content" scores the region of ``mask``, or your own function.

    "change" keeps the channels from which changes of the image can be rebuilt, "hybrid" takes a part of them. Your own
    function is given as module:function or by the name of an entry point (docs/extending.md).
    """
    hybrid_share: float = Field(default=HYBRID_SHARE, ge=0, le=1)
    """Share of the kept channels that "hybrid" takes from "change"; the others come from "weight-out"."""
    refine: Literal["none", "svs", "reconstruct", "svs+reconstruct"] = REFINE
    """How the kept weights are adjusted before training; "none" is the published method.

    The defaults of ``score`` and ``refine`` measured best at 70 %, on photographs and, after short training, on the
    demo (docs/quality.md).
    """
    effort: EffortName = EFFORT
    """Effort level: how long each stage works."""
    steps: int | None = Field(default=None, ge=1)
    """Distillation steps, instead of the effort's."""
    accumulate: int = Field(default=1, ge=1)
    """Parts into which every batch is split, one after the other: less memory for the same gradients."""
    devices: int = Field(default=1, ge=1)
    """Number of GPUs that distil together, from ``cuda:0`` on; without a GPU, of processes on the CPU."""
    train_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the convolutions during distillation; bf16 and fp16 are for GPUs, and slow on most CPUs."""
    keep: Literal["last", "best"] = "last"
    """Which moving average becomes the student: the last, or the one of lowest FID (else distance to the teacher)."""
    logger: list[str] | None = None
    """Record the distillation with csv, tensorboard, wandb or mlflow; =PLACE is a folder, project or address.

    May be repeated, for instance "wandb=faces" and "mlflow=http://host:5000". By default the files lie in ``logs/`` of
    the run directory.
    """
    tensorboard: Path | None = None
    """The same as ``logger`` tensorboard=FOLDER."""
    loss: list[str] | None = None
    """A loss of your own as module:function=WEIGHT, or the name of an entry point. May be repeated.

    docs/extending.md says how to write one. The weight is 1 if it is left out.
    """
    lpips: Path | None = None
    """Weights of torchvision's VGG16 (vgg16-397923af.pth), to use LPIPS as perceptual loss.

    Without them only the demo has a perceptual loss.
    """
    inception: Path | None = None
    """Weights of torch-fidelity's Inception, which measures quality against ``data`` during distillation.

    By default weights from a cache, or downloaded ones.
    """
    discriminator: Path | None = None
    """Training file (.pkl, rosinality .pt) with the discriminator to start from.

    By default a fresh one, as in StyleKD.
    """
    mask: Path | None = Field(default=None, validate_default=True)
    """A segmentation model as ONNX file: L1, perceptual loss and content scores use only the region that it marks."""
    mask_background: str = Field(default="0,16", pattern=r"^\d+(,\d+)*$")
    """Classes of the segmentation model that do not count, such as "0,16"."""
    mask_inputs: Literal["imagenet", "unit", "signed"] = "imagenet"
    """Range of the segmentation model's input: ImageNet's normalisation, [0, 1] or [-1, 1]."""
    seed: int = Field(default=0, ge=0, lt=2**32)  # what numpy's RandomState takes
    """Seed of all random numbers."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads to compute with: by default OMP_NUM_THREADS, else what other processes leave free; bench takes all.

    All backends get the same number. A training that continues keeps the number that it began with.
    """
    device: str = "auto"
    """Where torch computes: "auto", "cpu", "cuda", "cuda:1"."""
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Precision of the exported graphs' convolutions, except layers that measured ranges or the gate keep in fp32."""
    target: str | None = None
    """GPUs to build the engine for, such as "sm89" or "RTX 4090,L4". Without TensorRT the build then fails.

    None: a portable engine if TensorRT-RTX is installed, else no engine.
    """

    require: list[str] | None = None
    """A figure that the student must reach, such as "fid<2", "recall>=0.95*teacher" or "speedup>5".

    May be repeated; a requirement that is missed gives exit code 5, after everything was written. By default the demo
    has some (``pipeline.inputs.DEMO_REQUIREMENTS``), other teachers none; "none" leaves them out.
    """
    wait: float = Field(default=0.0, ge=0)
    """Wait up to this many seconds for a quiet machine before latency is measured."""

    @field_validator("require")
    @classmethod
    def _comparisons(cls, texts: list[str] | None) -> list[str] | None:
        try:
            parse_requirements(texts or [], (*QUALITY, *LATENTS, SPEED))
        except UsageError as error:
            raise ValueError(f"{error.message.removeprefix('--require ')}. {error.remedy}".removesuffix(".")) from error
        return texts or None

    @field_validator("target_latency")
    @classmethod
    def _a_time(cls, text: str | None) -> str | None:
        if text is not None:
            milliseconds(text)
        return text

    @field_validator("score")
    @classmethod
    def _known_score(cls, name: str) -> str:
        try:
            check_name("score", name, SCORES)
        except UsageError as error:
            raise ValueError(f"--score {name} is not a choice. {error.remedy}".removesuffix(".")) from error
        return name

    @field_validator("loss", "logger")
    @classmethod
    def _parsed(cls, texts: list[str] | None, about: ValidationInfo) -> list[str] | None:
        with _as_value_error():
            for text in texts or []:
                (parse_loss if about.field_name == "loss" else parse_logger)(text)
        return texts or None

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        try:
            return find_dataset(name).name
        except UsageError as error:
            raise ValueError(f"{error.message}. {error.remedy}") from error

    @field_validator("resize", "mirror", "inception")
    @classmethod
    def _only_with_data(cls, value: str | bool | Path | None, about: ValidationInfo) -> str | bool | Path | None:
        if value not in ("error", False, None) and about.data.get("data") is None:
            raise ValueError("it applies to the images of --data, which is not given")
        return value

    @field_validator("mask")
    @classmethod
    def _needed_by_content_scores(cls, value: Path | None, about: ValidationInfo) -> Path | None:
        if value is None and about.data.get("score") == "content":
            raise ValueError("content scores need a segmentation model as ONNX file")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, verb: str = "build") -> BuildConfig:
        """Validate plain values of a verb's flags. Raises UsageError with the flag, the value and what is allowed."""
        try:
            return cls(**values)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            raise UsageError("; ".join(map(_problem, problems)), f"See dcp-deploy {verb} --help.") from error

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> BuildConfig:
        """Read a file like the config.toml that ``build`` writes into its run directory."""
        return cls.parse(read_toml(path))

    @property
    def preset(self) -> Dataset:
        """The data set's preset."""
        return DATASETS[self.dataset]

    @property
    def demo_recipe(self) -> bool:
        """Whether the demo's own recipes apply: its data set, with the teacher that ships and its own portraits."""
        return self.dataset == "demo" and self.teacher is None and self.data is None

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.out if self.out is not None else Path("build") / self.dataset

    @property
    def plan_arguments(self) -> dict[str, Any]:
        """Arguments of ``compression.plan`` besides the scores."""
        latency = None if self.target_latency is None else milliseconds(self.target_latency)
        shares = {name: getattr(self, name) for name in ("ratio", "align", "target_macs", "target_params")}
        return {**shares, "target_latency": latency}

    @property
    def counts(self) -> Effort:
        """The counts of the effort level, for a teacher of any size."""
        return EFFORTS[self.effort]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; ``out`` is the run directory."""
        return {**self.model_dump(mode="json"), "out": str(self.directory)}


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Turn a UsageError into the ValueError that pydantic expects of a validator."""
    try:
        yield
    except UsageError as error:
        raise ValueError(f"{error.message}. {error.remedy}".removesuffix(".")) from error


def choices_of(name: str) -> tuple[Any, ...]:
    """Return the choices of a field of BuildConfig; empty if it is not a choice."""
    annotation = BuildConfig.model_fields[name].annotation
    literals = [kind for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal]
    return get_args(literals[0]) if literals else ()


SCORES = choices_of("score")
"""The scores of this package."""


def _problem(error: Mapping[str, Any]) -> str:
    flag = "--" + ".".join(str(part) for part in error["loc"][:1]).replace("_", "-")
    if error["type"] == "extra_forbidden":
        return f"unknown setting {flag[2:]!r}; known: {', '.join(BuildConfig.model_fields)}"
    if error["type"] == "value_error":  # raised by the validators above
        words = str(error["ctx"]["error"])
        return words if words.startswith(flag) else f"{flag}: {words}"
    words = f"{flag} {error['input']}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "literal_error":
        remedy = choose(error["input"], choices_of(error["loc"][0]))
        words = f"{flag} {error['input']} is not a choice. {remedy}".removesuffix(".")
    elif error["loc"][0] in SHARES and error["type"].startswith("less_than"):
        words = f"{words}. {as_share(error['input'])}".removesuffix(".")
    return words


# ---- TOML ----


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file; dashes in keys become underscores. Raises InputError or CorruptFileError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Give --config a TOML file.") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not a text file: {error}", "Give --config a TOML file.") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CorruptFileError(
            f"{path} is not valid TOML: {error}", 'Write a line per flag, for instance: ratio = 0.7, dataset = "demo".'
        ) from error
    return {key.replace("-", "_"): value for key, value in table.items()}


def to_toml(values: Mapping[str, Any]) -> str:
    """Write a flat table of text, numbers, booleans, paths and lists of those. None is left out."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # A TOML basic string is a JSON string, except that TOML requires DEL to be escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
