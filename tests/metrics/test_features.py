"""The shipped avatar reader: its accuracy, its features, and that it is frozen."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch

from dcp_deploy.datasets.factors import ENCODED_WIDTH, FACTORS, Factors, sample_factors
from dcp_deploy.datasets.portrait import avatars
from dcp_deploy.errors import CorruptFileError
from dcp_deploy.metrics import AvatarReader, features, load_avatar_reader
from dcp_deploy.metrics.features import ASSET, DEFECTS, FEATURES, images_to_tensor, reading_errors
from dcp_deploy.training.avatar_reader import degrade

HELD_OUT = np.arange(10**6, 10**6 + 300)  # far from the indices of published figures


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return images_to_tensor(avatars(HELD_OUT))


def limit(kind: str) -> float:
    """A fifth of a bin of mode coverage (continuous: 4 bins of range 2; circular: 6 bins), or 2 % wrong values."""
    return {"continuous": 0.1, "circular": 1 / 30, "categorical": 0.02}[kind]


def test_every_factor_of_unseen_portraits_is_read(images: torch.Tensor) -> None:
    errors = reading_errors(load_avatar_reader().read(images), sample_factors(HELD_OUT))
    assert {name: value for name, value in errors.items() if value > limit(kind_of(name))} == {}


def test_slightly_soft_portraits_are_still_read(images: torch.Tensor) -> None:
    soft, _ = degrade(images, np.random.default_rng(0))
    errors = reading_errors(load_avatar_reader().read(soft), sample_factors(HELD_OUT))
    assert {name: value for name, value in errors.items() if value > 1.5 * limit(kind_of(name))} == {}


def kind_of(name: str) -> str:
    return next(factor.kind for factor in FACTORS if factor.name == name)


def test_features_do_not_depend_on_the_batch(images: torch.Tensor) -> None:
    reader = load_avatar_reader()
    together = reader.features(images[:16])
    alone = torch.cat([reader.features(image[None]) for image in images[:16]])
    assert together.shape == (16, FEATURES)
    assert torch.allclose(together, alone, atol=1e-4)  # other kernels for other batch sizes


def test_features_differ_more_between_portraits_than_from_soft_copies(images: torch.Tensor) -> None:
    reader = load_avatar_reader()
    codes = reader.features(images[:64])
    blurred = reader.features(torch.nn.functional.avg_pool2d(images[:64], 3, stride=1, padding=1))
    others = torch.cdist(codes, codes) + 1e9 * torch.eye(64)
    assert ((codes - blurred).norm(dim=1) < others.median(dim=1).values).all()


def test_the_pyramid_goes_from_fine_to_coarse_and_passes_gradients(images: torch.Tensor) -> None:
    batch = images[:2].clone().requires_grad_(True)
    maps = load_avatar_reader().pyramid(batch)
    assert [tuple(part.shape) for part in maps] == [(2, 24, 32, 32), (2, 48, 16, 16), (2, 80, 8, 8), (2, 64, 4, 4)]
    for part in maps:
        (gradient,) = torch.autograd.grad(part.square().mean(), batch, retain_graph=True)
        assert bool(gradient.abs().sum() > 0)
        assert 0.1 < part.square().mean().sqrt().item() < 3.0  # about unit scale


def test_the_loaded_reader_is_frozen_and_shared() -> None:
    reader = load_avatar_reader()
    assert reader is load_avatar_reader()
    assert not reader.training
    assert not any(parameter.requires_grad for parameter in reader.parameters())


def test_the_shipped_file_is_small() -> None:
    with as_file(files("dcp_deploy") / "assets" / ASSET) as path:
        assert path.stat().st_size < 2 * 2**20
    assert sum(parameter.numel() for parameter in AvatarReader().parameters()) <= 400_000


def test_outputs_have_the_layout_of_encoded_factors(images: torch.Tensor) -> None:
    assert load_avatar_reader()(images[:3]).shape == (3, ENCODED_WIDTH + DEFECTS)


def test_softness_and_grain_are_estimated(images: torch.Tensor) -> None:
    worse, defects = degrade(images, np.random.default_rng(1))
    estimated = load_avatar_reader()(worse)[:, -DEFECTS:]
    for column in range(DEFECTS):
        pair = torch.stack([estimated[:, column], defects[:, column]])
        assert torch.corrcoef(pair)[0, 1] > 0.8


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64, 64"):
        load_avatar_reader().features(torch.zeros(1, 3, 32, 32))


def test_bytes_are_mapped_to_minus_one_to_one() -> None:
    images = np.array([0, 255], dtype=np.uint8).reshape(1, 1, 2, 1).repeat(3, axis=3)
    assert images_to_tensor(images).flatten().tolist() == [-1.0, 1.0] * 3


@pytest.mark.parametrize(
    "content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "], ids=["missing", "empty", "hollow"]
)
def test_damaged_weights_are_named(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets").mkdir()
    if content is not None:
        (tmp_path / "assets" / ASSET).write_bytes(content)
    monkeypatch.setattr(features, "files", lambda package: tmp_path)
    with pytest.raises(CorruptFileError, match=ASSET):
        load_avatar_reader.__wrapped__()


def test_errors_of_circular_factors_take_the_shorter_way() -> None:
    true = sample_factors(np.arange(4))
    near = true.table.copy()
    column = [factor.name for factor in FACTORS].index("shirt_hue")
    near[:, column] = (true.table[:, column] + 0.9) % 1.0
    assert reading_errors(Factors(near), true)["shirt_hue"] == pytest.approx(0.1, abs=1e-6)
