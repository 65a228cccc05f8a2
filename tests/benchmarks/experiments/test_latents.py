"""The pairs of students, on a tiny teacher with the shape of the demo's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcp_deploy.benchmarks.experiments import latents as experiment
from dcp_deploy.benchmarks.experiments.subjects import demo
from dcp_deploy.evaluation import latents as measured
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.metrics.evaluate import Readings
from dcp_deploy.metrics.features import FEATURES, load_avatar_reader


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GeneratorConfig(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, widths=(16,) * 10)
        teacher = Generator(config).eval().requires_grad_(False)

    def read(generator: Generator, samples: int) -> Readings:
        with torch.no_grad():
            factors = load_avatar_reader().read(
                generator(torch.randn(samples, 8, generator=torch.Generator().manual_seed(0)))
            )
        return Readings(torch.zeros(samples, FEATURES).numpy(), factors, torch.device("cpu"), 0, 1.0)

    subject = replace(demo("cpu"), teacher=teacher)
    monkeypatch.setattr(experiment, "demo", lambda device: subject)
    monkeypatch.setattr(experiment, "read_images", read)
    monkeypatch.setattr(experiment, "SAMPLES", 6)
    monkeypatch.setattr(experiment, "LATENTS", 2)
    monkeypatch.setattr(measured, "INVERSION", measured.ProjectConfig(steps=1, rate=0.02, explore=0.0))


@pytest.mark.usefixtures("tiny")
def test_both_recipes_make_a_student_of_each_seed_and_a_second_call_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--out", str(tmp_path), "--steps", "2", "--seeds", "3"]
    assert experiment.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["previous-3-2.safetensors is made", "today-3-2.safetensors is made"]
    assert printed.out.splitlines()[0] == "|  | previous, seed 3 | today, seed 3 |"
    assert len(printed.out.splitlines()) == 2 + len(experiment.FIGURES)
    first = json.loads((tmp_path / "latents.json").read_text())
    assert first["steps"] == 2 and first["latents"]["previous, seed 3"] != first["latents"]["today, seed 3"]

    monkeypatch.setattr(experiment, "distill", None)
    assert experiment.main(arguments) == 0
    assert capsys.readouterr().out == printed.out
