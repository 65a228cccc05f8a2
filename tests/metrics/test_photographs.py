"""Quality against real images: the cache of their features, and the figures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcp_deploy.datasets.images import ImageSet, open_images
from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.generators import Generator
from dcp_deploy.metrics import feature_distances
from dcp_deploy.metrics.drawing import draw, latents_for, to_bytes
from dcp_deploy.metrics.photographs import RealFeatures, evaluate_against, real_features
from dcp_deploy.metrics.published import load_inception

COUNT = 24


@dataclass
class Colours:
    """Feature extractor: the mean of each half of each channel, 6 numbers. Counts its images."""

    key: str = "colours 1"
    name: str = "colours"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seen: int = 0

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        assert images.dtype == torch.uint8
        self.seen += len(images)
        halves = [half.float().mean(dim=(2, 3)) for half in images.chunk(2, dim=3)]
        return torch.cat(halves, dim=1).numpy()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write random 32 px images into a folder."""
    path = tmp_path / "images"
    path.mkdir()
    for index in range(COUNT):
        pixels = np.random.default_rng(index).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{index:02d}.png")
    return path


def images_of(folder: Path) -> ImageSet:
    return open_images(folder, resolution=32)


def test_features_come_from_the_cache_the_second_time(folder: Path, tmp_path: Path) -> None:
    extractor = Colours()
    first = real_features(images_of(folder), extractor, count=50_000, cache=tmp_path / "cache")
    again = real_features(images_of(folder), extractor, count=50_000, cache=tmp_path / "cache")
    assert extractor.seen == COUNT
    assert (first.cached, again.cached) == (False, True)
    assert first.features.shape == (COUNT, 6) and np.array_equal(first.features, again.features)


def test_features_of_all_images_come_in_another_order(folder: Path, tmp_path: Path) -> None:
    found = real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache").features
    stacked = np.stack([images_of(folder)[index] for index in range(COUNT)])
    expected = Colours()(torch.from_numpy(stacked).permute(0, 3, 1, 2))
    assert not np.array_equal(found, expected)
    assert np.allclose(np.sort(found, axis=0), np.sort(expected, axis=0))


def test_a_smaller_count_takes_the_first_of_that_order(folder: Path, tmp_path: Path) -> None:
    whole = real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache").features
    part = real_features(images_of(folder), Colours(), count=10, cache=tmp_path / "cache")
    assert not part.cached and np.array_equal(part.features, whole[:10])


@pytest.mark.parametrize("change", ["content", "extractor", "count", "size", "shape"])
def test_everything_that_features_depend_on_is_in_the_cache_key(folder: Path, tmp_path: Path, change: str) -> None:
    cache = tmp_path / "cache"
    real_features(images_of(folder), Colours(), count=20, cache=cache)
    images, extractor, count = images_of(folder), Colours(), 20
    if change == "content":
        Image.new("RGB", (32, 32)).save(folder / "more.png")
        images = images_of(folder)
    elif change == "extractor":
        extractor = Colours(key="colours 2")
    elif change == "count":
        count = 21
    else:
        images = open_images(folder, resolution=16 if change == "size" else (32, 16), resize="crop")
    assert not real_features(images, extractor, count=count, cache=cache).cached
    assert len(list(cache.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", [b"", b"not safetensors", "half"], ids=["empty", "other", "half"])
def test_a_damaged_entry_is_made_again(folder: Path, tmp_path: Path, damage: bytes | str) -> None:
    whole = real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache").features
    (entry,) = (tmp_path / "cache").glob("*.safetensors")
    content = entry.read_bytes()
    entry.write_bytes(content[: len(content) // 2] if isinstance(damage, str) else damage)
    again = real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache")
    assert not again.cached and np.array_equal(again.features, whole)
    assert real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache").cached


def test_an_interrupted_extraction_leaves_no_files(folder: Path, tmp_path: Path) -> None:
    class Stops(Colours):
        def __call__(self, images: torch.Tensor) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        real_features(images_of(folder), Stops(), count=COUNT, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*"))


def test_a_cache_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(MissingCapabilityError, match="cannot be written"):
        real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache")


def test_the_figures_are_the_distances_of_the_features(folder: Path, tmp_path: Path, tiny_generator: Generator) -> None:
    real = real_features(images_of(folder), Colours(), count=COUNT, cache=tmp_path / "cache")
    found = evaluate_against(tiny_generator, real, Colours(), samples=30, seed=3, batch=7)
    images = torch.cat(list(draw(tiny_generator, latents_for(tiny_generator, 30, 3), batch=30)))
    expected = feature_distances(real.features, Colours()(to_bytes(images)))
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6), name
    assert (found.samples, found.reals, found.seed, found.features) == (30, COUNT, 3, "colours")


def test_mirrored_images_count_twice(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = real_features(images_of(folder), Colours(), count=10, cache=cache)
    extractor = Colours()
    both = real_features(images_of(folder), extractor, count=10, cache=cache, mirrored=True)
    assert extractor.seen == 10 and not both.cached  # the others were in the cache
    assert (both.count, len(both.features), both.available) == (10, 20, COUNT)
    left, right = plain.features[:, :3], plain.features[:, 3:]
    expected = np.concatenate([plain.features, np.concatenate([right, left], axis=1)])
    rows = lambda found: sorted(map(tuple, found.tolist()))  # noqa: E731
    assert rows(both.features) == rows(expected)
    again = real_features(images_of(folder), extractor, count=10, cache=cache, mirrored=True)
    assert again.cached and np.array_equal(again.features, both.features)


def test_no_count_means_all_images(folder: Path, tmp_path: Path) -> None:
    found = real_features(images_of(folder), Colours(), count=None, cache=tmp_path / "cache")
    assert found.count == found.available == COUNT


def test_few_images_are_refused(tiny_generator: Generator) -> None:
    few = RealFeatures(np.zeros((9, 6), np.float32), cached=False, available=9)
    with pytest.raises(UsageError, match="9 real images"):
        evaluate_against(tiny_generator, few, Colours(), samples=20)
    with pytest.raises(UsageError, match="9 samples"):
        evaluate_against(tiny_generator, replace(few, features=np.zeros((20, 6), np.float32)), Colours(), samples=9)


def test_inception_extracts_features_of_a_set(folder: Path, tmp_path: Path, inception_file: Path) -> None:
    extractor = load_inception(inception_file)
    found = real_features(images_of(folder), extractor, count=2, cache=tmp_path / "cache")
    assert found.features.shape == (2, 2048)
    assert real_features(images_of(folder), extractor, count=2, cache=tmp_path / "cache").cached
