"""The flags that verbs share: help texts, shell completion, and the reading of their values.

Completions import what they offer when Tab is pressed. They never import torch, so that Tab answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.markup import escape

from ..config import DATASETS, BuildConfig, choices_of
from ..errors import UsageError
from ..sizes import pixels
from ..teachers.presets import find_dataset

if TYPE_CHECKING:
    from ..generators import GeneratorConfig

Completion = Callable[[str], list[str]]
T = TypeVar("T")


def option(
    words: str, *flags: str, complete: Completion | None = None, panel: str | None = None, **further: Any
) -> Any:
    """Declare an option. Brackets in its help are shown, not read as markup."""
    return typer.Option(*flags, help=escape(words), autocompletion=complete, rich_help_panel=panel, **further)


def choice(words: str, *values: str) -> Any:
    """Declare an option whose values are completed."""
    return option(words, complete=one_of(*values))


# ---- completion of values ----


def one_of(*words: str) -> Completion:
    """Complete one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def values_of(name: str) -> Completion:
    """Complete the values of a field of BuildConfig."""
    return one_of(*choices_of(name))


def verbs(incomplete: str) -> list[str]:
    """Complete a verb that has a published schema."""
    from ..schemas import MODELS

    return one_of(*MODELS)(incomplete)


def targets(incomplete: str) -> list[str]:
    """Complete the last GPU of a comma-separated list. Names with a space are left out: a shell would cut them."""
    from ..export.tensorrt.targets import PRODUCTS

    before, comma, last = incomplete.rpartition(",")
    names = [*PRODUCTS, *(name for products in PRODUCTS.values() for name in products if " " not in name)]
    return [f"{before}{comma}{name}" for name in one_of(*names)(last)]


def backends(incomplete: str) -> list[str]:
    """Complete a backend that runs models."""
    from ..export.runners.loading import BACKENDS

    return one_of(*BACKENDS)(incomplete)


datasets = one_of(*DATASETS)
devices = one_of("auto", "cpu", "cuda")

# ---- the fields of BuildConfig as flags ----

RUNNING = "Running"
PANELS = {
    "Teacher and data": ("dataset", "teacher", "network", "data", "resize", "mirror"),
    "Pruning": ("score", "hybrid_share", "ratio", "align", "target_macs", "target_params", "target_latency", "refine"),
    "Distillation": (
        "steps", "accumulate", "devices", "train_precision", "keep", "logger", "tensorboard", "loss", "lpips",
        "discriminator", "mask", "mask_background", "mask_inputs",
    ),
    "Export": ("precision", "target"),
    "Measuring": ("inception", "require", "wait"),
    RUNNING: ("out", "effort", "seed", "threads", "device"),
}  # fmt: skip
"""The fields of BuildConfig by the help panel that shows them."""

_COMPLETIONS = {"dataset": datasets, "target": targets, "device": devices}


def flag_of(name: str) -> str:
    """Return the flag of a field of BuildConfig."""
    return f"--{name.replace('_', '-')}"


def help_of(name: str) -> str:
    """Return the help of a field: the first paragraph of its docstring, and its choices."""
    words = " ".join((BuildConfig.model_fields[name].description or "").split("\n\n")[0].split())
    words = re.sub(
        "``(.+?)``", lambda code: flag_of(code[1]) if code[1] in BuildConfig.model_fields else code[1], words
    )
    choices = choices_of(name)
    return f"{words} One of {', '.join(choices)}." if choices else words


def setting(name: str) -> Any:
    """Declare the option of a field of BuildConfig."""
    panel = next(panel for panel, names in PANELS.items() if name in names)
    flags = [flag_of(name), *(["-o"] if name == "out" else [])]
    complete = values_of(name) if choices_of(name) else _COMPLETIONS.get(name)
    return option(help_of(name), *flags, complete=complete, panel=panel)


def setting_parameters(names: Iterable[str]) -> list[Parameter]:
    """Return the parameters that typer makes flags of, with the types and defaults of BuildConfig's fields.

    They come in the order of ``PANELS``. A choice is taken as text: BuildConfig.parse rejects a wrong one with a better
    message.
    """
    order = [name for names in PANELS.values() for name in names]
    parameters = []
    for name in sorted(names, key=order.index):
        field = BuildConfig.model_fields[name]
        kind: Any = str if choices_of(name) else field.annotation
        annotation = Annotated[kind, setting(name)]
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation))
    return parameters


# ---- flags of several verbs ----

Out = Annotated[Path, option("File to write.", "--out", "-o")]
Resize = Annotated[str, setting("resize")]
Refine = Annotated[str, setting("refine")]
Seed = Annotated[int, setting("seed")]
Network = Annotated[str | None, setting("network")]
Device = Annotated[str, setting("device")]
Threads = Annotated[int | None, setting("threads")]
DryRun = Annotated[bool, option("Print the plan and write nothing.", "--dry-run", panel=RUNNING)]
Lpips = Annotated[Path | None, option("Weights of torchvision's VGG16 (vgg16-397923af.pth), for LPIPS.")]

# ---- values ----


def _parsed(parse: Callable[[str], T], flag: str, text: str, wanted: str, example: str) -> T:
    try:
        return parse(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not {wanted}", f"Write for example {example}.") from None


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """Parse a list with ranges: "1,8,64" -> (1, 8, 64), "0-3" -> (0, 1, 2, 3). UsageError names the flag."""

    def parse(text: str) -> tuple[int, ...]:
        numbers: list[int] = []
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            found = range(int(first), int(last) + 1) if dash else [int(first)]
            if not found:
                raise ValueError(f"{part} counts down")
            numbers += found
        return tuple(numbers)

    return _parsed(parse, flag, text, "a list of whole numbers", "1,8,64 or 0-7")


def slot_range(flag: str, text: str) -> tuple[int, int]:
    """Parse the first and last slot: "4-7" -> (4, 7), "4" -> (4, 4). UsageError names the flag."""

    def parse(text: str) -> tuple[int, int]:
        first, dash, last = text.partition("-")
        slots = int(first), int(last if dash else first)
        if slots[0] > slots[1]:
            raise ValueError(f"{text} counts down")
        return slots

    return _parsed(parse, flag, text, "one slot or a range of slots", "4-7")


def whole_number(flag: str, text: str) -> int:
    """Parse a number that may also be a word elsewhere. UsageError names the flag."""
    return _parsed(int, flag, text, "a whole number", "1000")


def count_or_all(flag: str, text: str) -> int | None:
    """Parse a number, or "all" as None. UsageError names the flag."""
    return _parsed(lambda text: None if text == "all" else int(text), flag, text, "a whole number", "10000, or all")


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """Parse a list: "0.5,0.7,1" -> (0.5, 0.7, 1.0). UsageError names the flag."""
    return _parsed(lambda text: tuple(map(float, text.split(","))), flag, text, "a list of numbers", "0.5,0.7,1")


def shard_of(flag: str, text: str) -> tuple[int, int]:
    """Parse a shard: "1/4" -> (1, 4). UsageError names the flag."""

    def parse(text: str) -> tuple[int, int]:
        index, _, count = text.partition("/")
        return int(index), int(count)

    return _parsed(parse, flag, text, "a shard", "0/4, 1/4, 2/4 and 3/4")


def check_suffix(path: Path, *suffixes: str, flag: str = "out") -> None:
    """Raise UsageError unless the value of a flag ends in one of the suffixes."""
    if path.suffix not in suffixes:
        wanted = " or ".join(suffixes)
        raise UsageError(f"--{flag} {path} does not end in {wanted}", f"Name it {path.with_suffix(suffixes[0])}.")


def check_dataset(dataset: str, teacher: GeneratorConfig) -> None:
    """Raise UsageError for an unknown data set, or for the demo's with a teacher of another size or with classes."""
    from ..datasets.canvas import RESOLUTION

    if dataset:
        find_dataset(dataset)
    if dataset == "demo" and (teacher.image_size != (RESOLUTION, RESOLUTION) or teacher.c_dim):
        kind = pixels(teacher.image_size) + (f" with {teacher.c_dim} classes" if teacher.c_dim else "")
        raise UsageError(
            f"--dataset demo has images of {RESOLUTION} px without classes, the teacher generates {kind}",
            "Leave --dataset out to use the teacher's own samples, or give --data.",
        )


def config_keys(command: Any) -> dict[str, str]:
    """Return the keys of a --config file and the parameters that they set: ``class`` for ``--class``."""
    keys: dict[str, str] = {}
    for parameter in command.params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")] or [str(parameter.name)]
        keys |= {flag.removeprefix("--").replace("-", "_"): str(parameter.name) for flag in flags}
    del keys["config"]
    return keys
