"""What inspect says of a run directory of build: how far it is, its settings, and its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcp_deploy.config import BuildConfig
from dcp_deploy.evaluation.inspection import describe
from dcp_deploy.files import sha256_file, write_json
from dcp_deploy.generators import Generator
from dcp_deploy.pipeline.record import RunRecord, StageRecord

from .conftest import Command


@pytest.fixture
def run(tmp_path: Path, tiny_generator: Generator) -> Path:
    """A run that failed in its export, written as build writes it."""
    record = RunRecord(
        tmp_path / "run", status="failed", command="dcp-deploy build", started="2026-11-22T19:05:11+00:00"
    )
    record.seconds, record.config = 150.0, BuildConfig(ratio=0.5, out=record.directory).to_dict()
    record.networks = {name: {**describe(tiny_generator), "bytes": 5000} for name in ("teacher", "student")}
    record.stages = {
        "distill": StageRecord("done", reused=True, reason="ran because it has not run yet", seconds=140.25),
        "export": StageRecord("failed", reason="ValueError: a [b]", seconds=1.5),
        "engine": StageRecord(),
    }
    record.save()
    quality = {name: {"fid": fid, "mode_coverage": 0.5} for name, fid in (("teacher", 2.0), ("student", 3.5))}
    write_json(record.directory / "metrics.json", {"schema": 1, "measured": True, "models": quality})
    return record.directory


def test_the_document_has_the_stages_the_config_and_the_student(
    dcp: Command, run: Path, tiny_generator: Generator
) -> None:
    facts = dcp("inspect", "run", "--json").json
    assert (facts["format"], facts["status"], facts["seconds"]) == ("run", "failed", 150.0)
    assert {name: stage["status"] for name, stage in facts["stages"].items()} == {
        "distill": "done", "export": "failed", "engine": "pending",
    }  # fmt: skip
    assert facts["config"]["ratio"] == 0.5
    assert facts["widths"] == list(tiny_generator.widths) and facts["parameters"] > 0
    assert facts["sha256"] == sha256_file(run / "run.json")
    assert facts["summary"]["quality"]["student"] == {"fid": 3.5, "mode_coverage": 0.5}


@pytest.mark.usefixtures("run")
def test_the_text_says_how_far_it_is_and_what_differs_from_the_defaults(dcp: Command) -> None:
    lines = dcp("inspect", "run").out.splitlines()
    assert "status               failed, 2 min" in lines
    assert "settings             ratio 0.5" in lines
    assert any(line.split() == ["export", "failed", "1.5", "s", "ValueError:", "a", "[b]"] for line in lines)
    assert any(line.split() == ["distill", "done", "140.2", "s"] for line in lines)  # it simply ran
    assert any(line.startswith("quality") and "student FID 3.50" in line for line in lines)


def test_the_record_of_an_older_version_is_shown_without_what_it_lacks(dcp: Command) -> None:
    Path("old").mkdir()
    Path("old/run.json").write_text(json.dumps({"schema": 1, "config": {"gone": 1}}))
    facts = dcp("inspect", "old", "--json").json
    assert facts["status"] is None and facts["stages"] == {} and facts["widths"] is None
    shown = dcp("inspect", "old").out
    assert "gone 1" in shown and "unknown -> unknown" in shown
    assert "report" not in shown  # it is not written yet


def test_a_damaged_record_is_refused_by_name(dcp: Command) -> None:
    Path("bad").mkdir()
    Path("bad/run.json").write_text('{"schema": 1, "stages": 3}')
    ended = dcp("inspect", "bad")
    assert ended.code == 3 and "bad/run.json cannot be read: stages" in ended.err
