"""Operators of the fused generator: the reference in torch that every other implementation is held to.

The name is imported on first use, so that a service can have the CPU operators without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import import_on_use

__all__ = ["modconv_epilogue"]

if TYPE_CHECKING:
    from .reference import modconv_epilogue
else:
    __getattr__, __dir__ = import_on_use(__name__)
