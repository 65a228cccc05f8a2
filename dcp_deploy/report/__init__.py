"""The report of a build: one HTML file with pictures, figures, and the machine that measured them."""

from __future__ import annotations

from .page import write_report

__all__ = ["write_report"]
