"""A run of the recipe goes through all stages, and a stopped run ends like one without a stop."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch

from dcp_deploy.checkpoints import load_generator, read_metadata
from dcp_deploy.metrics import distances
from dcp_deploy.training.demo_teacher import Recipe, Trainer

TINY = Recipe(
    channel_base=128, channel_max=4, z_dim=20, w_dim=8, mapping_layers=2, batch=4,
    fit_steps=2, map_steps=1, adversarial_steps=2, evaluation_samples=500,
)  # fmt: skip


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not compile, which takes a minute and changes only the speed."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)


@pytest.fixture
def small_reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use 500 real images instead of 10,000, and 2 subsets for KID instead of 100."""
    measuring = import_module("dcp_deploy.metrics.evaluate")  # metrics.evaluate is the function
    monkeypatch.setattr(measuring, "REFERENCE_SAMPLES", 500)
    monkeypatch.setattr(distances, "kernel_distance", partial(distances.kernel_distance, subsets=2))
    measuring._reference.cache_clear()
    yield
    measuring._reference.cache_clear()


def test_the_recipe_ends_with_a_measured_teacher(tmp_path: Path, small_reference: None) -> None:
    assert Trainer(TINY, tmp_path).run()
    teacher = load_generator(tmp_path / "demo_teacher.safetensors")
    assert teacher.config == TINY.generator()
    assert teacher.mapping.w_avg.abs().sum() > 0
    extra = read_metadata(tmp_path / "demo_teacher.safetensors")["extra"]
    assert extra["recipe"]["fit_steps"] == 2
    assert extra["metrics"]["samples"] == 500
    assert (tmp_path / "curves.png").stat().st_size > 0
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_a_stopped_run_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "finish", lambda self: None)
    straight = Trainer(TINY, tmp_path / "straight")
    straight.out.mkdir()
    assert straight.run()
    stopped_in = tmp_path / "stopped"
    stopped_in.mkdir()
    while not Trainer(TINY, stopped_in).run(minutes=0):  # one step at a time
        pass
    expected = torch.load(straight.out / "state.pt", weights_only=True)
    actual = torch.load(stopped_in / "state.pt", weights_only=True)
    for name in ("generator", "ema", "codes", "discriminator"):
        for key, value in expected[name].items():
            assert torch.equal(actual[name][key], value), f"{name}.{key}"
