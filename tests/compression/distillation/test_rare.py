"""Latents far from the mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dcp_deploy.compression import distill
from dcp_deploy.compression.distillation.rare import CANDIDATES, code_distances, with_rare
from dcp_deploy.errors import InputError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream

from ..conftest import EVERYTHING, pruned


def distances_by_definition(codes: Tensor, sample: Tensor) -> Tensor:
    """Return Mahalanobis distances, squared, by the inverse of the covariance of ``sample``."""
    difference = codes.double() - sample.double().mean(dim=0)
    inverse = torch.linalg.inv(torch.cov(sample.double().T))
    return (difference @ inverse * difference).sum(dim=1)


def test_distances_follow_the_definition(teacher: Generator) -> None:
    teacher.requires_grad_(False)
    z, _ = draw_latents(teacher.config, 10_000, stream(3, "pca"))  # those from which the distribution is measured
    codes = teacher.mapping.w(torch.randn(20, teacher.config.z_dim, generator=stream(0, "codes")), None)
    found = code_distances(teacher, 3)
    assert found.axes.shape[1] == teacher.config.w_dim  # every direction of this network has variance
    torch.testing.assert_close(
        found(codes).double(), distances_by_definition(codes, teacher.mapping.w(z, None)), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("classes", [0, 3])
def test_each_rare_latent_is_the_farthest_of_four_in_its_class(
    new_generator: Callable[..., Generator], classes: int
) -> None:
    generator = new_generator(c_dim=classes).requires_grad_(False)
    distances = code_distances(generator, 0)
    z, c = draw_latents(generator.config, 6, stream(0, "z"))
    found = with_rare(z, c, 4, generator, distances, stream(0, "rare"))
    others = torch.randn(CANDIDATES - 1, 4, z.shape[1], generator=stream(0, "rare"))
    for place in range(4):
        candidates = torch.stack([z[place], *others[:, place]])
        labels = None if c is None else c[place].expand(CANDIDATES, -1)
        assert torch.equal(found[place], candidates[distances(generator.mapping.w(candidates, labels)).argmax()])
    assert torch.equal(found[4:], z[4:])


def test_a_recipe_with_rare_latents_trains_another_student(small_teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, gan=0, rare=0.0)
    student = pruned(small_teacher)
    even, rare = (distill(student, small_teacher, config=replace(config, rare=share)) for share in (0.0, 1.0))
    assert even.history[-1]["l1"] != rare.history[-1]["l1"]


def test_codes_that_are_all_the_same_are_refused(teacher: Generator) -> None:
    with torch.no_grad():
        for parameter in teacher.mapping.parameters():
            parameter.zero_()
    with pytest.raises(InputError, match="the same code"):
        code_distances(teacher, 0)
