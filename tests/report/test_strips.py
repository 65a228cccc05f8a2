"""Grids are cut by seeds without changing a pixel, and the difference is added."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.report.run_directory import Grid, Metrics, Run, RunDirectory, Samples
from dcp_deploy.report.strips import LARGEST, blocks


def grid_of(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return Grid(stream.getvalue(), pixels.shape[1], pixels.shape[0])


def run_with(seeds=range(16), columns=8, **grids):
    samples = Samples(seeds=list(seeds), psi=0.7, columns=columns)
    return RunDirectory(run=Run(), metrics=Metrics(grids=samples), grids={k: grid_of(v) for k, v in grids.items()})


def pixels_of(strip):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.uri.partition(",")[2]))))


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (2 * 6, 8 * 4, 3), dtype=np.uint8)


def test_each_block_shows_the_same_seeds_of_all_models(noise):
    first, second = blocks(run_with(teacher=noise, student=noise, pruned=noise))
    assert list(first.seeds) == list(range(8)) and list(second.seeds) == list(range(8, 16))
    assert [strip.model for strip in first.strips] == ["teacher", "student", "difference", "pruned"]
    np.testing.assert_array_equal(pixels_of(second.strips[0]), noise[6:])
    assert second.strips[1].alt == "Student, seeds 8 to 15"


def test_the_difference_is_multiplied_until_it_can_be_seen(noise):
    teacher = noise // 2
    block = blocks(run_with(teacher=teacher, student=teacher + 10))[0]
    assert block.strips[2].title == "Difference of teacher and student, × 16"
    np.testing.assert_array_equal(pixels_of(block.strips[2]), 160)


def test_a_last_row_that_is_not_full_names_its_seeds_only(noise):
    assert [list(block.seeds) for block in blocks(run_with(seeds=range(3, 14), teacher=noise))] == [
        list(range(3, 11)),
        [11, 12, 13],
    ]


def test_large_images_are_reduced():
    wide = np.zeros((4 * LARGEST, 4 * LARGEST, 3), dtype=np.uint8)
    strip = blocks(run_with(seeds=[0], teacher=wide))[0].strips[0]
    assert (strip.width, strip.height) == (LARGEST, LARGEST)


def test_grids_of_other_sizes_are_shown_whole_and_are_not_compared(noise):
    (block,) = blocks(run_with(teacher=noise[:, :31], student=noise))
    assert block.seeds == () and [strip.model for strip in block.strips] == ["teacher", "student"]


def test_real_images_come_last_and_have_no_seeds(noise):
    found = blocks(run_with(teacher=noise, real=noise))
    assert [list(block.seeds) for block in found] == [list(range(8)), list(range(8, 16)), []]
    assert blocks(run_with(seeds=[0])) == []
