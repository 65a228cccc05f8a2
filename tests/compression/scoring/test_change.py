from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.compression import (
    ChannelScores,
    PruningPlan,
    load_scores,
    plan,
    prune,
    save_scores,
    score,
)
from dcp_deploy.compression.scoring import change
from dcp_deploy.compression.scoring.change import mixed_order
from dcp_deploy.errors import CorruptFileError, InputError, UsageError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import stream

from ..conftest import assert_same_scores
from .definitions import elimination_order_by_definition

FEW: dict[str, Any] = {"method": "change", "latents": 12, "batch": 4}


def ranks(scores: ChannelScores) -> list[list[int]]:
    return [layer.argsort().tolist() for layer in scores.scores]


# ---- what a score is ----


@pytest.mark.parametrize("method", ["change", "hybrid"])
def test_the_scores_of_a_layer_are_shares_of_its_response(any_generator: Generator, method: str) -> None:
    scores = score(any_generator, **{**FEW, "method": method})
    assert scores.widths == any_generator.widths
    for layer in scores.scores:
        assert layer.dtype == torch.float64 and (layer >= 0).all()
        assert layer.sum().item() == pytest.approx(1.0, abs=1e-6)
        assert len(set(layer.tolist())) == len(layer)


def test_the_fast_path_and_the_definition_keep_the_same_channels(
    any_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = score(any_generator, **FEW)
    monkeypatch.setattr(change, "elimination_order", elimination_order_by_definition)
    assert_same_scores(fast, score(any_generator, **FEW))


@pytest.mark.parametrize("method", ["change", "hybrid"])
def test_every_ratio_alignment_and_budget_cuts_the_same_order(teacher: Generator, method: str) -> None:
    scores = score(teacher, **{**FEW, "method": method})
    order = ranks(scores)
    plans = [plan(teacher, scores, ratio=ratio, align=align) for ratio in (0.2, 0.5, 0.8) for align in (1, 4)]
    plans += [plan(teacher, scores, target_macs=target, align=1) for target in (0.2, 0.5)]
    for planned in plans:
        for kept, ranked in zip(planned.kept, order, strict=True):
            assert kept.tolist() == sorted(ranked[len(ranked) - len(kept) :])


def test_scores_depend_on_the_seed_and_not_on_the_global_random_state(teacher: Generator) -> None:
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), score(teacher, **FEW)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same_scores(first, score(teacher, **FEW))
    assert not torch.equal(first.scores[0], score(teacher, seed=1, **FEW).scores[0])


def test_scoring_leaves_the_generator_untouched(teacher: Generator) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    score(teacher, **FEW)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_class_conditional_generators_can_be_scored(new_generator: Callable[..., Generator]) -> None:
    scores = score(new_generator(c_dim=3), **FEW)
    assert all(layer.sum().item() == pytest.approx(1.0, abs=1e-6) for layer in scores.scores)


# ---- what it does not depend on ----


def test_permuting_channels_permutes_the_scores(teacher: Generator) -> None:
    orders = tuple(torch.randperm(width, generator=stream(5, width)) for width in teacher.widths)
    permuted = prune(teacher, PruningPlan(teacher.config, orders, ratio=0.0, align=1), refine="none")
    for before, after, order in zip(score(teacher, **FEW).scores, score(permuted, **FEW).scores, orders, strict=True):
        torch.testing.assert_close(after, before[order], rtol=1e-3, atol=1e-6)  # sums in another order, in float32


@torch.no_grad()
def scale_outputs(teacher: Generator) -> None:
    """Scale every filter of the convolutions by another number: demodulation cancels it."""
    for _, conv in teacher.synthesis.convs():
        conv.weight.mul_(torch.linspace(0.5, 8, len(conv.weight))[:, None, None, None])


@torch.no_grad()
def shift_scale_to_styles(teacher: Generator) -> None:
    """Divide the weights that read a channel by a number, and multiply its style by it."""
    for _, layer in (*teacher.synthesis.convs(), *teacher.synthesis.torgbs()):
        factors = torch.linspace(0.25, 4, layer.weight.shape[1])
        layer.weight.div_(factors[:, None, None])
        layer.affine.weight.mul_(factors[:, None])
        layer.affine.bias.mul_(factors)


@pytest.mark.parametrize("rescale", [scale_outputs, shift_scale_to_styles])
def test_scales_that_no_image_shows_change_no_score(teacher: Generator, rescale: Callable[[Generator], None]) -> None:
    settings = {**FEW, "change_weight": 0.5}
    before = score(teacher, **settings).scores
    z = torch.randn(2, teacher.config.z_dim, generator=stream(0, "z"))
    with torch.no_grad():
        image = teacher(z)
        rescale(teacher)
        torch.testing.assert_close(teacher(z), image, rtol=1e-3, atol=1e-4)
    for one, other in zip(before, score(teacher, **settings).scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


# ---- which channels it keeps ----


def test_of_channels_that_carry_the_same_one_goes_first(new_generator: Callable[..., Generator]) -> None:
    teacher = new_generator(widths=(12, 10, 12, 8, 8, 6))
    with torch.no_grad():
        teacher.synthesis.get_parameter("b4.const")[1::2] = teacher.synthesis.get_parameter("b4.const")[::2]
        for _, conv in teacher.synthesis.convs():
            conv.weight[1::2], conv.bias[1::2] = conv.weight[::2], conv.bias[::2]
        for _, layer in (*teacher.synthesis.convs(), *teacher.synthesis.torgbs()):
            layer.affine.weight[1::2], layer.affine.bias[1::2] = layer.affine.weight[::2], layer.affine.bias[::2]
    for scores in score(teacher, **FEW).scores:
        kept = scores.argsort()[len(scores) // 2 :]
        assert sorted((kept // 2).tolist()) == list(range(len(scores) // 2))
        assert scores[kept].sum().item() > 0.95  # the ridge makes copies a little less than that


def test_channels_that_do_not_change_go_first_unless_values_count(new_generator: Callable[..., Generator]) -> None:
    """A channel of the constant whose style is constant carries no change, and a large value."""
    teacher = new_generator()
    conv = teacher.synthesis.convs()[0][1]
    with torch.no_grad():
        conv.affine.weight[3] = 0
        conv.affine.bias[3] = 8.0
    # Demodulation still varies, and its change is spread over all channels.
    changes, values = (score(teacher, change_weight=weight, **FEW).scores[0] for weight in (1.0, 0.0))
    assert changes[3] < values[3]


def test_an_unused_channel_goes_first(teacher: Generator) -> None:
    with torch.no_grad():
        for layer in (teacher.synthesis.convs()[2][1], teacher.synthesis.torgbs()[0][1]):
            layer.weight[:, 1] = 0
    scores = score(teacher, **FEW).scores
    assert scores[2].argmin() == 1 and scores[2][1] < 1e-9


# ---- the hybrid ----


@given(st.permutations(range(9)), st.permutations(range(9)), st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]))
def test_a_mixed_order_takes_its_share_from_elimination_at_every_width(
    eliminated: list[int], strongest: list[int], share: float
) -> None:
    order = mixed_order(torch.tensor(eliminated), torch.tensor(strongest), share).tolist()
    assert sorted(order) == list(range(9))
    best = order[::-1]
    for n in range(1, 10):
        quota = int(share * n + 0.5)
        assert set(eliminated[9 - quota :]) <= set(best[:n])
        others = [channel for channel in best[:n] if channel not in eliminated[9 - quota :]]
        if share == 0.0:
            assert others == strongest[:n]


def test_a_share_of_one_is_elimination_and_of_none_the_largest_weights(teacher: Generator) -> None:
    whole = score(teacher, **{**FEW, "method": "hybrid", "hybrid_share": 1.0, "change_weight": 1.0})
    assert ranks(whole) == ranks(score(teacher, **FEW))
    none = score(teacher, **{**FEW, "method": "hybrid", "hybrid_share": 0.0})
    assert ranks(none) == ranks(score(teacher, method="weight-out"))


def test_the_hybrid_keeps_channels_of_both(teacher: Generator) -> None:
    hybrid = score(teacher, **{**FEW, "method": "hybrid", "change_weight": 1.0})
    last = len(teacher.widths) - 1  # where no layer above has another order
    survivors = ranks(score(teacher, **FEW))[last][-2:]
    strongest = ranks(score(teacher, method="weight-out"))[last][-1]
    assert {*survivors, strongest} <= set(ranks(hybrid)[last][-4:])


# ---- settings and shards ----


def test_settings_are_recorded(teacher: Generator) -> None:
    settings = score(teacher, latents=14, directions=4, method="hybrid").settings
    assert len(settings.pop("stability")) == len(teacher.widths)
    assert len(settings.pop("network")) == 64
    assert settings == {
        "method": "hybrid", "seed": 0, "latents": 12, "directions": 4, "alpha": 3.0, "batch": 5, "psi": 1.0,
        "change_weight": 0.5, "hybrid_share": 0.5,
    }  # fmt: skip


def test_directions_hold_the_variance_with_enough_latents_each(teacher: Generator) -> None:
    assert score(teacher, method="change", latents=12).settings["directions"] == 3
    assert score(teacher, method="change", latents=1000).settings["directions"] <= teacher.config.w_dim


def test_progress_counts_latents(teacher: Generator) -> None:
    calls: list[tuple[int, int]] = []
    score(teacher, progress=lambda done, total: calls.append((done, total)), **FEW)
    assert calls == [(4, 12), (8, 12), (12, 12)]


def test_moments_that_are_not_finite_are_refused(teacher: Generator, tmp_path: Path) -> None:
    part = score(teacher, shard=(0, 2), **FEW)
    part.moments[1][0, 0] = torch.nan
    save_scores(part, tmp_path / "s.safetensors")
    with pytest.raises(CorruptFileError, match="moment 1"):
        load_scores(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"latents": 0}, "0 latents"),
        ({"latents": "auto"}, "does not choose"),
        ({"batch": 0}, "batch 0"),
        ({"directions": 13}, "13 directions for 12"),
        ({"directions": 0}, "0 directions"),
        ({"latents": 5000, "directions": 4000}, "codes have"),
        ({"method": "weight-out", "hybrid_share": 7}, "hybrid share"),
        ({"alpha": 0.0}, "alpha"),
        ({"psi": float("nan")}, "psi"),
        ({"change_weight": 1.5}, "change weight"),
        ({"change_weight": float("nan")}, "change weight"),
        ({"method": "hybrid", "hybrid_share": 50}, "for 50 % write 0.5"),
        ({"released": True}, "released does not apply"),
        ({"shard": (2, 2)}, "does not exist"),
    ],
)
def test_settings_that_cannot_work_are_refused(teacher: Generator, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        score(teacher, **{**FEW, **settings})
    assert named in f"{caught.value} {caught.value.remedy}"


def test_a_teacher_that_produces_nan_is_refused(teacher: Generator) -> None:
    with torch.no_grad():
        teacher.synthesis.convs()[1][1].bias[0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        score(teacher, **FEW)


def test_layers_that_never_change_still_have_an_order(teacher: Generator) -> None:
    """The first layer reads a constant; if its styles ignore the latent, the weights decide."""
    with torch.no_grad():
        teacher.synthesis.convs()[0][1].affine.weight.zero_()
        teacher.synthesis.torgbs()[0][1].affine.weight.zero_()
    for layer in score(teacher, **FEW).scores:
        assert layer.isfinite().all() and len(set(layer.tolist())) == len(layer)


def test_a_dead_layer_is_scored_however_large_its_styles_are(teacher: Generator) -> None:
    """Its response has no energy to divide by; dividing by next to nothing overflowed."""
    with torch.no_grad():
        layer = teacher.synthesis.torgbs()[-1][1]
        layer.weight.zero_()
        layer.affine.weight.mul_(1e4)
    for scores in score(teacher, **FEW).scores:
        assert scores.isfinite().all()


@pytest.mark.parametrize("alpha", [1e-10, 1e-7])
def test_moves_that_change_nothing_but_rounding_are_refused(teacher: Generator, alpha: float) -> None:
    with pytest.raises(UsageError, match=f"moves of {alpha:g} standard deviations change no features"):
        score(teacher, alpha=alpha, **FEW)


def test_directions_without_variance_count_for_nothing(teacher: Generator) -> None:
    """All codes lie on one line, so the second direction and all others hold rounding alone."""
    with torch.no_grad():
        *_, last = teacher.mapping.children()
        last.weight.copy_(last.weight[:1].expand_as(last.weight))
        last.bias.copy_(last.bias[:1].expand_as(last.bias))
    few = {**FEW, "latents": 16, "directions": 4}
    assert ranks(score(teacher, **few | {"batch": 1})) == ranks(score(teacher, **few | {"batch": 4}))
