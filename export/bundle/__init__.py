"""The folder that inference services load: models, manifest, golden images, clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import import_on_use

__all__ = [
    "read_golden",
    "write_bundle",
]

if TYPE_CHECKING:
    from .writer import read_golden, write_bundle
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {"writer": ("read_golden", "write_bundle")},
    )
