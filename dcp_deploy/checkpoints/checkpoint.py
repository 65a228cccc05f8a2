"""A generator read from a file, with what is known about its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..generators import Generator

NVIDIA_LICENCE = (
    "NVIDIA Source Code License: research or evaluation only; the same terms hold for students made from these weights"
)


@dataclass(frozen=True)
class NetworkInFile:
    """A generator in a file, by the name that ``--network`` takes."""

    name: str
    chosen: bool
    same_weights: bool
    """Whether its tensors are those of the chosen network, bit for bit."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A generator read from a file, in float32 and evaluation mode.

    ``format`` is "native", "nvidia", "rosinality", "basicsr" or "tensorflow". Each of the ``notes`` is a sentence on
    what the file lacked and what replaces it. ``globals`` are the dotted names in a pickle, and ``unread`` those of
    them whose values were not read. ``networks`` are the generators in the file. ``licence`` is one line on the terms
    of the weights, None if the format does not record them. ``extra`` holds JSON values: the metadata of a native
    file, or facts about the original, and in "provenance" what ``convert --to`` wrote about it.
    """

    generator: Generator
    format: str
    notes: tuple[str, ...] = ()
    globals: tuple[str, ...] = ()
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    networks: tuple[NetworkInFile, ...] = ()

    @property
    def story(self) -> dict[str, Any]:
        """The file's own account of its origin (:mod:`.provenance`); empty without one."""
        story = self.extra if self.format == "native" else self.extra.get("provenance")
        return story if isinstance(story, dict) else {}
