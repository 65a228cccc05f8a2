"""Operators of the fused generator: a reference in torch, and CUDA and C++ kernels that are tested against it.

The name is imported on first use, so that a service can use the CPU operators without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import import_on_use

__all__ = ["modconv_epilogue"]

if TYPE_CHECKING:
    from .reference import modconv_epilogue
else:
    __getattr__, __dir__ = import_on_use(__name__, {"reference": ("modconv_epilogue",)})
