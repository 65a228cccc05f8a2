from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dcp_deploy.compression import ChannelScores, PruningPlan, plan, prune
from dcp_deploy.compression.layers import layer_count, nth_step, walk
from dcp_deploy.compression.pruning import refinement
from dcp_deploy.compression.pruning.refinement import _Moments, reconstruct
from dcp_deploy.errors import InputError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream

FEW = 32  # latents to fit to, half of the default


def random_plan(generator: Generator, ratio: float) -> PruningPlan:
    source = stream(0, "plan")
    layers = tuple(torch.rand(width, generator=source, dtype=torch.float64) for width in generator.widths)
    return plan(generator, ChannelScores(layers, {}), ratio=ratio, align=1)


@torch.no_grad()
def images(generator: Generator, count: int = 32) -> Tensor:
    """Return images of latents that no fit has used."""
    z, c = draw_latents(generator.config, count, stream(7, "unseen"))
    return generator(z, c)


def distance(a: Generator, b: Generator) -> float:
    return (images(a) - images(b)).abs().mean().item()


# ---- the walk ----


@torch.no_grad()
def test_the_walk_visits_every_layer_with_its_inputs(any_generator: Generator) -> None:
    generator = any_generator
    z, c = draw_latents(generator.config, 2, stream(0, "z"))
    ws = generator.mapping(z, c)
    seen = []
    for _, layer in generator.synthesis.named_modules():
        if hasattr(layer, "affine") and hasattr(layer, "bias"):
            layer.register_forward_pre_hook(lambda layer, inputs: seen.append((layer, inputs[0], inputs[1])))
    generator.synthesis(ws)
    expected = list(seen)
    assert len(expected) == layer_count(generator)
    for step, (layer, x, w) in zip(walk(generator, ws), expected, strict=True):
        assert step.layer is layer and torch.equal(step.x, x) and torch.equal(step.w, w)


# ---- reconstruction ----


def test_progress_counts_the_layers(tiny_generator: Generator) -> None:
    calls: list[tuple[int, int]] = []
    prune(
        tiny_generator, random_plan(tiny_generator, 0.5), refine="reconstruct", latents=4,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    count = layer_count(tiny_generator)
    assert calls == [(done, count) for done in range(count + 1)]


@pytest.mark.parametrize("changes", [{}, {"c_dim": 3}])
def test_reconstruction_comes_closer_to_the_teacher(
    new_generator: Callable[..., Generator], changes: dict[str, int]
) -> None:
    teacher = new_generator(**changes)
    planned = random_plan(teacher, 0.5)
    # Measured 0.55 to 0.69: channels of random weights have little in common that a fit could use.
    refined = prune(teacher, planned, refine="reconstruct", latents=FEW)
    assert distance(refined, teacher) < 0.8 * distance(prune(teacher, planned, refine="none"), teacher)


def test_reconstruction_brings_a_stylegan3_closer_to_its_teacher(stylegan3: Generator) -> None:
    planned = random_plan(stylegan3, 0.4)
    # Measured about 0.5 for both variants.
    refined = prune(stylegan3, planned, refine="reconstruct", latents=FEW)
    assert distance(refined, stylegan3) < 0.7 * distance(prune(stylegan3, planned, refine="none"), stylegan3)


@torch.no_grad()
def double_channels(teacher: Generator) -> None:
    """Make every odd channel a copy of the even one before it, in a StyleGAN2 with even widths."""
    network = teacher.synthesis
    network.get_parameter("b4.const")[1::2] = network.get_parameter("b4.const")[::2]
    for _, conv in network.convs():
        conv.weight[1::2], conv.bias[1::2] = conv.weight[::2], conv.bias[::2]


def test_reconstruction_compensates_for_dropped_copies_of_channels(new_generator: Callable[..., Generator]) -> None:
    teacher = new_generator(widths=(12, 10, 12, 8, 8, 6))
    double_channels(teacher)
    kept = tuple(torch.arange(0, width, 2) for width in teacher.widths)
    planned = PruningPlan(teacher.config, kept, ratio=0.5, align=1)
    refined = prune(teacher, planned, refine="reconstruct", latents=FEW)
    # Not exact (measured 0.36): each copy has styles of its own, which one channel can match only on average.
    assert distance(refined, teacher) < 0.5 * distance(prune(teacher, planned, refine="none"), teacher)


def test_keeping_everything_is_a_fixed_point(any_generator: Generator) -> None:
    refined = prune(any_generator, random_plan(any_generator, 0.0), refine="reconstruct", latents=8)
    # The teacher itself is the best fit, and ridge pulls to it too, so only rounding (float32) is left.
    assert distance(refined, any_generator) < 1e-5


def test_pre_activations_keep_mean_and_spread(teacher: Generator) -> None:
    """Bias and noise follow the gain, so each channel is as far above zero as the teacher's, relative to its scale."""
    planned = random_plan(teacher, 0.3)
    refined = prune(teacher, planned, refine="reconstruct")
    z, _ = draw_latents(teacher.config, 256, stream(3, "z"))
    with torch.no_grad():
        ws = teacher.mapping(z)
        mine, theirs = nth_step(refined, ws, 2), nth_step(teacher, ws, 2)
        kept = planned.kept[2]
        a = mine.response() + refined.synthesis.get_parameter("b8.conv0.bias")[:, None, None]
        b = theirs.response()[:, kept] + teacher.synthesis.get_parameter("b8.conv0.bias")[kept][:, None, None]
    ratio = a.mean(dim=(0, 2, 3)) / a.std(dim=(0, 2, 3)) - b.mean(dim=(0, 2, 3)) / b.std(dim=(0, 2, 3))
    assert ratio.abs().max() < 0.25  # on latents other than the fit's: the error of a mean over few images


def test_the_seed_alone_decides_the_result(teacher: Generator) -> None:
    planned = random_plan(teacher, 0.5)
    torch.manual_seed(1)
    first = prune(teacher, planned, refine="reconstruct", latents=4, seed=4)
    torch.manual_seed(2)
    again, other = (prune(teacher, planned, refine="reconstruct", latents=4, seed=seed) for seed in (4, 5))
    assert torch.equal(images(first), images(again))
    assert not torch.equal(images(first), images(other))


def test_a_refined_network_can_train_and_the_teacher_stays_untouched(teacher: Generator) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = prune(teacher, random_plan(teacher, 0.5), refine="svs+reconstruct", latents=4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    student(torch.randn(2, 8, generator=stream(0, "z"))).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.synthesis.parameters())


def test_a_convolution_of_zeros_stays_one(teacher: Generator) -> None:
    """Its responses are zero, so the fit has no direction, and no length to divide by."""
    with torch.no_grad():
        teacher.synthesis.convs()[1][1].weight.zero_()
    student = prune(teacher, random_plan(teacher, 0.5), refine="reconstruct")
    assert images(student).isfinite().all()
    assert not student.synthesis.convs()[1][1].weight.any()


def test_a_teacher_that_produces_nan_is_refused(teacher: Generator) -> None:
    with torch.no_grad():
        teacher.synthesis.convs()[1][1].bias[0] = float("nan")
    planned = random_plan(teacher, 0.5)
    with pytest.raises(InputError, match="NaN"):
        reconstruct(prune(teacher, planned, refine="none"), teacher, planned.kept, latents=4)


def test_the_fit_is_weighted_least_squares_with_an_intercept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "RIDGE", 1e-9)
    source = stream(0, "fit")
    x, y = torch.randn(3, 200, generator=source), torch.randn(2, 200, generator=source)
    weights = torch.rand(2, generator=source) + 0.5
    sums = _Moments()
    for part, weight in enumerate(weights):
        sums.add(x[:, part::2], y[:, part::2], weight)
    fitted, offset = sums.solve(torch.zeros(2, 3))
    rows = torch.cat([x, torch.ones(1, 200)]).T.double() * weights.repeat(100).sqrt()[:, None]
    expected = torch.linalg.lstsq(rows, y.T.double() * weights.repeat(100).sqrt()[:, None]).solution
    # The products are float32.
    torch.testing.assert_close(torch.cat([fitted, offset[:, None]], dim=1), expected.T, rtol=1e-4, atol=1e-6)


# ---- singular values ----


def test_svs_takes_roots_of_singular_values_and_bias_norms_and_leaves_the_rest(teacher: Generator) -> None:
    planned = random_plan(teacher, 0.5)
    before, after = (
        prune(teacher, planned, refine="none").state_dict(),
        prune(teacher, planned, refine="svs").state_dict(),
    )
    scaled = []
    for name in before:
        if name.startswith("synthesis.") and name.endswith("weight"):
            old, new = (torch.linalg.svdvals(state[name].flatten(1)) for state in (before, after))
            # Small values carry the float32 rounding of the largest.
            torch.testing.assert_close(new, old.sqrt(), rtol=1e-3, atol=1e-4)
            scaled.append(name)
        elif name.startswith("synthesis.") and name.endswith("bias"):
            torch.testing.assert_close(after[name], before[name] / before[name].norm().sqrt())
        else:
            assert torch.equal(after[name], before[name])
    assert any("affine" in name for name in scaled) and any("torgb" in name for name in scaled)


def test_svs_does_not_change_the_motion_of_a_stylegan3(stylegan3: Generator) -> None:
    after = prune(stylegan3, random_plan(stylegan3, 0.0), refine="svs").state_dict()
    for name, tensor in stylegan3.state_dict().items():
        assert not name.startswith("synthesis.input.") or torch.equal(after[name], tensor)
