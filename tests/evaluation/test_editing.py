"""Directions in w: finding them, editing along them, and comparing what they change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.checkpoints.direction_import import ForeignDirections
from dcp_deploy.checkpoints.directions import Direction
from dcp_deploy.datasets.factors import FACTOR_INDEX, Factors, sample_factors
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.evaluation.editing import (
    COLUMNS,
    compare_editing,
    factor_changes,
    find_directions,
    import_directions,
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


# ---- importing ----


def foreign(sigmas: Mapping[str, float] | None = None, **vectors: torch.Tensor) -> ForeignDirections:
    return ForeignDirections("d.npy", "named vectors", vectors, sigmas or {})


def test_an_imported_component_gets_the_sigma_of_the_component(tiny_generator: Generator) -> None:
    found = find_directions(tiny_generator, count=2)
    vectors = {name: -7.0 * one.vector for name, one in found.items()}
    made = import_directions(tiny_generator, foreign(**vectors), layers=(1, 3))
    for name, one in found.items():
        assert made[name].sigma == pytest.approx(one.sigma, rel=1e-5)  # rounding of components to float32
        assert torch.allclose(made[name].vector, -one.vector, atol=1e-6)
        assert made[name].layers == (1, 3)


def test_sigma_of_a_vector_for_each_slot_is_the_root_mean_square_of_theirs(tiny_generator: Generator) -> None:
    config = tiny_generator.config
    found = find_directions(tiny_generator, count=2)
    rows = torch.zeros(config.num_ws, config.w_dim)
    rows[0], rows[1] = found["pc0"].vector, found["pc1"].vector
    made = import_directions(tiny_generator, foreign(pose=rows))["pose"]
    assert made.layers == (0, 1) and made.vector.shape == (2, config.w_dim)
    expected = ((found["pc0"].sigma ** 2 + found["pc1"].sigma ** 2) / 2) ** 0.5
    assert made.sigma == pytest.approx(expected, rel=1e-5)


def test_an_imported_direction_changes_as_many_codes_as_the_same_vector(tiny_generator: Generator) -> None:
    """One step moves w by its own standard deviation, whatever length the file gives the vector."""
    vector = torch.arange(1.0, 17.0)
    made = import_directions(tiny_generator, foreign(age=vector))["age"]
    w = tiny_generator.mapping.w(torch.randn(4000, 16, generator=torch.Generator().manual_seed(9)))
    unit = vector / vector.norm()
    moved = made.move(torch.zeros(1, tiny_generator.config.num_ws, 16), 1.0)[0, 0] @ unit
    assert float(moved) == pytest.approx(float((w @ unit).std()), rel=0.05)  # 1 % of standard error


@pytest.mark.parametrize(("factor", "warned"), [(1.05, False), (1.5, True), (0.5, True)])
def test_another_sigma_in_the_file_is_pointed_out_and_not_used(
    tiny_generator: Generator, caplog: pytest.LogCaptureFixture, factor: float, warned: bool
) -> None:
    first = find_directions(tiny_generator, count=1)["pc0"]
    made = import_directions(tiny_generator, foreign({"comp0": factor * first.sigma}, comp0=first.vector))
    assert made["comp0"].sigma == pytest.approx(first.sigma, rel=1e-5)
    assert ("was the file made for another" in caplog.text) == warned


def test_a_direction_along_which_w_does_not_vary_is_refused(tiny_generator: Generator) -> None:
    still = copy.deepcopy(tiny_generator)
    last = still.mapping.get_submodule(f"fc{still.config.mapping_layers - 1}")
    last.weight.data[3] = 0.0
    with pytest.raises(InputError, match="does not vary along age"):
        import_directions(still, foreign(age=torch.eye(16)[3]))


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
