"""What ``metrics.json`` says of the teacher's latents in the student, as ``compare_latents`` measured it."""

from __future__ import annotations

from pydantic import BaseModel

from ..gates import LATENTS
from .records import LENIENT, Count, Measure


class Record(BaseModel):
    """Base of the records below."""

    model_config = LENIENT


class EditAgreement(Record):
    """Agreement of student and teacher along one direction in w."""

    name: str
    correlation: Measure | None = None
    slope: Measure | None = None


class Edits(Record):
    """Agreement along all directions; ``of`` says what is compared."""

    correlation: Measure | None = None
    slope: Measure | None = None
    directions: list[EditAgreement] = []
    of: str | None = None
    steps: Measure | None = None


class TeacherDistance(Record):
    """Distance of the student's images to the teacher's."""

    l1: Measure | None = None
    perceptual: Measure | None = None


class Inversion(Record):
    """Distance of the teacher's images to those that a search finds in the student."""

    mse: Measure | None = None
    perceptual: Measure | None = None
    start_mse: Measure | None = None
    steps: Count | None = None
    images: Count | None = None


class Latents(Record):
    """How well the teacher's latents work in the student."""

    edits: Edits = Edits()
    own: TeacherDistance = TeacherDistance()
    teacher_w: TeacherDistance = TeacherDistance()
    mixed: TeacherDistance = TeacherDistance()
    perceptual: str | None = None
    inversion: Inversion | None = None
    not_inverted: str | None = None
    latents: Count | None = None
    seed: int | None = None

    def figures(self) -> dict[str, float | None]:
        """Return the figures that requirements may name."""
        mse = None if self.inversion is None else self.inversion.mse
        values = (self.edits.correlation, self.edits.slope, self.teacher_w.l1, self.mixed.l1, mse)
        return dict(zip(LATENTS, values, strict=True))
