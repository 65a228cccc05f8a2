"""What a training records beside the student: its best average, and TensorBoard's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dcp_deploy.compression import DistillResult, distill
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator

from ..conftest import EVERYTHING, assert_same_weights, distill_until, pruned


class Figures:
    """A measure that returns the given figures one after the other, and keeps the students that it was called with."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.seen: list[dict[str, object]] = []

    def __call__(self, average: Generator) -> dict[str, float]:
        self.seen.append({name: tensor.clone() for name, tensor in average.state_dict().items()})
        return {"fid": self.values[len(self.seen) - 1]}


def test_the_best_average_is_kept_and_the_last_too(
    small_teacher: Generator, finished_run: tuple[DistillResult, Path]
) -> None:
    student, measure = pruned(small_teacher), Figures(9.0, 4.0, 5.0, 4.0)
    result = distill(
        student, small_teacher, config=EVERYTHING, measure=measure, measure_at=(0, 2, 4, 6), keep_best="fid"
    )
    assert result.best is not None
    assert (result.best.step, result.best.value) == (2, 4.0)  # the first of two equal ones
    expected = Generator(student.config)
    expected.load_state_dict(measure.seen[1])
    expected.mapping.w_avg.copy_(result.best.generator.mapping.w_avg)  # measured again at the end
    assert_same_weights(result.best.generator, expected)
    assert_same_weights(result.generator, finished_run[0].generator)


def test_the_best_average_survives_an_interruption(tmp_path: Path, small_teacher: Generator) -> None:
    student = pruned(small_teacher)
    options = {"config": EVERYTHING, "measure_at": (2, 4, 6), "keep_best": "fid"}
    measured = {"measure": Figures(3.0, 4.0), "checkpoint_dir": tmp_path}
    distill_until(5, student, small_teacher, **options, **measured)
    resumed = distill(student, small_teacher, **options, measure=Figures(5.0), checkpoint_dir=tmp_path).best
    straight = distill(student, small_teacher, **options, measure=Figures(3.0, 4.0, 5.0)).best
    assert resumed is not None and straight is not None
    assert (resumed.step, resumed.value) == (straight.step, straight.value) == (2, 3.0)
    assert_same_weights(resumed.generator, straight.generator)


def test_without_a_measure_the_distance_to_the_teacher_can_decide(small_teacher: Generator) -> None:
    result = distill(pruned(small_teacher), small_teacher, config=EVERYTHING, keep_best="l1_to_teacher")
    assert result.best is not None
    best = min(result.history, key=lambda entry: entry["l1_to_teacher"])
    assert (result.best.step, result.best.value) == (best["step"], best["l1_to_teacher"])


@pytest.mark.parametrize("measure_at", [(), (0, 2)])
def test_an_unknown_figure_for_keep_best_is_refused_before_the_first_step(
    small_teacher: Generator, measure_at: tuple[int, ...]
) -> None:
    measure = Figures(1.0, 2.0) if measure_at else None
    with pytest.raises(UsageError, match=r"keep_best is 'recall', which no entry"):
        distill(
            pruned(small_teacher), small_teacher, config=EVERYTHING, measure=measure, measure_at=measure_at,
            keep_best="recall", on_step=lambda *_: pytest.fail("a step"),
        )  # fmt: skip


def test_quality_is_measured_by_the_recipes_schedule(small_teacher: Generator) -> None:
    config = replace(EVERYTHING, measure_every=4)
    history = distill(pruned(small_teacher), small_teacher, config=config, measure=Figures(1.0, 2.0)).history
    assert {entry["step"]: entry["fid"] for entry in history if "fid" in entry} == {4: 1.0, 6: 2.0}


def test_tensorboard_shows_the_history_and_images(tmp_path: Path, small_teacher: Generator) -> None:
    student, config = pruned(small_teacher), EVERYTHING
    folders = {"checkpoint_dir": tmp_path / "checkpoints", "tensorboard": tmp_path / "board"}
    # The entries of step 4 are on the disk, later ones were never written.
    distill_until(5, student, small_teacher, config=config, **folders)
    history = distill(student, small_teacher, config=config, **folders).history

    board = EventAccumulator(str(tmp_path / "board")).Reload()
    for name in ("l1_to_teacher", "l1", "gan", "discriminator", "path_length"):
        shown = {event.step: event.value for event in board.Scalars(name)}
        # float32, as TensorBoard stores them
        assert shown == pytest.approx({entry["step"]: entry[name] for entry in history if name in entry}, rel=1e-6)
    assert {event.step: event.value for event in board.Scalars("learning_rate")}[6] == pytest.approx(
        config.learning_rate(6)
    )
    pictures = board.Images("teacher above student")
    assert [picture.step for picture in pictures] == [0, 2, 4, 6]
    assert (pictures[0].width, pictures[0].height) == (8 * 8, 2 * 8)
