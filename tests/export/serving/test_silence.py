"""When a model counts as silent, by a clock that the tests set."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from dcp_deploy.export.serving.silence import FIRST_SECONDS, Answers, probe_of

CONFIG = {
    "max_batch_size": 4,
    "input": [
        {"name": "z", "data_type": "TYPE_FP32", "dims": ["3"]},
        {"name": "class", "data_type": "TYPE_INT64", "dims": [1], "optional": True},
    ],
}
PATIENCE = 20.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(clock: Clock) -> Answers:
    """Return the answers of a small model that has answered a probe in 10 ms."""
    answers = Answers(clock)
    answers.begin({"generator": CONFIG})
    answers.models["generator"].seconds = 0.01
    answers.models["generator"].probed = clock.now
    return answers


def test_a_request_that_nothing_answers_shows_a_silent_model(answers: Answers, clock: Clock) -> None:
    with answers.waiting("generator"):
        clock.now += PATIENCE
        assert answers.silent(PATIENCE) is None
        clock.now += 1
        assert answers.silent(PATIENCE) == "generator"
    assert answers.silent(PATIENCE) is None


@pytest.fixture
def two(answers: Answers, clock: Clock) -> Answers:
    """Return the answers of two such models, a generator and one that calls it."""
    answers.begin({"generator": CONFIG, "picture": CONFIG})
    for model in answers.models.values():
        model.seconds, model.probed = 0.01, clock.now
    return answers


def test_requests_that_wait_long_in_a_queue_that_moves_do_not_nor_do_those_of_a_caller(
    two: Answers, clock: Clock
) -> None:
    with ExitStack() as stack:
        queue = [stack.enter_context(two.waiting("generator")) for _ in range(30)]
        picture = stack.enter_context(two.waiting("picture"))
        for answered in queue:
            clock.now += PATIENCE / 2
            assert two.silent(PATIENCE) is None
            answered()
        picture()


@pytest.mark.parametrize("busy", ["picture", "generator"])
def test_a_request_that_much_later_ones_overtake_shows_what_hangs(two: Answers, clock: Clock, busy: str) -> None:
    """An instance if the model still answers others, the model if only another one does."""
    with two.waiting("picture"):
        for _ in range(3):
            clock.now += PATIENCE / 2.5
            assert two.silent(PATIENCE) is None
            with two.waiting(busy) as answered:
                answered()
        assert two.silent(PATIENCE) == "picture"


def test_an_error_is_not_an_answer(answers: Answers, clock: Clock) -> None:
    with answers.waiting("generator"):
        for _ in range(3):
            clock.now += PATIENCE / 2
            with answers.waiting("generator"):
                pass
        assert answers.silent(PATIENCE) == "generator"


def test_a_large_model_gets_as_long_as_its_largest_batch_needs(answers: Answers, clock: Clock) -> None:
    answers.models["generator"].seconds = 3.0
    with answers.waiting("generator"):
        clock.now += 10 * 4 * 3.0
        assert answers.silent(PATIENCE) is None
        clock.now += 1
        assert answers.silent(PATIENCE) == "generator"


def test_a_model_of_unknown_speed_gets_the_longest_time(clock: Clock) -> None:
    answers = Answers(clock)
    answers.begin({"generator": CONFIG})
    with answers.waiting("generator"):
        clock.now += FIRST_SECONDS
        assert answers.silent(PATIENCE) is None
        clock.now += 1
        assert answers.silent(PATIENCE) == "generator"


def test_only_an_idle_model_is_probed_and_a_slow_one_less_often(answers: Answers, clock: Clock) -> None:
    clock.now += PATIENCE / 2
    assert answers.idle(PATIENCE) == ["generator"]
    with answers.waiting("generator") as answered:
        assert answers.idle(PATIENCE) == []
        answered()
    assert answers.idle(PATIENCE) == []
    answers.models["generator"].seconds = 3.0
    clock.now += 59
    assert answers.idle(PATIENCE) == []
    clock.now += 1
    assert answers.idle(PATIENCE) == ["generator"]


def test_a_new_model_is_probed_at_once_and_one_that_answers_with_errors_not_all_the_time(clock: Clock) -> None:
    answers = Answers(clock)
    answers.begin({"generator": CONFIG})
    assert answers.idle(PATIENCE) == ["generator"]
    answers.models["generator"].probed = clock.now
    assert answers.idle(PATIENCE) == []


def test_names_that_clients_make_up_are_not_kept(answers: Answers) -> None:
    with answers.waiting("nobody") as answered:
        answered()
    assert list(answers.models) == ["generator"]


def test_a_request_of_models_that_were_replaced_ends_quietly(answers: Answers) -> None:
    with answers.waiting("generator") as answered:
        answers.begin({"generator": CONFIG})
        answered()
    assert answers.models["generator"].waiting == {}


def test_a_probe_asks_for_one_image_of_zeros() -> None:
    probe = probe_of(CONFIG)
    assert probe is not None
    (tensor,) = json.loads(probe)["inputs"]
    assert tensor == {"name": "z", "shape": [1, 3], "datatype": "FP32", "data": [0.0] * 3}


def test_a_model_with_unknown_inputs_is_not_probed() -> None:
    assert probe_of({"max_batch_size": 0, "input": [{"name": "x", "data_type": "TYPE_BF16", "dims": [1]}]}) is None
