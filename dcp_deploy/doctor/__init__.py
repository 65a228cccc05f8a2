"""Checks of what works on this machine, and how to fix what does not."""

from __future__ import annotations

from .diagnosis import diagnose

__all__ = ["diagnose"]
