"""What the verbs answer that tell about presets, this machine and these schemas. Nothing slow is imported here."""

from __future__ import annotations

from ..doctor.diagnosis import Finding
from ..doctor.verbs import VerbStatus
from ..teachers.presets import Published, Teacher
from .base import Document, Facts, Part


class Preset(Part):
    """One data set that --dataset names."""

    name: str
    title: str
    resolution: int
    teacher: Teacher
    images: str | None
    """What the real images are; null: the teacher's own samples stand in."""
    images_licence: str
    images_url: str | None
    mask: bool
    """Whether the published recipe masks the background in its losses."""
    published: list[Published]
    ready: bool
    """Whether build needs no network."""
    status: str
    cached: str | None
    """The teacher's file where it was fetched already."""


class PresetShown(Document, Preset):
    """datasets NAME."""


class PresetsListed(Document):
    """datasets."""

    datasets: list[Preset]


class Diagnosed(Document):
    """doctor. With ``healthy`` false the exit code is 4."""

    healthy: bool
    """Whether ``build --dataset demo`` can run here."""
    findings: list[Finding]
    verbs: list[VerbStatus]


class SchemasListed(Document):
    """schema."""

    schemas: dict[str, Facts]
    """A JSON Schema for each verb."""
