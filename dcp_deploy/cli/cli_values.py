"""What the text after a flag means, and whether it can be meant. Each raises UsageError naming the flag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..teachers.presets import find_dataset

if TYPE_CHECKING:
    from ..generators import GeneratorConfig


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
    from ..datasets.avatars import RESOLUTION

    if dataset:
        find_dataset(dataset)
    if dataset == "demo" and (teacher.resolution != RESOLUTION or teacher.c_dim):
        kind = f"{teacher.resolution} px" + (f" with {teacher.c_dim} classes" if teacher.c_dim else "")
        raise UsageError(
            f"--dataset demo has images of {RESOLUTION} px without classes, the teacher draws {kind}",
            "Leave it out: the teacher's own samples stand in, or give --data.",
        )
