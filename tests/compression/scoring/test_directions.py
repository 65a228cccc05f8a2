from __future__ import annotations

import numpy as np
import pytest
import torch

from dcp_deploy.compression import score
from dcp_deploy.compression.scoring.directions import PCA_LATENTS, principal_directions
from dcp_deploy.errors import InputError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream


def test_directions_are_the_principal_components_of_the_mapped_latents(teacher: Generator) -> None:
    components, shares = principal_directions(teacher, seed=4)
    z, _ = draw_latents(teacher.config, PCA_LATENTS, stream(4, "pca"))
    w = teacher.mapping.w(z).detach().double().numpy()
    _, singular, rows = np.linalg.svd(w - w.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(shares.numpy(), singular**2 / (singular**2).sum(), rtol=1e-6)
    cosines = np.abs((components.double().numpy() * rows).sum(axis=1))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-5)


def test_the_largest_entry_of_every_direction_is_positive(teacher: Generator) -> None:
    components, _ = principal_directions(teacher, seed=0)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_a_teacher_that_maps_to_nan_is_refused(teacher: Generator) -> None:
    with torch.no_grad():
        teacher.mapping.get_parameter("fc0.bias")[0] = float("inf")
    with pytest.raises(InputError, match="infinity"):
        score(teacher, method="diversity", latents=7)
