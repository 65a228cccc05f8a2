"""Quality of a generator: distance and overlap in a feature space, and the modes that it reaches."""

from __future__ import annotations

from .evaluate import Metrics, evaluate, evaluate_images
from .features import AvatarReader, load_avatar_reader
from .fid import frechet_distance
from .manifold import Overlap, prdc
from .modes import ModeReport, mode_coverage, rare_ratios

__all__ = [
    "AvatarReader",
    "Metrics",
    "ModeReport",
    "Overlap",
    "evaluate",
    "evaluate_images",
    "frechet_distance",
    "load_avatar_reader",
    "mode_coverage",
    "prdc",
    "rare_ratios",
]
