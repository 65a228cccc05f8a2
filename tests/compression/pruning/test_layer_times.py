from __future__ import annotations

import itertools

import pytest
import torch

from dcp_deploy.compression import ChannelScores, plan
from dcp_deploy.compression.pruning import layer_times
from dcp_deploy.compression.pruning.layer_times import FRACTIONS, latency_cost
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator


def set_clock(monkeypatch: pytest.MonkeyPatch, *steps: float) -> None:
    """Make the clock advance by the next of these steps (ms), in turns, each time that it is read."""
    readings = itertools.accumulate(itertools.cycle(steps))
    monkeypatch.setattr(layer_times, "_now", lambda device: next(readings))


def ones(generator: Generator) -> ChannelScores:
    return ChannelScores(tuple(torch.ones(width, dtype=torch.float64) for width in generator.widths), {})


def test_times_that_do_not_depend_on_the_widths_are_a_constant(
    teacher: Generator, stylegan3: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, 2.0)
    for generator, layers in ((teacher, 5 + 3), (stylegan3, 6)):  # convolutions and toRGBs; all layers
        cost = latency_cost(generator)
        assert cost(generator.widths) == pytest.approx(2.0 * (1 + layers))
        assert cost([1] * len(generator.widths)) == pytest.approx(2.0 * (1 + layers))


@pytest.mark.parametrize("power", [1, 2])
def test_a_time_that_follows_the_widths_is_predicted(
    teacher: Generator, monkeypatch: pytest.MonkeyPatch, power: int
) -> None:
    """Every layer of the network of width f takes f ** power, and the prediction equals that measured time."""
    laps = 9  # mapping and eight layers; the clock is read once more, at the start
    set_clock(monkeypatch, *(f**power for f in FRACTIONS for _ in range((laps + 1) * layer_times.ROUNDS)))
    cost = latency_cost(teacher)
    assert cost(teacher.widths) == pytest.approx(laps)
    halved = [width / 2 for width in teacher.widths]
    # The mapping network's time is constant. A toRGB is linear in its only width, whatever was measured.
    mapping, torgbs, convs = 1, 3, 5
    assert cost(halved) == pytest.approx(mapping + torgbs / 2 + convs / 2**power)  # type: ignore[arg-type]


def test_the_fit_is_exact_where_three_times_allow_it_and_never_negative() -> None:
    times = [1 + 2 * f + 3 * f**2 for f in FRACTIONS]
    assert layer_times._fit(torch.tensor(times).double().numpy()) == pytest.approx([1, 2, 3])
    assert (layer_times._fit(torch.tensor([1.0, 2.0, 3.0]).double().numpy()) >= 0).all()


def test_a_plan_stays_within_the_predicted_time(teacher: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = 10 * layer_times.ROUNDS
    set_clock(monkeypatch, *(f for f in FRACTIONS for _ in range(readings)))
    planned = plan(teacher, ones(teacher), target_latency=5.0, align=1)
    assert 4.0 < latency_cost(teacher)(planned.widths) <= 5.0
    assert planned.target == "latency 5 ms"


def test_real_times_are_positive_and_leave_the_global_random_state(teacher: Generator) -> None:
    before = torch.get_rng_state()
    cost = latency_cost(teacher)
    assert torch.equal(torch.get_rng_state(), before)
    assert cost(teacher.widths) >= cost([1] * len(teacher.widths)) > 0


@pytest.mark.parametrize("wanted", [0.0, -1.0, float("nan")])
def test_a_target_time_that_is_not_positive_is_refused(teacher: Generator, wanted: float) -> None:
    with pytest.raises(UsageError, match="cannot be planned"):
        plan(teacher, ones(teacher), target_latency=wanted, align=1)


def test_a_config_alone_cannot_be_timed(teacher: Generator) -> None:
    with pytest.raises(UsageError, match="generator"):
        plan(teacher.config, ones(teacher), target_latency=1.0, align=1)
