"""Which images stand for the real ones in a build: those of --data, the demo's own, or the teacher's samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import BuildConfig

if TYPE_CHECKING:
    from ..compression import DistillConfig
    from ..datasets.images import ImageSet
    from ..generators import GeneratorConfig

_SAMPLES = "the teacher's own samples"
_AVATARS = "the demo's portraits, drawn on the fly"
DATA = "--data"


def open_data(config: BuildConfig, teacher: GeneratorConfig) -> ImageSet | None:
    """The images of --data, checked against the teacher's resolution and classes; None without --data.

    Raises what :func:`open_images` does.
    """
    from ..datasets.images import open_images

    if config.data is None:
        return None
    return open_images(config.data, resolution=teacher.resolution, resize=config.resize, c_dim=teacher.c_dim)


def data_settings(config: BuildConfig) -> dict[str, Any]:
    """What tells one --data from another, for the key of a stage that looks at it; nothing without --data."""
    from ..datasets.images import identify_images

    return {} if config.data is None else {DATA: identify_images(config.data, resize=config.resize)}


def real_facts(images: ImageSet | None, recipe: DistillConfig, *, demo: bool) -> dict[str, Any]:
    """What the real images were, for run.json and the plan: plain values.

    ``demo``: whether the demo's portraits are at hand. Only a discriminator looks at real images in training.
    """
    facts = {"real": _AVATARS if demo else _SAMPLES, "in_training": recipe.judges_images, "mirrored": recipe.mirror}
    return facts if images is None else {**facts, "real": DATA, **images.facts()}


def real_words(facts: Mapping[str, Any]) -> str:
    """Those facts in one line."""
    words = str(facts["real"])
    if words == DATA:
        left_out = [f"{facts['skipped']} of them bad and skipped"] if facts["skipped"] else []
        left_out += [f"files that are none: {facts['ignored_files']}"] if facts["ignored_files"] else []
        words = ", ".join([f"{facts['images']} of {facts['path']} ({facts['kind']})", *left_out])
        if not facts["in_training"]:
            words += (
                "; training does not look at them, for this recipe has no discriminator (--effort standard has): they "
                "are in the report's picture only"
            )
    return words
