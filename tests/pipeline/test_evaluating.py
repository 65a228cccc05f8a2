"""What the stage that measures hands on from the quality of the networks to the latents."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import pytest
import torch

from dcp_deploy.config import BuildConfig
from dcp_deploy.datasets.factors import FACTORS
from dcp_deploy.evaluation import latents
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.metrics import evaluate
from dcp_deploy.pipeline.evaluating import measure_latents, measure_quality

FEW = 100  # with fewer the avatars' modes cannot be counted


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Generator]:
    """A teacher and a student of 64 px, measured by few images."""
    measuring = import_module("dcp_deploy.metrics.evaluate")  # the package has a function of that name
    for name in ("MIN_SAMPLES", "REFERENCE_SAMPLES"):
        monkeypatch.setattr(measuring, name, FEW)
    monkeypatch.setattr(measuring, "_reference", cache(measuring._reference.__wrapped__))
    monkeypatch.setattr(latents, "INVERSION", latents.ProjectConfig(steps=1, explore=0.0))
    monkeypatch.setattr(latents, "LATENTS", 3)
    config = GeneratorConfig(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, widths=(8,) * 10)
    made = {}
    for seed, name in enumerate(("teacher", "student")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made[name] = Generator(config).eval().requires_grad_(False)
    return made


def test_the_directions_of_factors_come_from_the_images_that_quality_is_measured_on(
    networks: dict[str, Generator],
) -> None:
    progress: list[tuple[int, int]] = []
    figures, directions = measure_quality(
        networks.__getitem__, ("teacher", "student"), samples=2 * FEW, seed=3, progress=lambda *at: progress.append(at)
    )
    for name, network in networks.items():
        assert figures[name] == evaluate(network, samples=FEW, seed=3).to_dict()
    assert progress[-1] == (2 * FEW, 2 * FEW)
    assert directions and set(directions) <= {factor.name for factor in FACTORS}

    found = measure_latents(networks["student"], networks["teacher"], BuildConfig(), directions, lambda *_: None)
    assert found["edits"]["of"] == "factors" and found["perceptual"] == "avatars" and found["latents"] == 3
    assert [one["name"] for one in found["edits"]["directions"]] == list(directions)
