"""Files that hold generators."""

from __future__ import annotations

from .checkpoint import Checkpoint, provenance
from .loading import load_generator, read_checkpoint, read_discriminator, sniff
from .native import read_metadata, save_generator

__all__ = [
    "Checkpoint",
    "load_generator",
    "provenance",
    "read_checkpoint",
    "read_discriminator",
    "read_metadata",
    "save_generator",
    "sniff",
]
