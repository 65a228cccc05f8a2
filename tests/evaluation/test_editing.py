"""Directions in w: finding them, editing along them, and comparing what they change."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.checkpoints.directions import Direction
from dcp_deploy.datasets.factors import FACTOR_INDEX, Factors, sample_factors
from dcp_deploy.errors import UsageError
from dcp_deploy.evaluation.editing import (
    COLUMNS,
    compare_editing,
    factor_changes,
    find_directions,
    parse_edits,
)
from dcp_deploy.generators import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def demo() -> Iterator[Generator]:
    """Load the shipped teacher."""
    with as_file(files("dcp_deploy") / "assets" / "demo_teacher.safetensors") as path:
        yield load_generator(path).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def demo_directions(demo: Generator) -> dict[str, Direction]:
    return find_directions(demo, count=2)


# ---- finding ----


def test_directions_are_unit_vectors_by_falling_variance(tiny_generator: Generator) -> None:
    found = find_directions(tiny_generator, count=4)
    assert list(found) == ["pc0", "pc1", "pc2", "pc3"]
    sigmas = [one.sigma for one in found.values()]
    assert sigmas == sorted(sigmas, reverse=True)
    stacked = torch.stack([one.vector for one in found.values()])
    assert torch.allclose(stacked @ stacked.T, torch.eye(4), atol=1e-5)
    assert {one.layers for one in found.values()} == {(0, tiny_generator.config.num_ws - 1)}


def test_sigma_is_the_standard_deviation_of_w_along_the_direction(tiny_generator: Generator) -> None:
    one = find_directions(tiny_generator, count=1)["pc0"]
    w = tiny_generator.mapping.w(torch.randn(4000, 16, generator=torch.Generator().manual_seed(9)))
    assert one.sigma == pytest.approx((w @ one.vector).std().item(), rel=0.05)  # 1 % of standard error


@pytest.mark.parametrize("count", [0, 17])
def test_impossible_counts_are_refused(tiny_generator: Generator, count: int) -> None:
    with pytest.raises(UsageError, match="16"):
        find_directions(tiny_generator, count=count)


# ---- editing ----


def test_edits_are_parsed(tiny_generator: Generator) -> None:
    found = find_directions(tiny_generator, count=2)
    assert parse_edits(["pc1=-1.5", "pc0=2"], found) == [(found["pc1"], -1.5), (found["pc0"], 2.0)]
    for wrong in ("pc1", "pc7=1", "pc0=much", "pc0=inf", "=1"):
        with pytest.raises(UsageError, match="pc0, pc1") as caught:
            parse_edits([wrong], found)
        assert wrong in caught.value.message


# ---- comparing ----


def changed(name: str, column: np.ndarray | float) -> np.ndarray:
    before = sample_factors(np.arange(400))
    table = before.table.copy()
    table[:, FACTOR_INDEX[name]] = column
    return factor_changes(before, Factors(table))


def test_no_change_is_zero_everywhere() -> None:
    factors = sample_factors(np.arange(50))
    assert not factor_changes(factors, factors).any() and len(COLUMNS) == len(factor_changes(factors, factors))


def test_changes_are_in_standard_deviations_of_the_data() -> None:
    smile = sample_factors(np.arange(400)).column("smile")
    found = changed("smile", smile + 0.1)
    assert found[COLUMNS.index("smile")] == pytest.approx(0.05 * np.sqrt(3), rel=1e-4)
    assert np.count_nonzero(found) == 1


def test_hues_turn_the_shorter_way() -> None:
    hue = sample_factors(np.arange(400)).column("shirt_hue")
    found = changed("shirt_hue", np.mod(hue - 0.1, 1.0))
    assert found[COLUMNS.index("shirt_hue")] == pytest.approx(-0.05 * np.sqrt(12), rel=1e-4)


def test_a_category_changes_the_rates_of_its_values() -> None:
    found = changed("hat", 2.0)
    rate = float((sample_factors(np.arange(400)).labels("hat") == 2).mean())
    assert found[COLUMNS.index("hat=top_hat")] == pytest.approx((1 - rate) / 2 / np.sqrt(0.05 * 0.95))
    assert found[COLUMNS.index("hat=none")] < 0


def test_a_generator_agrees_with_itself(demo: Generator, demo_directions: dict[str, Direction]) -> None:
    found = compare_editing(demo, demo, demo_directions, samples=8)
    assert found.images == pytest.approx(1.0) and found.correlation == pytest.approx(1.0)
    assert found.slope == pytest.approx(1.0) and found.same_strongest == 1.0
    assert [one.name for one in found.directions] == ["pc0", "pc1"]
    assert found.directions[0].teacher_change == found.directions[0].student_change != 0.0


def test_a_student_with_reversed_edits_has_a_negative_correlation(
    demo: Generator, demo_directions: dict[str, Direction]
) -> None:
    """Negating the affine weights around the mean style reverses every edit."""
    import copy

    mean = demo.mapping.w(torch.randn(500, demo.config.z_dim, generator=torch.Generator().manual_seed(0))).mean(dim=0)
    other = copy.deepcopy(demo)
    for _, layer in [*other.synthesis.convs(), *other.synthesis.torgbs()]:
        affine = layer.affine
        affine.bias += 2 * (affine.weight * affine.weight_gain) @ mean / affine.lr_multiplier
        affine.weight.neg_()
    found = compare_editing(other, demo, demo_directions, samples=12)
    assert found.correlation is not None and found.correlation < -0.8
    assert found.slope is not None and found.slope < -0.5
    assert found.images < 0.5  # the changes are those of other images, at mirrored codes


def test_generators_of_other_data_are_compared_by_their_images(tiny_generator: Generator) -> None:
    calls: list[tuple[int, int]] = []
    directions = find_directions(tiny_generator, count=2)
    found = compare_editing(
        tiny_generator, tiny_generator, directions, samples=40, progress=lambda done, total: calls.append((done, total))
    )
    assert found.images == pytest.approx(1.0)
    assert found.correlation is None and found.slope is None and found.directions[0].strongest is None
    assert calls == [(32, 80), (40, 80), (72, 80), (80, 80)]


def test_a_conditional_generator_can_be_compared() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(8, (4,) * 4, z_dim=4, w_dim=4, c_dim=3, mapping_layers=1)).eval()
    found = compare_editing(generator, generator, find_directions(generator, count=1), samples=4)
    assert found.images == pytest.approx(1.0)


def test_settings_that_cannot_work_are_refused(tiny_generator: Generator) -> None:
    with pytest.raises(UsageError):
        compare_editing(tiny_generator, tiny_generator, find_directions(tiny_generator, count=1), samples=1)
