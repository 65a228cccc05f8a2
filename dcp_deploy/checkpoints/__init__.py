"""Files that hold generators."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .containers import sniff
from .loading import load_checkpoint, load_generator, read_checkpoint, read_discriminator
from .native import read_metadata, save_generator
from .provenance import provenance

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_generator",
    "provenance",
    "read_checkpoint",
    "read_discriminator",
    "read_metadata",
    "save_generator",
    "sniff",
]
