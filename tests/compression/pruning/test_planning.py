from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.compression import ChannelScores, PruningPlan, plan, prune, score
from dcp_deploy.compression.scoring.channel_scores import kept_width
from dcp_deploy.errors import CorruptFileError, UsageError
from dcp_deploy.generators import Generator, GeneratorConfig, count_macs, count_parameters
from dcp_deploy.generators.latents import stream

from ..conftest import make_generator, make_stylegan3


def random_scores(config: GeneratorConfig, seed: int = 0) -> ChannelScores:
    source = stream(seed, "test")
    return ChannelScores(tuple(torch.rand(w, generator=source, dtype=torch.float64) for w in config.widths), {})


@torch.no_grad()
def images(generator: Generator, count: int = 4) -> torch.Tensor:
    z = torch.randn(count, generator.config.z_dim, generator=stream(0, "z"))
    c = (
        torch.eye(generator.config.c_dim)[torch.arange(count) % generator.config.c_dim]
        if generator.config.c_dim
        else None
    )
    return generator(z, c, psi=0.8)


# ---- plans ----


def test_a_plan_says_what_speaks_against_it() -> None:
    config = GeneratorConfig(16, (256,) * 6)
    scores = random_scores(config)
    assert plan(config, scores, ratio=0.7, align=8).caveats == []
    assert "align 7 leaves layers whose channels are not multiples of 8" in plan(config, scores, align=7).caveats[0]
    (thin,) = plan(config, scores, ratio=0.99, align=8).caveats
    assert thin == "only 3.1% of the channels are left, 8 to 8 in a layer; published students keep 30 %"
    assert plan(config, scores, ratio=0.0, align=1).caveats == []  # align 1, but nothing is removed


def test_a_plan_that_removes_nothing_says_so() -> None:
    config = GeneratorConfig(16, (8,) * 6)
    whole = plan(config, random_scores(config), ratio=0.99, align=8)
    assert whole.caveats == ["no channel is removed: with align 8 each layer keeps all that it has"]


@pytest.mark.parametrize(
    ("resolution", "parameters", "macs", "widths"),
    [
        (256, 5_573_364, 4_123_578_080, (154,) * 10 + (77, 77, 39, 39)),
        (512, 5_624_616, 5_543_128_288, (154,) * 10 + (77, 77, 39, 39, 20, 20)),
        (1024, 5_647_891, 6_990_183_648, (154,) * 10 + (77, 77, 39, 39, 20, 20, 10, 10)),
    ],
)
def test_the_published_ratio_gives_the_published_sizes(
    resolution: int, parameters: int, macs: int, widths: tuple[int, ...]
) -> None:
    config = GeneratorConfig.stylegan2(resolution)
    planned = plan(config, random_scores(config), ratio=0.7, align=1)
    assert planned.widths == widths
    assert planned.to_dict()["student"] == {"widths": list(widths), "parameters": parameters, "macs": macs}


def test_a_pruned_network_has_the_planned_size(new_generator: Callable[..., Generator]) -> None:
    teacher = new_generator(resolution=64, widths=(64,) * 8 + (32, 32))
    planned = plan(teacher, random_scores(teacher.config), ratio=0.7, align=1)
    student = prune(teacher, planned, refine="none")
    costs = planned.to_dict()["student"]
    assert (count_parameters(student), count_macs(student)) == (costs["parameters"], costs["macs"])


def test_the_lowest_scores_are_dropped_and_the_order_is_kept() -> None:
    config = GeneratorConfig(4, (6, 5), z_dim=4, w_dim=4)
    layers = ([3.0, 1.0, 9.0, 2.0, 8.0, 7.0], [0.1, 0.5, 0.4, 0.3, 0.2])
    scores = ChannelScores(tuple(torch.tensor(layer, dtype=torch.float64) for layer in layers), {})
    kept = plan(config, scores, ratio=0.5, align=1).kept
    assert [k.tolist() for k in kept] == [[2, 4, 5], [1, 2, 3]]


def test_equal_scores_drop_the_lower_index_first() -> None:
    config = GeneratorConfig(4, (4, 4), z_dim=4, w_dim=4)
    scores = ChannelScores((torch.zeros(4).double(), torch.ones(4).double()), {})
    assert [k.tolist() for k in plan(config, scores, ratio=0.5, align=1).kept] == [[2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("channels", "ratio", "align", "kept"),
    [
        (512, 0.7, 8, 152),  # 154 lies nearer to 152 than to 160
        (256, 0.7, 8, 80),  # 77
        (128, 0.7, 8, 40),  # 39
        (40, 0.7, 8, 16),  # 12 lies halfway and rounds up
        (16, 0.9, 8, 8),  # never fewer than one group
        (6, 0.5, 8, 6),  # less than one group is kept whole
        (20, 0.05, 8, 16),  # 19 would round to 24, more than there are
        (20, 0.0, 8, 20),  # keeping all means all
        (100, 0.29, 1, 71),  # 0.29 * 100 is 28.999999999999996
    ],
)
def test_kept_width_rounds_to_the_nearest_group(channels: int, ratio: float, align: int, kept: int) -> None:
    assert kept_width(channels, ratio, align) == kept


@given(st.integers(1, 600), st.floats(0, 1, exclude_max=True), st.sampled_from([1, 8, 16, 32]))
def test_kept_width_stays_in_range_and_near_the_ratio(channels: int, ratio: float, align: int) -> None:
    kept = kept_width(channels, ratio, align)
    exact = channels * (1 - ratio)
    assert 1 <= kept <= channels
    assert kept % align == 0 or kept == channels
    assert kept >= align or kept == channels
    assert abs(kept - exact) <= 1 + align


@pytest.mark.parametrize(
    ("setting", "value"), [("ratio", -0.1), ("ratio", 1.0), ("ratio", 1.2), ("ratio", float("nan")), ("align", 0)]
)
def test_settings_outside_their_range_are_refused(teacher: Generator, setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{setting} must be at least .*got {value:g}"):
        plan(teacher, random_scores(teacher.config), **{"align": 1, setting: value})  # type: ignore[arg-type]


def test_scores_of_another_generator_are_refused(teacher: Generator) -> None:
    other = GeneratorConfig(16, (9,) * 6)
    with pytest.raises(UsageError, match=r"\[9, 9, 9, 9, 9, 9\].*\[12, 10, 11, 9, 8, 7\]"):
        plan(teacher, random_scores(other), align=1)


def test_scores_of_another_generator_with_the_same_widths_are_refused(teacher: Generator) -> None:
    other = copy.deepcopy(teacher)
    scores = score(other, method="weight-out")
    plan(teacher, scores, align=1)  # the same weights
    with torch.no_grad():
        other.mapping.w_avg[0] += 1
    with pytest.raises(UsageError, match="another network with the same widths"):
        plan(other, scores, align=1)


def test_scores_that_are_not_finite_are_refused(teacher: Generator) -> None:
    scores = random_scores(teacher.config)
    scores.scores[2][0] = float("nan")
    with pytest.raises(CorruptFileError, match="layer 2"):
        plan(teacher, scores, align=1)


def test_the_table_names_every_layer_and_both_costs(teacher: Generator) -> None:
    planned = plan(teacher, random_scores(teacher.config), ratio=0.5, align=1)
    table = str(planned)
    for name, before, after in zip(teacher.config.layer_names, teacher.widths, planned.widths, strict=True):
        assert f"{name:<12} {before:>8} {after:>6}" in table
    assert f"parameters: {count_parameters(teacher):,} -> {count_parameters(planned.config):,}" in table
    assert f"macs: {count_macs(teacher):,} -> {count_macs(planned.config):,}" in table


# ---- slicing ----


@pytest.mark.parametrize("changes", [{}, {"c_dim": 3}, {"conv_clamp": 1.0}, "t", "r"])
def test_keeping_all_channels_reproduces_the_teacher_bit_for_bit(changes: Any) -> None:
    teacher = make_stylegan3(changes) if isinstance(changes, str) else make_generator(**changes)
    student = prune(teacher, plan(teacher, score(teacher, method="random"), ratio=0, align=1), refine="none")
    assert student.state_dict().keys() == teacher.state_dict().keys()
    assert all(torch.equal(tensor, teacher.state_dict()[name]) for name, tensor in student.state_dict().items())
    assert torch.equal(images(student), images(teacher))


@pytest.mark.parametrize("changes", [{}, {"c_dim": 3}, {"conv_clamp": 1.0}])
def test_slicing_equals_zeroing_the_consumers_weights(
    new_generator: Callable[..., Generator], changes: dict[str, object]
) -> None:
    teacher = new_generator(**changes)
    planned = plan(teacher, random_scores(teacher.config), ratio=0.6, align=1)
    zeroed = new_generator(**changes)
    dropped = [[c for c in range(w) if c not in kept] for w, kept in zip(teacher.widths, planned.kept, strict=True)]
    with torch.no_grad():
        # Zeroed inputs drop out of the demodulation sums too, as sliced ones do.
        for layer, (_, conv) in enumerate(zeroed.synthesis.convs()):
            conv.weight[:, dropped[layer]] = 0
        for level, (_, torgb) in enumerate(zeroed.synthesis.torgbs()):
            torgb.weight[:, dropped[2 * level + 1]] = 0
    # Float32 sums of other lengths: some rounding steps on images of magnitude about 3.
    torch.testing.assert_close(images(prune(teacher, planned, refine="none")), images(zeroed), rtol=1e-5, atol=2e-5)


def test_slicing_a_stylegan3_equals_zeroing_the_next_layers_weights(stylegan3: Generator) -> None:
    planned = plan(stylegan3, random_scores(stylegan3.config), ratio=0.6, align=1)
    zeroed = copy.deepcopy(stylegan3)
    with torch.no_grad():
        for (_, layer), width, kept in zip(zeroed.synthesis.scored(), stylegan3.widths, planned.kept, strict=True):
            layer.weight[:, [c for c in range(width) if c not in kept]] = 0
    # Float32 sums of other lengths, and the epsilon of demodulation meets weights normalised over fewer channels.
    torch.testing.assert_close(images(prune(stylegan3, planned, refine="none")), images(zeroed), rtol=1e-5, atol=2e-5)


def test_pruning_a_stylegan3_keeps_its_frequencies(stylegan3: Generator) -> None:
    student = prune(stylegan3, plan(stylegan3, random_scores(stylegan3.config), ratio=0.5, align=1), refine="none")
    assert torch.equal(student.synthesis.get_buffer("input.freqs"), stylegan3.synthesis.get_buffer("input.freqs"))
    assert student.synthesis.get_parameter("input.weight").shape == (student.widths[0], 9)


def test_permuting_channels_changes_nothing(any_generator: Generator) -> None:
    orders = tuple(torch.randperm(width, generator=stream(3, i)) for i, width in enumerate(any_generator.widths))
    permuted = prune(any_generator, PruningPlan(any_generator.config, orders, ratio=0.0, align=1), refine="none")
    first = "b4.const" if any_generator.config.layout is None else "input.weight"
    assert not torch.equal(permuted.synthesis.get_parameter(first), any_generator.synthesis.get_parameter(first))
    # Sums over channels run in another order, in float32.
    torch.testing.assert_close(images(permuted), images(any_generator), rtol=1e-5, atol=2e-5)


def test_pruning_twice_equals_pruning_once(teacher: Generator) -> None:
    first = plan(teacher, random_scores(teacher.config), ratio=0.3, align=1)
    once = prune(teacher, first, refine="none")
    second = plan(once, random_scores(once.config, seed=1), ratio=0.4, align=1)
    together = tuple(a[b] for a, b in zip(first.kept, second.kept, strict=True))
    direct = prune(teacher, PruningPlan(teacher.config, together, ratio=0.0, align=1), refine="none")
    # The two toRGB factors sqrt(C'/C) are applied at once or one after the other.
    torch.testing.assert_close(images(prune(once, second, refine="none")), images(direct), rtol=1e-5, atol=1e-5)


def test_the_mapping_network_and_the_noise_are_inherited(teacher: Generator) -> None:
    student = prune(teacher, plan(teacher, random_scores(teacher.config), ratio=0.5, align=1), refine="none")
    before, after = teacher.state_dict(), student.state_dict()
    inherited = [name for name in before if name.startswith("mapping.") or "noise_" in name]
    assert "mapping.w_avg" in inherited
    assert all(torch.equal(before[name], after[name]) for name in inherited)


def test_pruning_shares_no_memory_with_the_teacher(teacher: Generator) -> None:
    before = images(teacher)
    student = prune(teacher, plan(teacher, random_scores(teacher.config), ratio=0, align=1), refine="none")
    with torch.no_grad():
        for tensor in student.state_dict().values():
            tensor.fill_(1.0)
    assert torch.equal(images(teacher), before)


def test_a_pruned_network_can_train_and_the_global_random_state_is_unchanged(teacher: Generator) -> None:
    before = torch.get_rng_state()
    student = prune(teacher, plan(teacher, random_scores(teacher.config), align=1), refine="none")
    assert torch.equal(torch.get_rng_state(), before)
    student(torch.randn(2, 8, generator=stream(0, "z"))).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.synthesis.parameters())


def test_a_plan_for_another_generator_is_refused(new_generator: Callable[..., Generator]) -> None:
    planned = plan(new_generator(), random_scores(new_generator().config), align=1)
    with pytest.raises(UsageError, match="the plan is for a generator"):
        prune(new_generator(widths=(12, 10, 11, 9, 8, 8)), planned, refine="none")


def test_an_unknown_refinement_is_refused(teacher: Generator) -> None:
    with pytest.raises(UsageError, match="'polish'"):
        prune(teacher, plan(teacher, random_scores(teacher.config), align=1), refine="polish")  # type: ignore[arg-type]
