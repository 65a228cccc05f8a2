from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dcp_deploy.compression import ChannelScores, plan, prune
from dcp_deploy.compression.pruning.budget import Cost, counted_cost, widths_within
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout, count_macs, count_parameters
from dcp_deploy.generators.latents import stream

SG2 = GeneratorConfig.stylegan2(32, channel_base=1024, channel_max=64, z_dim=16, w_dim=16, mapping_layers=2)
SG3 = GeneratorConfig(
    16, (16, 16, 12, 9, 8, 8), z_dim=16, w_dim=16, mapping_layers=2, kind="stylegan3",
    layout=StyleGAN3Layout(9, num_layers=5, margin=4),
)  # fmt: skip


def random_scores(config: GeneratorConfig) -> ChannelScores:
    source = stream(0, "budget")
    layers = (torch.rand(width, generator=source, dtype=torch.float64).square() for width in config.widths)
    return ChannelScores(tuple(layers), {})


@pytest.mark.parametrize("config", [SG2, SG3], ids=["stylegan2", "stylegan3"])
def test_the_formula_counts_what_the_network_counts(config: GeneratorConfig) -> None:
    macs, parameters = counted_cost(config, count_macs), counted_cost(config, count_parameters)
    source = np.random.default_rng(0)
    for _ in range(3):
        widths = tuple(source.integers(1, 70, len(config.widths)).tolist())
        other = replace(config, widths=widths)
        assert macs(widths) == count_macs(other)
        assert parameters(widths) == count_parameters(other)


def test_the_slope_is_what_one_channel_more_costs() -> None:
    cost, widths = counted_cost(SG2, count_macs), list(SG2.widths)
    for layer in range(len(widths)):
        wider = [width + (i == layer) for i, width in enumerate(widths)]
        assert cost.slope(widths, layer) == cost(wider) - cost(widths)


@pytest.mark.parametrize("config", [SG2, SG3], ids=["stylegan2", "stylegan3"])
@pytest.mark.parametrize(("name", "count"), [("target_macs", count_macs), ("target_params", count_parameters)])
@pytest.mark.parametrize("align", [1, 4])
def test_a_target_is_met_and_nearly_used_up(config: GeneratorConfig, name: str, count: object, align: int) -> None:
    planned = plan(config, random_scores(config), align=align, **{name: 0.3})
    share = count(planned.config) / count(config)  # type: ignore[operator]
    assert 0.24 < share <= 0.3  # one group of four channels is at most a fifth of the cost of such a small network
    assert all(width % align == 0 or width == whole for width, whole in zip(planned.widths, config.widths, strict=True))
    assert planned.ratio == pytest.approx(1 - sum(planned.widths) / sum(config.widths))
    assert planned.to_dict()["target"] == f"{name.split('_')[1].replace('params', 'parameters')} 0.3"


def test_the_highest_scores_of_each_layer_stay() -> None:
    scores = random_scores(SG2)
    for layer, kept in zip(scores.scores, plan(SG2, scores, target_macs=0.2, align=1).kept, strict=True):
        lost = torch.ones(len(layer), dtype=torch.bool)
        lost[kept] = False
        assert not lost.any() or layer[kept].min() >= layer[lost].max()


def test_scaling_the_scores_of_a_layer_changes_nothing() -> None:
    scores = random_scores(SG2)
    scaled = ChannelScores(tuple(layer * 10.0**i for i, layer in enumerate(scores.scores)), {})
    assert plan(SG2, scores, target_macs=0.3, align=1).widths == plan(SG2, scaled, target_macs=0.3, align=1).widths


def test_a_layer_of_few_strong_channels_loses_more_than_an_even_one() -> None:
    cost = Cost(0.0, np.ones(2), np.zeros(1))
    steep, even = 0.5 ** torch.arange(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    steep_width, even_width = widths_within([steep, even], cost, 20, 1)
    assert steep_width + even_width == 20 and steep_width < even_width


def test_the_greedy_plan_is_the_best_of_all_plans_of_a_small_network() -> None:
    """With equal costs the greedy choice is optimal, since the logarithm of a cumulated share is concave."""
    source = stream(1, "small")
    layers = [torch.rand(6, generator=source, dtype=torch.float64) for _ in range(3)]
    found = widths_within(layers, Cost(0.0, np.ones(3), np.zeros(2)), 9, 1)

    def kept(widths: tuple[int, ...]) -> float:
        tops = (layer.sort(descending=True).values for layer in layers)
        return sum(float((top[:n].sum() / top.sum()).log()) for top, n in zip(tops, widths, strict=True))

    choices = [(a, b, 9 - a - b) for a in range(1, 7) for b in range(1, 7) if 1 <= 9 - a - b <= 6]
    assert kept(found) == pytest.approx(max(map(kept, choices)))


def test_a_budget_keeps_more_of_the_scores_than_the_same_share_everywhere() -> None:
    scores = random_scores(SG2)
    uniform = plan(SG2, scores, ratio=0.5, align=1)
    budget = plan(SG2, scores, target_macs=count_macs(uniform.config) / count_macs(SG2), align=1)
    kept = [
        sum(float((s[k].sum() / s.sum()).log()) for s, k in zip(scores.scores, planned.kept, strict=True))
        for planned in (uniform, budget)
    ]
    assert kept[1] > kept[0]


def test_a_target_out_of_reach_is_refused_with_what_can_be_reached() -> None:
    message = r"0\.001 of the macs is out of reach: the smallest network \(16 channels a layer\) has 0\.\d+ of the macs"
    with pytest.raises(UsageError, match=message):
        plan(SG2, random_scores(SG2), align=16, target_macs=0.001)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_a_target_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        plan(SG2, random_scores(SG2), target_params=share, align=1)


def test_two_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="several targets: macs, parameters"):
        plan(SG2, random_scores(SG2), target_params=0.5, target_macs=0.5, align=1)


def test_a_planned_budget_can_be_pruned(teacher: Generator) -> None:
    planned = plan(teacher, random_scores(teacher.config), target_macs=0.5, align=1)
    assert count_macs(prune(teacher, planned, refine="none")) == count_macs(planned.config)


def test_layers_without_any_score_can_be_planned() -> None:
    zeros = ChannelScores(tuple(torch.zeros(width, dtype=torch.float64) for width in SG2.widths), {})
    assert count_macs(plan(SG2, zeros, target_macs=0.5, align=1).config) <= 0.5 * count_macs(SG2)
