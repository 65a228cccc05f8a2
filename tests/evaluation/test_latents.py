"""How well a teacher's latents work in a student: on tiny networks, whose figures are known, and on the demo."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import as_file, files
from unittest.mock import ANY

import pytest
import torch

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.datasets.factors import FACTORS
from dcp_deploy.errors import QualityError, UsageError
from dcp_deploy.evaluation import latents as measured
from dcp_deploy.evaluation.latents import LatentReport, compare_latents, factor_directions
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout
from dcp_deploy.metrics.drawing import latents_for
from dcp_deploy.metrics.evaluate import Readings
from dcp_deploy.metrics.features import FEATURES, load_avatar_reader
from dcp_deploy.report.latents import Latents


def network(seed: int = 0, **changes: object) -> Generator:
    settings = {"resolution": 8, "widths": (8,) * 4, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Generator(GeneratorConfig(**settings)).eval().requires_grad_(False)
        for _, torgb in getattr(made.synthesis, "torgbs", list)():
            torgb.weight.mul_(0.2)  # colours within range
    return made


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "INVERSION", measured.ProjectConfig(steps=3, rate=0.02, explore=0.0))
        yield


@pytest.fixture(scope="module")
def demo() -> Generator:
    with as_file(files("dcp_deploy") / "assets" / "demo_teacher.safetensors") as path:
        return load_generator(path).eval().requires_grad_(False)


# ---- any network ----


KINDS = {
    "stylegan2": {},
    "classes": {"c_dim": 3},
    "rectangular": {"base": (4, 2)},
    "stylegan3": {
        "kind": "stylegan3", "resolution": 16, "widths": (8, 7, 9, 6, 7, 5),
        "layout": StyleGAN3Layout(9, conv_kernel=3, radial=False, num_layers=5, margin=4),
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_a_teacher_is_its_own_perfect_student(changes: dict) -> None:
    teacher = network(**changes)
    found = compare_latents(teacher, teacher)
    assert found.edits.of == "images" and len(found.edits.directions) == 4
    assert found.edits.correlation == pytest.approx(1.0) and found.edits.slope == pytest.approx(1.0)
    assert found.own.l1 == found.teacher_w.l1 == found.mixed.l1 == 0.0
    if teacher.config.c_dim:
        assert found.inversion is None and "unconditional" in str(found.not_inverted)
    else:
        assert found.inversion is not None and found.inversion.mse == found.inversion.start_mse == 0.0


def test_weaker_edits_have_a_slope_below_one() -> None:
    """A student of half the contrast changes half as much, in the same pixels."""
    teacher = network()
    student = copy.deepcopy(teacher)
    for _, torgb in student.synthesis.torgbs():
        torgb.weight.mul_(0.5)
        torgb.bias.mul_(0.5)
    found = compare_latents(student, teacher)
    assert found.edits.correlation == pytest.approx(1.0, abs=0.01)
    assert found.edits.slope == pytest.approx(0.5, abs=0.01)


def test_a_network_that_does_not_change_has_slope_zero_and_no_correlation() -> None:
    teacher = network()
    student = copy.deepcopy(teacher)
    for _, torgb in student.synthesis.torgbs():
        torgb.weight.zero_()
    edits = compare_latents(student, teacher).edits
    assert (edits.correlation, edits.slope) == (None, 0.0)
    still = compare_latents(teacher, student).edits
    assert (still.correlation, still.slope) == (None, None)


def test_codes_of_the_teacher_are_measured_apart_from_the_students_mapping() -> None:
    """A student with another mapping network alone: its own codes fail, the teacher's work."""
    teacher = network()
    student = copy.deepcopy(teacher)
    student.mapping.fc1.weight.neg_()
    found = compare_latents(student, teacher)
    assert found.teacher_w.l1 == 0.0 and found.own.l1 > 0.01 and found.mixed.l1 > 0.01


def test_mixed_codes_are_the_partners_from_the_given_slot_on() -> None:
    codes = torch.zeros(3, 4, 2), torch.ones(3, 4, 2)
    mixed = measured._mixed(*codes, torch.tensor([1, 2, 4]))
    assert mixed[:, :, 0].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_the_result_depends_on_the_seed_and_not_on_the_global_state() -> None:
    teacher, student = network(), network(1)
    first = compare_latents(student, teacher)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert compare_latents(student, teacher) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert compare_latents(student, teacher, seed=1) != first


def test_a_search_never_ends_worse_than_it_began() -> None:
    found = compare_latents(network(1), network()).inversion
    assert found is not None and found.mse <= found.start_mse and found.images == 4


def test_a_large_student_is_not_inverted_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MOST_MACS", 10)
    found = compare_latents(network(), network())
    assert found.inversion is None and "dcp-deploy project" in str(found.not_inverted)


def test_a_search_that_diverges_is_a_reason_and_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise QualityError("the search diverged at step 2", "Give a lower --rate.")

    monkeypatch.setattr(measured, "project", diverge)
    found = compare_latents(network(1), network())
    assert found.inversion is None and found.not_inverted == "the search diverged at step 2"
    assert found.mixed.l1 > 0


def test_no_latents_are_refused() -> None:
    with pytest.raises(UsageError, match="0 latents"):
        compare_latents(network(), network(), latents=0)


def test_a_perceptual_distance_is_used_where_one_is_given() -> None:
    found = compare_latents(network(1), network(), lpips=lambda a, b: torch.full((len(a),), 0.25))
    assert found.perceptual == "lpips"
    assert found.own.perceptual == found.mixed.perceptual == found.teacher_w.perceptual == 0.25
    assert compare_latents(network(1), network()).own.perceptual is None


def test_a_build_reads_what_was_measured() -> None:
    """The records of the report have the names of the measurement."""
    found = compare_latents(network(1), network())
    read = Latents.model_validate(found.to_dict())
    assert read.model_dump() == {**found.to_dict(), "edits": {**asdict(found.edits), "directions": ANY}}
    assert None not in read.figures().values() and read.figures()["mixed_l1"] == found.mixed.l1


@pytest.mark.parametrize("changes", [{"z_dim": 6}, {"w_dim": 6}, {"resolution": 16, "widths": (8,) * 6}])
def test_networks_of_other_latents_or_sizes_are_refused(changes: dict) -> None:
    with pytest.raises(UsageError) as error:
        compare_latents(network(**changes), network())
    assert "teacher that the student was made from" in str(error.value.remedy)


# ---- the demo ----


def test_each_factor_of_the_demo_moves_along_its_own_direction(demo: Generator) -> None:
    latents, reader = latents_for(demo, 120, 0).z, load_avatar_reader()
    with torch.no_grad():
        images = demo(latents)
        factors = reader.read(images)
    readings = Readings(torch.zeros(120, FEATURES).numpy(), factors, torch.device("cpu"), 0, 1.0)
    directions = factor_directions(demo, readings)
    assert list(directions) == [factor.name for factor in FACTORS]
    w = demo.mapping(latents[:6])
    values = [reader.read(demo.synthesis(directions["skin"].move(w, sign * 2.0))).column("skin") for sign in (-1, 1)]
    assert abs(float((values[1] - values[0]).mean())) > 0.5  # of a range of 2

    found: LatentReport = compare_latents(demo, demo, factors={"skin": directions["skin"]}, latents=2)
    assert found.edits.of == "factors" and found.perceptual == "avatars"
    assert found.edits.correlation == pytest.approx(1.0) and found.own.perceptual == 0.0
