"""The demo data: procedural portraits whose factors are known exactly. Endless, deterministic, nothing to download."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import RESOLUTION
from .factors import (
    ENCODED_WIDTH,
    FACTOR_INDEX,
    FACTORS,
    HIDDEN,
    NUM_UNIFORMS,
    Factor,
    Factors,
    decode,
    encode,
    factors_from_uniforms,
    sample_factors,
    visible,
)
from .portrait import detail_mask, render

__all__ = [
    "ENCODED_WIDTH",
    "FACTORS",
    "FACTOR_INDEX",
    "HIDDEN",
    "NUM_UNIFORMS",
    "RESOLUTION",
    "Factor",
    "Factors",
    "avatars",
    "decode",
    "detail_mask",
    "encode",
    "factors_from_uniforms",
    "render",
    "sample_factors",
    "visible",
]


def avatars(indices: ArrayLike, seed: int = 0) -> NDArray[np.uint8]:
    """Portraits uint8 [N, 64, 64, 3] with these indices (integers >= 0); index and seed decide the picture alone."""
    return render(sample_factors(indices, seed))
