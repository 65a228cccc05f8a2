"""The parity gate: do two artefacts generate the same images?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import import_on_use

__all__ = ["Bisection", "Check", "ParityReport", "Tolerance", "load_pair", "tolerance_for", "verify"]

if TYPE_CHECKING:
    from .artifacts import load_pair
    from .bisect import Bisection
    from .gate import ParityReport, verify
    from .tolerance import Check, Tolerance, tolerance_for
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "artifacts": ("load_pair",),
            "bisect": ("Bisection",),
            "gate": ("ParityReport", "verify"),
            "tolerance": ("Check", "Tolerance", "tolerance_for"),
        },
    )
