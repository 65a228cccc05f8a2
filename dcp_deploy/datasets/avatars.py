"""The demo's data: procedural portraits with exactly known factors. Endless, deterministic, nothing to download."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .factors import sample_factors
from .portrait import render


def avatars(indices: ArrayLike, seed: int = 0) -> NDArray[np.uint8]:
    """Draw the portraits with these indices (integers >= 0): uint8 [N, 64, 64, 3], fixed by index and seed alone."""
    return render(sample_factors(indices, seed))
