"""What a build is told: one validated object, the effort levels, and their TOML form."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from .errors import CorruptFileError, InputError, UsageError
from .teachers.presets import DATASETS, Dataset, find_dataset

__all__ = ["DATASETS", "EFFORTS", "BuildConfig", "Effort", "EffortName", "read_toml", "to_toml"]

EffortName = Literal["quick", "standard", "paper"]


@dataclass(frozen=True)
class Effort:
    """How long to score and measure; how long to distil is in ``compression.RECIPES``. Counts, and seconds."""

    score_latents: int
    score_directions: int
    evaluation_samples: int
    parity_latents: int
    bench_rounds: int
    bench_seconds: float
    refine_latents: int = 64
    full_up_to: float = math.inf
    """MACs of the largest teacher that gets these counts. For a larger one, fewer latents score, refine and compare."""

    def for_teacher(self, macs: int) -> Effort:
        """The counts for a teacher of so many MACs per image: in proportion above ``full_up_to``, down to a floor."""
        share = min(self.full_up_to / macs, 1.0)
        fewer = {
            name: max(round(getattr(self, name) * share), min(getattr(self, name), floor))
            for name, floor in (("score_latents", 10), ("refine_latents", 8), ("parity_latents", 16))
        }
        return replace(self, **fewer)

    def to_dict(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "full_up_to"}


EFFORTS: dict[EffortName, Effort] = {
    # The demo within ten minutes on two cores; a teacher of 256 px (45 G) still scored and refined within fifteen.
    "quick": Effort(
        full_up_to=1e9,
        score_latents=120,
        score_directions=10,
        evaluation_samples=3000,
        parity_latents=256,
        bench_rounds=50,
        bench_seconds=15.0,
    ),
    # An evening on one GPU. 1000 latents are said to rank channels about as 5000 do (DCP-GAN's README).
    "standard": Effort(
        score_latents=1000,
        score_directions=10,
        evaluation_samples=10_000,
        parity_latents=256,
        bench_rounds=200,
        bench_seconds=30.0,
    ),
    # The published numbers: 5000 latents, FID of 50,000 samples.
    "paper": Effort(
        score_latents=5000,
        score_directions=10,
        evaluation_samples=50_000,
        parity_latents=1024,
        bench_rounds=1000,
        bench_seconds=60.0,
    ),
}


class BuildConfig(BaseModel):
    """Everything ``build`` can be told. Construct it directly, or with :meth:`parse` for one-line UsageErrors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str = "demo"
    teacher: Path | None = None
    """A generator file in place of the preset's own."""
    data: Path | None = None
    """Real images: a folder, a zip file or an LMDB. None: the demo's, or the teacher's own samples."""
    resize: Literal["error", "crop"] = "error"
    """Images of ``data`` that have another size: refuse them, or take the centred square, scaled down."""
    mirror: bool = False
    """Flip half of the images of ``data`` left to right."""
    out: Path | None = None
    """Run directory; build/<dataset> when not given."""
    ratio: float = Field(default=0.7, ge=0, lt=1)
    """Share of the channels of every layer that goes."""
    target_macs: float | None = Field(default=None, gt=0, le=1)
    """Share of the teacher's MACs to keep, in place of ``ratio``: widths per layer that keep the most of the scores."""
    target_params: float | None = Field(default=None, gt=0, le=1)
    """The same for parameters."""
    align: int = Field(default=8, ge=1)
    """Kept channels become multiples of this."""
    score: Literal["diversity", "gradient", "content", "random", "weight-in", "weight-out", "style", "activation"] = (
        "weight-out"
    )
    """How channels are ranked; "diversity" is the published method, "content" looks at what ``mask`` finds."""
    refine: Literal["none", "svs", "reconstruct", "svs+reconstruct"] = "reconstruct"
    """What happens to the kept weights before training; "none" is the published method.

    Both defaults are what measured best on the demo at 70 % (docs/quality.md): FID 4.9 against 10.4 of diversity scores
    with weights left alone, three seeds, 544 steps; after the whole recipe, one seed, 2.1 against 3.5.
    """
    effort: EffortName = "quick"
    steps: int | None = Field(default=None, ge=1)
    """Distillation steps, in place of the effort's."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that every batch is taken in, one after the other: less memory for the same gradients."""
    devices: int = Field(default=1, ge=1)
    """GPUs that distil together, from ``cuda:0`` on."""
    train_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the convolutions while distilling."""
    keep: Literal["last", "best"] = "last"
    """The student: the average at the end, or where its FID (else its distance to the teacher) was lowest."""
    tensorboard: Path | None = None
    """A folder for the distillation's curves and pictures."""
    lpips: Path | None = None
    """Weights of torchvision's VGG16: LPIPS is the perceptual loss, which is off without it but for the demo."""
    inception: Path | None = None
    """Weights of torch-fidelity's Inception, which measures quality against ``data`` while distilling; by default
    those at hand, or fetched."""
    discriminator: Path | None = None
    """A training file whose discriminator the distillation's starts from; by default from scratch, as StyleKD's."""
    augment: bool = False
    """Change what the discriminator sees, as much as it overfits (adaptive augmentation)."""
    guide: Path | None = None
    """A training file whose discriminator's features teacher and student are compared by."""
    feature_gan: bool = False
    """A second discriminator, of the perceptual loss's features."""
    mask: Path | None = Field(default=None, validate_default=True)
    """A segmentation model as ONNX file: the L1, the perceptual loss and content scores look at what it finds only."""
    mask_background: str = Field(default="0,16", pattern=r"^\d+(,\d+)*$")
    """Its classes that do not count."""
    mask_inputs: Literal["imagenet", "unit", "signed"] = "imagenet"
    """The numbers that it takes for an image."""
    seed: int = Field(default=0, ge=0, lt=2**32)  # what numpy's RandomState takes
    device: str = "auto"
    """Where to score, distil and measure quality: "auto", "cpu", "cuda", "cuda:1"."""
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Of the exported graphs' convolutions, but for those that measured ranges or the gate keep in float32."""
    target: str | None = None
    """GPUs to build the engine for ("sm89", "RTX 4090,L4"), and then the build fails without one; None: a portable
    engine where TensorRT-RTX is installed, else none."""

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
            raise ValueError("it is about the images of --data, and none are given")
        return value

    @field_validator("feature_gan")
    @classmethod
    def _features_are_there(cls, value: bool, about: ValidationInfo) -> bool:
        if value and about.data.get("lpips") is None and about.data.get("dataset") != "demo":
            raise ValueError("it needs the features of --lpips FILE (the weights of VGG16)")
        return value

    @field_validator("mask")
    @classmethod
    def _content_scores_have_one(cls, value: Path | None, about: ValidationInfo) -> Path | None:
        if value is None and about.data.get("score") == "content":
            raise ValueError("content scores need a segmentation model as ONNX file")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, verb: str = "build") -> BuildConfig:
        """Validate plain values of a verb's flags. Raises UsageError naming the flag, the value and what it may be."""
        try:
            return cls(**values)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            raise UsageError("; ".join(map(_problem, problems)), f"See dcp-deploy {verb} --help.") from error

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> BuildConfig:
        """Read a file as ``build`` writes it into its run directory (config.toml)."""
        return cls.parse(read_toml(path))

    @property
    def preset(self) -> Dataset:
        """The data set's preset."""
        return DATASETS[self.dataset]

    @property
    def is_demo(self) -> bool:
        """Whether this is the demo as it ships, its teacher and its portraits; a teacher of one's own is none."""
        return self.dataset == "demo" and self.teacher is None and self.data is None

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.out if self.out is not None else Path("build") / self.dataset

    @property
    def widths_wanted(self) -> dict[str, Any]:
        """What ``compression.plan`` wants to know beside the scores."""
        return {name: getattr(self, name) for name in ("ratio", "align", "target_macs", "target_params")}

    @property
    def work(self) -> Effort:
        """The effort's numbers, but for distillation's."""
        return EFFORTS[self.effort]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, ``out`` resolved."""
        return {**self.model_dump(mode="json"), "out": str(self.directory)}


def _problem(error: Mapping[str, Any]) -> str:
    flag = "--" + ".".join(str(part) for part in error["loc"][:1]).replace("_", "-")
    if error["type"] == "extra_forbidden":
        return f"unknown setting {flag[2:]!r}; known: {', '.join(BuildConfig.model_fields)}"
    if error["type"] == "value_error":  # our own words are whole sentences
        return f"{flag}: {error['ctx']['error']}"
    return f"{flag} {error['input']}: {error['msg'][0].lower()}{error['msg'][1:]}"


# ---- TOML ----


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file's table, dashes in keys read as underscores. Raises InputError or CorruptFileError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}", "Give --config a TOML file.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Give --config a TOML file.") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is no text file: {error}", "Give --config a TOML file.") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CorruptFileError(
            f"{path} is not valid TOML: {error}", 'Write a line per flag, for instance: ratio = 0.7, dataset = "demo".'
        ) from error
    return {key.replace("-", "_"): value for key, value in table.items()}


def to_toml(values: Mapping[str, Any]) -> str:
    """A flat table of text, numbers, booleans, paths and lists of those. None is left out: TOML has no word for it."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # A TOML basic string is a JSON one, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


assert set(EFFORTS) == set(get_args(EffortName))
