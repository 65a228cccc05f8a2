from __future__ import annotations

import pytest
import torch

from dcp_deploy.compression import score
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream

LATENTS = 11  # not a multiple of a batch


@pytest.mark.parametrize("method", ["weight-in", "weight-out", "style", "activation", "gradient"])
def test_every_baseline_scores_every_channel(any_generator: Generator, method: str) -> None:
    scores = score(any_generator, method=method, latents=LATENTS, directions=2)  # type: ignore[arg-type]
    assert scores.widths == any_generator.widths
    assert all((layer >= 0).all() and layer.std() > 0 for layer in scores.scores)
    assert scores.settings["method"] == method


def test_weight_in_is_the_magnitude_of_the_row_that_produces_a_channel(teacher: Generator) -> None:
    scores = score(teacher, method="weight-in").scores
    state = teacher.state_dict()
    assert scores[0][2] == pytest.approx(state["synthesis.b4.const"][2].abs().mean().item())
    assert scores[3][4] == pytest.approx(state["synthesis.b8.conv1.weight"][4].abs().mean().item())


def test_weight_out_is_the_magnitude_of_the_column_that_reads_a_channel(teacher: Generator) -> None:
    scores = score(teacher, method="weight-out").scores
    state = teacher.state_dict()
    assert scores[3][4] == pytest.approx(state["synthesis.b16.conv0.weight"][:, 4].abs().mean().item())
    assert scores[5][1] == pytest.approx(state["synthesis.b16.torgb.weight"][:, 1].abs().mean().item())


@torch.no_grad()
def test_the_style_score_is_the_magnitude_of_the_mean_style(teacher: Generator) -> None:
    z, _ = draw_latents(teacher.config, LATENTS, stream(0, "score"))
    styles = teacher.synthesis.convs()[2][1].affine(teacher.mapping.w(z))
    scores = score(teacher, method="style", latents=LATENTS).scores
    torch.testing.assert_close(scores[2], styles.mean(dim=0).abs().double(), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_activation_score_is_the_spread_of_the_features(teacher: Generator) -> None:
    z, _ = draw_latents(teacher.config, LATENTS, stream(0, "score"))
    _, features = teacher.synthesis.features(teacher.mapping(z))
    expected = features["b8"].double().std(dim=(0, 2, 3), correction=0)  # what b8.conv1 makes: entry 3
    scores = score(teacher, method="activation", latents=LATENTS).scores
    torch.testing.assert_close(scores[3], expected, rtol=1e-4, atol=1e-6)


def test_auto_is_refused_for_a_method_without_stability(teacher: Generator) -> None:
    with pytest.raises(UsageError, match="'style'"):
        score(teacher, method="style", latents="auto")
