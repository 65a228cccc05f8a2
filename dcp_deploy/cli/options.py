"""Flags that verbs share, and what the shell offers for a value when Tab is pressed.

What is offered comes from where it is decided, imported at that moment; torch never is, so that Tab answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..teachers.presets import find_dataset

if TYPE_CHECKING:
    from ..generators import GeneratorConfig

from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer

from ..config import DATASETS, EFFORTS, BuildConfig

Completion = Callable[[str], list[str]]

# ---- what Tab offers ----


def offered(words: str, complete: Completion, *flags: str) -> Any:
    """An option with help, and with values to choose from."""
    return typer.Option(*flags, help=words, autocompletion=complete)


def one_of(*words: str) -> Completion:
    """The words that begin as typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def setting(name: str) -> Completion:
    """What a setting of ``build`` may be."""
    return one_of(*get_args(BuildConfig.model_fields[name].annotation))


def verbs(incomplete: str) -> list[str]:
    """Verbs with a published schema."""
    from ..schemas import MODELS

    return one_of(*MODELS)(incomplete)


def targets(incomplete: str) -> list[str]:
    """GPUs of an engine, the last of a list that is separated by commas. A shell would cut names with a space."""
    from ..export.tensorrt.targets import PRODUCTS

    before, comma, last = incomplete.rpartition(",")
    names = [*PRODUCTS, *(name for products in PRODUCTS.values() for name in products if " " not in name)]
    return [f"{before}{comma}{name}" for name in one_of(*names)(last)]


def backends(incomplete: str) -> list[str]:
    """What runs a model."""
    from ..export.runners.loading import BACKENDS

    return one_of(*BACKENDS)(incomplete)


datasets = one_of(*DATASETS)
devices = one_of("auto", "cpu", "cuda")

# ---- flags ----

SCORE_HELP = "diversity, gradient, content (with --mask), activation, style, weight-in, weight-out or random."
MACS_HELP = "Share of the teacher's MACs to keep, with the best widths for it; instead of --ratio."
PARAMS_HELP = "The same for parameters."
_REFINE_HELP = "Adjust weights after pruning: none, reconstruct, svs or svs+reconstruct."
_RESIZE_HELP = "Images of another size: error; crop to the centre."
_EFFORT_HELP = f"How long to work: {', '.join(EFFORTS)}."

Out = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
Score = Annotated[str, offered(SCORE_HELP, setting("score"))]
Refine = Annotated[str, offered(_REFINE_HELP, setting("refine"))]
Resize = Annotated[str, offered(_RESIZE_HELP, setting("resize"))]
EffortOption = Annotated[str, offered(_EFFORT_HELP, setting("effort"))]

# ---- of a distillation ----

Accumulate = Annotated[int, typer.Option(help="Take every batch in this many parts: less memory, same gradients.")]
Devices = Annotated[int, typer.Option(help="GPUs that distil together, from cuda:0 on.")]
TrainPrecision = Annotated[
    str, offered("Of the convolutions in training: fp32; bf16, fp16 on GPUs.", setting("train_precision"))
]
Keep = Annotated[str, offered("The student: last; best by FID, else by the distance to the teacher.", setting("keep"))]
Tensorboard = Annotated[Path | None, typer.Option(help="Folder for the training's curves and pictures.")]
LpipsWeights = Annotated[Path | None, typer.Option(help="VGG16's weights file: LPIPS as the perceptual loss.")]
InceptionWeights = Annotated[
    Path | None, typer.Option(help="torch-fidelity's weights, for FID against --data; fetched when not given.")
]
DiscriminatorFile = Annotated[
    Path | None, typer.Option(help="Training file (.pkl, rosinality .pt) whose discriminator to start from.")
]
Augment = Annotated[bool, typer.Option("--augment", help="Change what the discriminator sees, as it overfits (ADA).")]
Guide = Annotated[
    Path | None, typer.Option(help="Training file (.pkl, rosinality .pt) by whose discriminator's features to compare.")
]
FeatureGan = Annotated[
    bool, typer.Option("--feature-gan", help="A second discriminator, of the perceptual loss's features.")
]
Mask = Annotated[
    Path | None, typer.Option(help="Segmentation model (ONNX): losses and content scores look at what it finds only.")
]
MaskBackground = Annotated[str, typer.Option(help="Classes of the mask model that do not count.")]
MaskInputs = Annotated[
    str, offered("Numbers that the mask model takes: imagenet, unit or signed.", setting("mask_inputs"))
]


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """ "1,8,64" -> (1, 8, 64); ranges too: "0-3" -> (0, 1, 2, 3). Raises UsageError naming the flag."""
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            found = range(int(first), int(last) + 1) if dash else [int(first)]
            if not found:
                raise ValueError(f"{part} counts down")
            numbers += found
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of whole numbers", "Write for instance 1,8,64 or 0-7.") from None
    return tuple(numbers)


def whole_number(flag: str, text: str) -> int:
    """A number; raises UsageError naming the flag."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no whole number", "Write for instance 1000, or auto.") from None


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """ "0.5,0.7,1" -> (0.5, 0.7, 1.0). Raises UsageError naming the flag."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of numbers", "Write for instance 0.5,0.7,1.") from None


def milliseconds(text: str) -> float:
    """ "3ms" or "3" -> 3.0."""
    try:
        return float(text.removesuffix("ms"))
    except ValueError:
        raise UsageError(f"--target-latency {text!r} is no time", "Write for instance 3ms or 0.5ms.") from None


def shard_of(text: str) -> tuple[int, int]:
    """ "1/4" -> (1, 4)."""
    first, _, count = text.partition("/")
    try:
        return int(first), int(count)
    except ValueError:
        raise UsageError(f"--shard {text!r} is no part of a whole", "Write 0/4, 1/4, 2/4 and 3/4.") from None


def wants_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise UsageError(f"--out {path} does not end in {suffix}", f"Name it {path.with_suffix(suffix)}.")


def check_dataset(dataset: str, teacher: GeneratorConfig) -> None:
    """UsageError for a data set that there is not, or the demo's for a teacher of other images."""
    from ..datasets.canvas import RESOLUTION

    if dataset:
        find_dataset(dataset)
    if dataset == "demo" and (teacher.resolution != RESOLUTION or teacher.c_dim):
        kind = f"{teacher.resolution} px" + (f" with {teacher.c_dim} classes" if teacher.c_dim else "")
        raise UsageError(
            f"--dataset demo has images of {RESOLUTION} px without classes, the teacher draws {kind}",
            "Leave it out: the teacher's own samples stand in, or give --data.",
        )
