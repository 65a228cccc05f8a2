"""The gradients behind the scores, compared with their definitions, and the content score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcp_deploy.compression import score
from dcp_deploy.compression.masks import SegmentationMask
from dcp_deploy.compression.scoring.gradients import (
    FLIPPED,
    content_profiles,
    gradient_profiles,
    gradient_profiles_by_definition,
    scored_weights,
)
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream

from ..test_masks import brightness

FEW = {"method": "content", "latents": 5, "batch": 2}


def left(images: Tensor) -> Tensor:
    """Select the left half as the content."""
    shown = torch.zeros_like(images[:, :1])
    shown[..., : images.shape[3] // 2] = 1
    return shown


@pytest.fixture
def weights(teacher: Generator) -> list[Tensor]:
    found = scored_weights(teacher)
    for weight in found:
        weight.requires_grad_(True)
    return found


def test_gradients_along_directions_are_those_of_the_definition(teacher: Generator, weights: list[Tensor]) -> None:
    source = torch.Generator().manual_seed(0)
    z, _ = draw_latents(teacher.config, 3, source)
    ws = teacher.mapping(z).detach()
    offsets = torch.randn(4, teacher.config.w_dim, generator=source)
    fast = gradient_profiles(teacher, weights, ws, offsets)
    for profile, slow in zip(fast, gradient_profiles_by_definition(teacher, weights, ws, offsets), strict=True):
        torch.testing.assert_close(profile, slow, rtol=1e-4, atol=0)  # float32 sums in another order


def test_content_scores_follow_the_definition(teacher: Generator, weights: list[Tensor]) -> None:
    """In CAGAN it is the gradient of the summed distance to a copy with noise on the content."""
    source = stream(0, "score", 0)
    z, _ = draw_latents(teacher.config, 4, source)
    image = teacher.synthesis(teacher.mapping(z).detach(), noise="const")
    chance = torch.rand(4, 1, *image.shape[2:], generator=source)
    side = torch.randint(0, 2, chance.shape, generator=source).float() * 2 - 1
    noisy = image.detach().clone()
    for row, _, y, x in ((left(image) > 0) & (chance < FLIPPED)).nonzero().tolist():
        noisy[row, :, y, x] = side[row, 0, y, x]
    assert (noisy != image).any()
    expected = torch.autograd.grad((noisy - image).abs().sum(), weights)
    actual = score(teacher, method="content", latents=4, batch=4, mask=left)
    for layer, gradient in zip(actual.scores, expected, strict=True):
        wanted = gradient.abs().double().mean(dim=(0, 2, 3))
        torch.testing.assert_close(layer, wanted, rtol=1e-4, atol=0)  # float32 sums in another order


def test_pixels_outside_the_content_do_not_count(teacher: Generator, weights: list[Tensor]) -> None:
    z, _ = draw_latents(teacher.config, 2, torch.Generator().manual_seed(0))
    ws, source = teacher.mapping(z).detach(), torch.Generator().manual_seed(0)
    for profile in content_profiles(teacher, weights, ws, lambda images: torch.zeros_like(images[:, :1]), source):
        assert not profile.any()


def test_content_scores_add_up_over_batches_and_shards(teacher: Generator) -> None:
    whole = score(teacher, **FEW, mask=left)  # type: ignore[arg-type]
    parts = [score(teacher, **FEW, mask=left, shard=(i, 2)) for i in range(2)]  # type: ignore[arg-type]
    for layer, first, second in zip(whole.scores, parts[0].scores, parts[1].scores, strict=True):
        torch.testing.assert_close(layer, first + second, rtol=1e-12, atol=0)
    assert "stability" in whole.settings and "directions" not in whole.settings


def test_the_mask_is_among_the_settings(teacher: Generator, tmp_path: Path) -> None:
    mask = SegmentationMask(brightness(tmp_path / "m.onnx"), inputs="unit")
    scores = score(teacher, **FEW, mask=mask)  # type: ignore[arg-type]
    assert scores.settings["mask"] == mask.identity


@pytest.mark.parametrize(("method", "mask"), [("content", None), ("diversity", left), ("random", left)])
def test_content_scores_need_a_mask_and_others_refuse_it(
    teacher: Generator, method: str, mask: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(UsageError, match=f"{method!r} with(out)? a mask"):
        score(teacher, method=method, mask=mask)  # type: ignore[arg-type]
