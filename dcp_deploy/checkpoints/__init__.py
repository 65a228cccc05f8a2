"""Files that hold generators."""

from __future__ import annotations

from .native import load_generator, read_metadata, save_generator

__all__ = ["load_generator", "read_metadata", "save_generator"]
