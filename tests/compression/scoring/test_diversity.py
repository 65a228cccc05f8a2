from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dcp_deploy.checkpoints.provenance import tensors_sha256
from dcp_deploy.compression import PruningPlan, prune, score
from dcp_deploy.compression.scoring import diversity, methods
from dcp_deploy.compression.scoring.channel_scores import kept_in_common
from dcp_deploy.compression.scoring.directions import principal_directions
from dcp_deploy.compression.scoring.diversity import batch_sizes
from dcp_deploy.compression.scoring.gradients import gradient_profiles, scored_weights
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream

from ..conftest import assert_same_scores

FEW = {"latents": 7, "directions": 3, "batch": 3}


def score_by_definition(generator: Generator, latents: int, directions: int, batch: int, alpha: float) -> list[Tensor]:
    """Compute the method literally: for every direction both images anew, and the backward pass of their loss."""
    weights = scored_weights(generator)
    components, shares = principal_directions(generator, seed=0)
    totals = [torch.zeros(width, dtype=torch.float64) for width in generator.widths]
    for index, size in enumerate(batch_sizes(latents, batch)):
        source = stream(0, "score", index)
        z, _ = draw_latents(generator.config, size, source)
        chosen = torch.multinomial(shares, directions, replacement=True, generator=source)
        gradients: list[list[Tensor]] = [[] for _ in weights]
        for component in components[chosen]:
            ws = generator.mapping(z).detach()
            image = generator.synthesis(ws, noise="const")
            perturbed = generator.synthesis(ws + alpha * component, noise="const").detach()
            generator.zero_grad()
            (perturbed - image).abs().sum().backward()
            for layer, weight in zip(gradients, weights, strict=True):
                layer.append(weight.grad.abs().double().mean(dim=(0, 2, 3)))
        for total, layer in zip(totals, gradients, strict=True):
            total += torch.stack(layer).var(dim=0, unbiased=False) * directions
    return totals


def test_scores_follow_the_definition(any_generator: Generator) -> None:
    expected = score_by_definition(any_generator, latents=7, directions=3, batch=3, alpha=2.0)
    actual = score(any_generator, alpha=2.0, method="diversity", **FEW)
    assert actual.widths == any_generator.widths
    for layer, reference in zip(actual.scores, expected, strict=True):
        # The same operations on the same numbers, but for the order of sums.
        torch.testing.assert_close(layer, reference, rtol=1e-5, atol=0)


def test_a_direction_drawn_twice_counts_twice(teacher: Generator) -> None:
    directions = 2 * teacher.config.w_dim + 1  # more than exist, so some must be drawn again
    expected = score_by_definition(teacher, latents=2, directions=directions, batch=2, alpha=2.0)
    actual = score(teacher, latents=2, batch=2, directions=directions, alpha=2.0, method="diversity")
    for layer, reference in zip(actual.scores, expected, strict=True):
        torch.testing.assert_close(layer, reference, rtol=1e-5, atol=0)  # but for the order of sums


def test_scores_depend_on_the_seed_and_not_on_the_global_random_state(teacher: Generator) -> None:
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), score(teacher, method="diversity", **FEW)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same_scores(first, score(teacher, method="diversity", **FEW))
    assert not torch.equal(first.scores[0], score(teacher, seed=1, method="diversity", **FEW).scores[0])


def test_scoring_leaves_the_generator_untouched(teacher: Generator) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    score(teacher, method="diversity", **FEW)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("layer", range(6))
def test_an_unused_channel_scores_zero(teacher: Generator, layer: int) -> None:
    modules = [*teacher.synthesis.convs(), teacher.synthesis.torgbs()[-1]]
    affine = modules[layer][1].affine
    with torch.no_grad():
        affine.weight[3] = 0
        affine.bias[3] = 0
    scores = score(teacher, method="diversity", **FEW).scores
    assert scores[layer][3] == 0
    assert sum(int((s == 0).sum()) for s in scores) == 1


def test_permuting_channels_permutes_the_scores(teacher: Generator) -> None:
    orders = tuple(torch.randperm(width, generator=stream(5, width)) for width in teacher.widths)
    permuted = prune(teacher, PruningPlan(teacher.config, orders, ratio=0.0, align=1), refine="none")
    for before, after, order in zip(
        score(teacher, method="diversity", **FEW).scores,
        score(permuted, method="diversity", **FEW).scores,
        orders,
        strict=True,
    ):
        # Convolutions sum their channels in another order, in float32.
        torch.testing.assert_close(after, before[order], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("latents", "batch", "sizes"), [(10, 5, [5, 5]), (12, 5, [5, 7]), (5, 5, [5]), (3, 5, [3])])
def test_the_last_batch_takes_the_remainder(latents: int, batch: int, sizes: list[int]) -> None:
    assert batch_sizes(latents, batch) == sizes


def test_class_conditional_generators_can_be_scored(new_generator: Callable[..., Generator]) -> None:
    scores = score(new_generator(c_dim=3), method="diversity", **FEW)
    assert all((layer > 0).any() for layer in scores.scores)


def test_truncation_changes_the_scores(teacher: Generator) -> None:
    assert not torch.equal(
        score(teacher, method="diversity", **FEW).scores[0],
        score(teacher, psi=0.5, method="diversity", **FEW).scores[0],
    )


def test_progress_counts_latents(teacher: Generator) -> None:
    calls: list[tuple[int, int]] = []
    score(teacher, progress=lambda done, total: calls.append((done, total)), method="diversity", **FEW)
    assert calls == [(3, 7), (7, 7)]


def test_random_scores_depend_on_the_seed_alone(teacher: Generator) -> None:
    first, second = (score(teacher, method="random", seed=seed) for seed in (0, 1))
    assert_same_scores(first, score(teacher, method="random", seed=0))
    assert first.widths == teacher.widths
    assert not torch.equal(first.scores[0], second.scores[0])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "magic"}, "'magic'"),
        ({"latents": 0}, "0 latents"),
        ({"batch": 0}, "batch 0"),
        ({"directions": 1}, "at least 2 directions"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"psi": 0.0}, "psi"),
    ],
)
def test_settings_that_cannot_work_are_refused(teacher: Generator, settings: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        score(teacher, **{"method": "diversity", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"shard": (0, 2)}, {"released": True}])
def test_what_a_score_of_weights_has_no_use_for_is_refused(teacher: Generator, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(given))} does not apply to the score 'weight-out'"):
        score(teacher, method="weight-out", **given)


def test_a_teacher_that_produces_nan_is_refused(teacher: Generator) -> None:
    with torch.no_grad():
        teacher.synthesis.convs()[1][1].bias[0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        score(teacher, method="diversity", **FEW)


def test_settings_are_recorded(teacher: Generator) -> None:
    expected = {"method": "diversity", "seed": 0, "alpha": 5.0, "psi": 1.0, "released": False, **FEW}
    settings = score(teacher, method="diversity", **FEW).settings
    assert len(settings.pop("stability")) == len(teacher.widths)
    assert settings.pop("network") == tensors_sha256(teacher)
    assert settings == expected


# ---- switches ----


def test_released_scores_follow_the_published_code(teacher: Generator) -> None:
    """Both images have gradients and noise of their own, with one backward pass per direction."""
    weights = scored_weights(teacher)
    components, shares = principal_directions(teacher, seed=0)
    source = stream(0, "score", 0)
    z, _ = draw_latents(teacher.config, 4, source)
    chosen = torch.multinomial(shares, 3, replacement=True, generator=source)
    profiles: list[list[Tensor]] = [[] for _ in weights]
    for component in components[chosen]:
        ws = teacher.mapping(z).detach()
        teacher.zero_grad()
        image = teacher.synthesis(ws, noise="random", generator=source)
        (teacher.synthesis(ws + 2 * component, noise="random", generator=source) - image).abs().sum().backward()
        for profile, weight in zip(profiles, weights, strict=True):
            profile.append(weight.grad.abs().double().mean(dim=(0, 2, 3)))
    actual = score(teacher, latents=4, batch=4, directions=3, alpha=2.0, released=True, method="diversity")
    for layer, profile in zip(actual.scores, profiles, strict=True):
        expected = torch.stack(profile).var(dim=0, unbiased=False) * 3
        torch.testing.assert_close(layer, expected, rtol=1e-4, atol=0)  # float32 sums in another order


def test_the_gradient_score_is_the_sum_over_directions(teacher: Generator) -> None:
    weights = scored_weights(teacher)
    components, shares = principal_directions(teacher, seed=0)
    source = stream(0, "score", 0)
    z, _ = draw_latents(teacher.config, 3, source)
    chosen = torch.multinomial(shares, 2, replacement=True, generator=source)
    profiles = gradient_profiles(teacher, weights, teacher.mapping(z).detach(), 5 * components[chosen])
    actual = score(teacher, method="gradient", latents=3, batch=3, directions=2)
    for layer, profile in zip(actual.scores, profiles, strict=True):
        torch.testing.assert_close(layer, profile.sum(dim=0), rtol=1e-4, atol=0)


# ---- stability ----


def test_auto_stops_when_the_halves_agree_and_records_the_number_of_latents(
    teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversity, "_FIRST_CHECK", 6)
    monkeypatch.setattr(methods, "MOST_LATENTS", 24)
    settings = {"directions": 2, "batch": 2}
    monkeypatch.setattr(diversity, "STABLE", 0.0)
    eager = score(teacher, latents="auto", method="diversity", **settings)
    monkeypatch.setattr(diversity, "STABLE", 1.1)
    never = score(teacher, latents="auto", method="diversity", **settings)
    assert (eager.settings["latents"], never.settings["latents"]) == (6, 24)
    assert_same_scores(never, score(teacher, latents=24, method="diversity", **settings))


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(teacher: Generator, shard: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        score(teacher, shard=shard, method="diversity", **FEW)


def test_kept_in_common_counts_the_channels_that_both_keep() -> None:
    first = [torch.arange(10).double()]  # keeps 7, 8, 9
    second = [torch.tensor([0, 1, 2, 3, 4, 5, 9, 6, 8, 7]).double()]  # keeps 6, 8, 9
    assert kept_in_common(first, second) == [pytest.approx(2 / 3)]
    assert kept_in_common(first, first) == [1.0]


def test_widths_come_from_the_scored_generator(new_generator: Callable[..., Generator]) -> None:
    config = replace(new_generator().config, widths=(5, 4, 3, 6, 7, 2))
    assert score(Generator(config), method="diversity", **FEW).widths == config.widths
