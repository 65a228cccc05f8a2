"""Quality of a generator: distance and overlap in a feature space, and the modes that it generates."""

from __future__ import annotations

from .distances import (
    Distances,
    KernelDistance,
    Overlap,
    feature_distances,
    frechet_distance,
    kernel_distance,
    prdc,
)
from .evaluate import Metrics, evaluate, evaluate_images
from .features import AvatarReader, load_avatar_reader
from .mode_coverage import ModeReport, ModeRow, mode_coverage, mode_table, rare_ratios

__all__ = [
    "AvatarReader",
    "Distances",
    "KernelDistance",
    "Metrics",
    "ModeReport",
    "ModeRow",
    "Overlap",
    "evaluate",
    "evaluate_images",
    "feature_distances",
    "frechet_distance",
    "kernel_distance",
    "load_avatar_reader",
    "mode_coverage",
    "mode_table",
    "prdc",
    "rare_ratios",
]
