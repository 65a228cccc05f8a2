"""Fréchet distance between two sets of features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .feature_arrays import Features, checked_pair


def frechet_distance(real: Features, fake: Features) -> float:
    """Squared Fréchet (2-Wasserstein) distance between the normal distributions fitted to features [N, D] and [M, D].

    |m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)  (Dowson & Landau 1982; Heusel et al. 2017, GANs trained by a two
    time-scale update rule), in float64, >= 0. The root of the symmetric product comes from its eigenvalues, which is
    exact for rank-deficient covariances too; the usual sqrtm(C1 C2) becomes complex there.

    Raises ValueError unless both are finite matrices of equal width with at least two rows.
    """
    reals, fakes = checked_pair(real, fake)
    mean_real, covariance_real = _moments(reals.numpy())
    mean_fake, covariance_fake = _moments(fakes.numpy())
    values, vectors = np.linalg.eigh(covariance_real)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance_fake @ root).clip(min=0.0)).sum()
    shift = np.square(mean_real - mean_fake).sum()
    spread = np.trace(covariance_real) + np.trace(covariance_fake) - 2.0 * cross
    return max(0.0, float(shift + spread))  # rounding may give a tiny negative number


def _moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean [D] and unbiased covariance [D, D]."""
    return rows.mean(axis=0), np.cov(rows, rowvar=False).reshape(rows.shape[1], rows.shape[1])
