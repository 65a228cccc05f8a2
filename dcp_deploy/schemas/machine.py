"""What the verbs answer that describe presets, this machine and these schemas. Nothing slow is imported here."""

from __future__ import annotations

from ..doctor.caches import Cache
from ..doctor.diagnosis import Diagnosis
from ..doctor.verbs import VerbStatus
from ..teachers import presets
from .base import Document, Facts, Part, described_by


@described_by(presets.Dataset)
class Preset(Part):
    """One data set that --dataset names."""

    ready: bool
    """Whether build needs no network."""
    status: str
    cached: str | None
    """Path of the teacher's file if it was downloaded already."""


class PresetShown(Document, Preset):
    """datasets NAME."""


class PresetsListed(Document):
    """datasets."""

    datasets: list[Preset]


@described_by(Diagnosis)
class Diagnosed(Document):
    """doctor. With ``healthy`` false the exit code is 4."""

    healthy: bool
    """Whether ``build --dataset demo`` can run on this machine."""
    verbs: list[VerbStatus]


class CachesListed(Document):
    """cache list, cache clear."""

    caches: list[Cache]
    removed: bool
    """Whether these files were removed."""


class SchemasListed(Document):
    """schema."""

    schemas: dict[str, Facts]
    """A JSON Schema for each verb."""
