from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from dcp_deploy.benchmarks.experiments import scoring
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.compression.scoring.directions import principal_directions
from dcp_deploy.compression.scoring.methods import score
from dcp_deploy.generators import Generator


@pytest.fixture
def teacher(tiny_generator: Generator) -> Generator:
    return tiny_generator


def test_the_plain_loop_gives_the_same_scores(teacher: Generator) -> None:
    shipped = score(teacher, latents=7, method="diversity")
    assert scoring.largest_difference(shipped, scoring.plain_scores(teacher, 7)) < 1e-4  # float32 sums in another order


def test_a_wrong_score_has_a_large_difference(teacher: Generator) -> None:
    shipped = score(teacher, latents=5, method="diversity")
    wrong = [layer.roll(1) for layer in scoring.plain_scores(teacher, 5)]
    assert scoring.largest_difference(shipped, wrong) > 0.01


def test_distinct_directions_match_many_draws(teacher: Generator) -> None:
    _, shares = principal_directions(teacher, seed=0)
    draws = torch.multinomial(shares.expand(2000, -1), scoring.DIRECTIONS, replacement=True)
    counted = sum(len(set(row)) for row in draws.tolist()) / len(draws)
    assert scoring.distinct_directions(teacher) == pytest.approx(counted, abs=0.15)  # 5 standard errors


def test_the_command_writes_what_it_prints(
    teacher: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_generator(teacher, tmp_path / "teacher.safetensors")
    arguments = [str(tmp_path / "teacher.safetensors"), "--out", str(tmp_path / "out.json"), "--latents", "5"]
    monkeypatch.setattr(sys, "argv", ["scoring", *arguments, "--rounds", "2"])
    scoring.main()
    result = json.loads((tmp_path / "out.json").read_text())
    assert len(result["clock_ms"]["plain"]) == len(result["processor_ms"]["score"]) == 2
    assert f"{result['speedup']['value']:.2f}" in capsys.readouterr().out
