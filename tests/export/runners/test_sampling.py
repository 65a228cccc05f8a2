from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dcp_deploy.errors import QualityError, UsageError
from dcp_deploy.export import latents_of, load_runner
from dcp_deploy.export.runners.sampling import BATCH, as_uint8, draw, grid, sample_grid
from dcp_deploy.generators import Generator

from ..conftest import random_generator


def tiles(count: int, height: int = 2, width: int = 3) -> NDArray[np.uint8]:
    """Image i is filled with i + 1."""
    return np.repeat(np.arange(1, count + 1, dtype=np.uint8), height * width * 3).reshape(count, height, width, 3)


def test_a_seeds_latent_is_that_of_numpys_legacy_generator(tiny_generator: Generator) -> None:
    runner = load_runner(tiny_generator)
    z = np.random.RandomState(7).randn(1, 16).astype(np.float32)
    expected = as_uint8(runner(z=z, psi=0.7))
    np.testing.assert_array_equal(draw(runner, [7], psi=0.7), expected)


def test_images_do_not_depend_on_the_other_seeds_of_a_batch(tiny_generator: Generator) -> None:
    runner = load_runner(tiny_generator)
    seeds = list(range(BATCH + 3))
    together = draw(runner, seeds)
    alone = np.concatenate([draw(runner, [seed]) for seed in seeds])
    # Another batch sums in another order: rounding may move a value across an 8-bit border.
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_psi_reaches_the_images(tiny_generator: Generator) -> None:
    runner = load_runner(tiny_generator)
    assert np.ptp(draw(runner, [0, 1, 2], psi=0.0), axis=0).max() == 0
    assert np.ptp(draw(runner, [0, 1, 2], psi=1.0), axis=0).max() > 0


def test_a_class_is_that_of_the_seed_or_the_given_one() -> None:
    runner = load_runner(random_generator((6, 5, 4, 3), c_dim=3))
    z = latents_of([4, 5], 12)
    for label, c in ((None, [1, 2]), (2, [2, 2])):
        expected = as_uint8(runner(z=z, c=np.eye(3, dtype=np.float32)[c]))
        np.testing.assert_array_equal(draw(runner, [4, 5], label=label), expected)


def test_floats_become_bytes_as_in_an_exported_model() -> None:
    values = np.array([-2, -1, -1 + 1 / 127.5, 0, 1, 2], np.float32)
    images = np.broadcast_to(values, (1, 3, 1, 6))
    assert as_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(QualityError, match="NaN or infinity"):
        as_uint8(np.full((1, 3, 2, 2), value, np.float32))


def test_tiles_go_row_by_row() -> None:
    page = grid(tiles(5), columns=2)
    assert page.shape == (6, 6, 3)
    assert page[::2, ::3, 0].tolist() == [[1, 2], [3, 4], [5, 0]]


def test_a_grid_is_at_most_as_wide_as_its_images() -> None:
    assert grid(tiles(2), columns=8).shape == (2, 6, 3)


def test_a_grid_has_rows_of_eight(tiny_generator: Generator, tmp_path: Path) -> None:
    runner = load_runner(tiny_generator)
    with Image.open(sample_grid(runner, tmp_path / "g.png", seeds=range(9))) as picture:
        page = np.asarray(picture)
    assert page.shape == (64, 256, 3)
    np.testing.assert_array_equal(page[32:, :32], draw(runner, range(9))[8])


def test_an_empty_grid_is_a_usage_error(tiny_generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        sample_grid(load_runner(tiny_generator), tmp_path / "g.png", seeds=[])
    assert not list(tmp_path.iterdir())
