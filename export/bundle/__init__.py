"""The folder that inference services load: models, manifest, golden images, clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import import_on_use

__all__ = [
    "read_golden",
    "write_bundle",
]

if TYPE_CHECKING:
    from .golden import read_golden
    from .writer import write_bundle
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "writer": ("write_bundle",),
            "golden": ("read_golden",),
        },
    )
