"""The command line: parse, call the library, print, and map errors to exit codes."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
