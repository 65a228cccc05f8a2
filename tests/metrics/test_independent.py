"""The formulas against independent code on fixed features: torchmetrics, torch-fidelity, prdc."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcp_deploy.metrics import feature_distances, frechet_distance, kernel_distance, prdc

RANDOM = np.random.default_rng(7)
REAL = RANDOM.normal(size=(300, 12)) @ RANDOM.normal(size=(12, 12))
FAKE = 0.8 * RANDOM.normal(size=(300, 12)) @ RANDOM.normal(size=(12, 12)) + 0.3


def test_frechet_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    moments = [torch.from_numpy(value) for rows in (REAL, FAKE) for value in (rows.mean(0), np.cov(rows.T))]
    assert frechet_distance(REAL, FAKE) == pytest.approx(_compute_fid(*moments).item(), rel=1e-8)


def test_kernel_distance_of_whole_sets_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    expected = poly_mmd(torch.from_numpy(REAL), torch.from_numpy(FAKE)).item()
    assert kernel_distance(REAL, FAKE).mean == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_of_subsets_agrees_with_torch_fidelity(published: None) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    one, other = (torch.from_numpy(rows) for rows in (REAL, FAKE))
    found = kid_features_to_metric(one, other, kid_subsets=400, kid_subset_size=100, verbose=False)
    own = kernel_distance(REAL, FAKE, subsets=400, size=100)
    error = 4 * own.std / np.sqrt(400)  # of the mean of 400 independent subsets
    assert own.mean == pytest.approx(found["kernel_inception_distance_mean"], abs=error)
    assert own.std == pytest.approx(found["kernel_inception_distance_std"], rel=0.2)


def test_precision_and_recall_agree_with_torch_fidelity(published: None) -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    # The generated images come first.
    expected = calculate_precision_recall_full(torch.from_numpy(FAKE), torch.from_numpy(REAL), neighborhood=3)
    found = prdc(REAL, FAKE, 3)
    assert (found.precision, found.recall) == pytest.approx(expected, abs=1e-6)  # float32 means


def test_all_four_overlaps_agree_with_prdc(published: None) -> None:
    compute = pytest.importorskip("prdc").compute_prdc
    expected = compute(real_features=REAL, fake_features=FAKE, nearest_k=5)
    found = prdc(REAL, FAKE, 5)
    # prdc excludes distances equal to the radius; there are none here.
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name) == pytest.approx(float(expected[name]), abs=1e-12), name


def test_feature_distances_combines_them() -> None:
    found = feature_distances(REAL, FAKE[:200])
    assert found.fid == frechet_distance(REAL, FAKE[:200])  # all rows
    assert found.kid == kernel_distance(REAL, FAKE[:200]).mean
    assert found.recall == prdc(REAL[:200], FAKE[:200], 3).recall  # equal counts
    assert found.coverage == prdc(REAL[:200], FAKE[:200], 5).coverage
