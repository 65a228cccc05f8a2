from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.compression.scoring.elimination import (
    Regression,
    costs_along,
    elimination_order,
    scores_along,
)

from .definitions import elimination_order_by_definition, error_of


def random_reader(channels: int, responses: int, seed: int, samples: int = 12) -> Regression:
    """A layer that reads correlated channels: few samples leave a moment that only the ridge makes definite."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(channels, samples, generator=source, dtype=torch.float64)
    moment = x @ x.T / samples + 0.01 * torch.eye(channels, dtype=torch.float64)
    return Regression(torch.randn(responses, channels, generator=source, dtype=torch.float64), moment)


@given(
    channels=st.integers(1, 9), responses=st.lists(st.integers(1, 12), min_size=1, max_size=3), seed=st.integers(0, 999)
)
@settings(max_examples=40, deadline=None)
def test_downdates_drop_the_channels_that_solving_anew_drops(channels: int, responses: list[int], seed: int) -> None:
    readers = [random_reader(channels, count, seed + index) for index, count in enumerate(responses)]
    assert elimination_order(readers).tolist() == elimination_order_by_definition(readers).tolist()


def test_costs_are_the_growth_of_the_error_along_any_order() -> None:
    readers = [random_reader(7, 5, 0), random_reader(7, 3, 1)]
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    costs = costs_along(readers, order)
    for dropped in range(8):
        expected = error_of(readers, order[dropped:].tolist())
        assert costs[:dropped].sum().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_all_costs_together_are_the_energy_of_the_response() -> None:
    readers = [random_reader(6, 9, 2), random_reader(6, 3, 3)]
    costs = costs_along(readers, elimination_order(readers))
    assert costs.sum().item() == pytest.approx(sum(float(reader.energy) for reader in readers), rel=1e-12)


def test_elimination_leaves_less_error_than_other_sets_of_the_same_size() -> None:
    readers = [random_reader(8, 6, 4)]
    best = elimination_order(readers)[-4:].tolist()
    others = torch.combinations(torch.arange(8), 4).tolist()
    errors = sorted(error_of(readers, kept) for kept in others)
    assert error_of(readers, best) <= errors[3]  # greedy, so not always the very best of the 70


def test_of_two_copies_one_goes_first_and_the_other_takes_over_its_weights() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, generator=source, dtype=torch.float64)
    x = torch.cat([x, x[1:2]])  # channel 4 repeats channel 1
    moment = x @ x.T / 50 + 1e-9 * torch.eye(5, dtype=torch.float64)
    reader = Regression(torch.ones(1, 5, dtype=torch.float64), moment)
    order = elimination_order([reader]).tolist()
    costs = costs_along([reader], torch.tensor(order))
    assert order[0] in (1, 4)
    assert costs[0] < 1e-6 * costs[1:].min()
    assert order[-1] == 5 - order[0]  # it now carries twice as much


def test_of_equal_channels_the_lower_index_goes_first() -> None:
    reader = Regression(torch.ones(1, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    assert elimination_order([reader]).tolist() == [0, 1, 2, 3]


def test_channels_that_nothing_reads_cost_nothing_and_go_first() -> None:
    reader = random_reader(6, 4, 5, samples=60)
    reader.weights[:, [2, 4]] = 0
    unread = Regression(reader.weights, torch.diag(reader.moment.diagonal()))  # and stand for no other
    order = elimination_order([unread])
    assert order[:2].tolist() == [2, 4]
    assert costs_along([unread], order)[:2].tolist() == [0.0, 0.0]


def test_rotating_the_rows_of_the_weights_changes_nothing() -> None:
    reader = random_reader(6, 6, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    rotated = Regression(rotation @ reader.weights, reader.moment)
    order = elimination_order([reader])
    assert order.tolist() == elimination_order([rotated]).tolist()
    torch.testing.assert_close(costs_along([reader], order), costs_along([rotated], order))


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30), st.integers(0, 99))
def test_sorting_the_scores_returns_the_order(costs: list[float], seed: int) -> None:
    order = torch.randperm(len(costs), generator=torch.Generator().manual_seed(seed))
    scores = scores_along(order, torch.tensor(costs, dtype=torch.float64))
    assert scores.argsort().tolist() == order.tolist()
    assert scores.sum().item() == pytest.approx(sum(costs), rel=1e-9, abs=1e-12)
    assert len(set(scores.tolist())) == len(costs)


def test_a_cost_below_an_earlier_one_shares_their_mean() -> None:
    scores = scores_along(torch.tensor([2, 0, 1, 3]), torch.tensor([1.0, 6.0, 2.0, 9.0], dtype=torch.float64))
    assert scores.tolist() == pytest.approx([4.0, 4.0, 1.0, 9.0])
    assert scores[0] < scores[1]


@pytest.mark.gpu
def test_a_gpu_finds_the_same_order() -> None:
    reader = random_reader(64, 64, 7, samples=200)
    moved = Regression(reader.weights.cuda(), reader.moment.cuda())
    assert elimination_order([moved]).cpu().tolist() == elimination_order([reader]).tolist()
