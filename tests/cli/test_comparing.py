"""The verbs sweep and compare, on small real builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcp_deploy import config
from dcp_deploy.cli.next_steps import next_command

from ..limits import content_of, limited
from ..pipeline.test_build import TINY
from .conftest import PROGRAM, Command


def settings(models: Path) -> list[str]:
    return [
        "--dataset", "ffhq", "--teacher", str(models / "t.safetensors"), "--ratio", "0.25,0.5", "--align", "2",
        "--steps", "2", "--device", "cpu",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def swept(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep with two students, made by the verb."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.EFFORTS, "quick", TINY)
        words = ["sweep", *settings(models), "--out", str(folder), "--quiet"]
        with pytest.raises(SystemExit) as end:
            PROGRAM(words, prog_name="dcp-deploy")
    assert not end.value.code
    return folder


@pytest.mark.slow
def test_a_sweep_scores_once_and_leaves_a_run_directory_for_each_student(swept: Path) -> None:
    runs = [json.loads((swept / name / "run.json").read_text()) for name in ("ratio-0.25", "ratio-0.5")]
    assert [run["stages"]["score"]["reused"] for run in runs] == [False, True]
    assert [run["status"] for run in runs] == ["finished"] * 2
    assert runs[0]["networks"]["student"]["macs"] > runs[1]["networks"]["student"]["macs"]
    document = json.loads((swept / "compare.json").read_text())
    assert [run["name"] for run in document["runs"]] == ["ratio-0.25", "ratio-0.5"]
    assert [run["settings"] for run in document["runs"]] == [{"ratio": 0.25}, {"ratio": 0.5}]
    assert {row["labels"]["model"] for row in json.loads((swept / "bench.json").read_text())["rows"]} == {
        "teacher", "ratio-0.25", "ratio-0.5",
    }  # fmt: skip
    assert "ratio-0.25/report.html" in (swept / "compare.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_second_sweep_reuses_every_student(
    dcp: Command, swept: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(config.EFFORTS, "quick", TINY)
    before = (swept / "ratio-0.5" / "student.safetensors").stat().st_mtime_ns
    ended = dcp("sweep", *settings(models), "--out", swept, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["page"] == str(swept / "compare.html")
    assert (swept / "ratio-0.5" / "student.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_compare_shows_runs_and_writes_document_and_page(
    dcp: Command, swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(config.EFFORTS, "quick", TINY)
    runs = swept / "ratio-0.25", swept / "ratio-0.5"
    ended = dcp("compare", *runs, "--out", "c.json", "--html", "c.html", "--measure")
    assert ended.code == 0, ended.err
    assert "MACs per image" in ended.out and "No run is recommended" in ended.out
    assert json.loads(Path("c.json").read_text())["runs"][0]["name"] == "ratio-0.25"
    assert Path("c.html").is_file()
    assert dcp("compare", *runs, "--json").json["recommended"] is None  # FID is not measured here


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "name"), [("--out", "c.json"), ("--html", "c.html")])
def test_a_limit_on_the_size_of_files_is_exit_4_and_keeps_the_old_file(
    dcp: Command, swept: Path, tmp_path: Path, flag: str, name: str
) -> None:
    (tmp_path / name).write_text("old")
    before = content_of(tmp_path)
    with limited(512):
        ended = dcp("compare", swept / "ratio-0.25", swept / "ratio-0.5", flag, name, "--quiet")
    assert ended.code == 4 and "larger than this machine allows" in ended.err
    assert content_of(tmp_path) == before


@pytest.mark.slow
def test_compare_with_a_requirement_that_no_run_meets_ends_with_5(dcp: Command, swept: Path) -> None:
    ended = dcp("compare", swept / "ratio-0.25", swept / "ratio-0.5", "--require", "fid<1")
    assert ended.code == 5 and "MACs per image" in ended.out


def test_the_plan_of_a_sweep_lists_its_students(dcp: Command, models: Path) -> None:
    ended = dcp("sweep", *settings(models), "--dry-run", "--json")
    assert [one["config"]["ratio"] for one in ended.json["students"]] == [0.25, 0.5]
    assert "ratio-0.25" in dcp("sweep", *settings(models), "--dry-run").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--ratio", "0.5"], "fewer than two sizes"),
        (["sweep", "--ratio", ""], "--ratio '' is not a list of numbers"),
        (["sweep", "--ratio", "0.7,0.701", "--dry-run"], "ratio-0.7 and ratio-0.701 are the same student"),
        (["compare", "one", "two", "--wait", "5"], "--wait 5 does nothing without --measure"),
        (["sweep", "--ratio", "0.5,x"], "--ratio '0.5,x' is not a list of numbers"),
        (["sweep", "--ratio", "0.5,0.7", "--target-macs", "0.1,0.2"], "--ratio and --target-macs"),
        (["compare", "one"], "at least two runs"),
        (["compare", "one", "two"], "one holds no run.json"),
    ],
)
def test_what_cannot_be_swept_or_compared_is_named(dcp: Command, words: list[str], message: str) -> None:
    ended = dcp(*words)
    assert ended.code in (2, 3) and message in ended.err


def test_a_list_in_the_config_file_is_one_on_the_command_line(dcp: Command, models: Path) -> None:
    Path("c.toml").write_text("ratio = [0.25, 0.5]\n")
    words = settings(models)
    del words[4:6]
    planned = dcp("sweep", *words, "--config", "c.toml", "--dry-run", "--json").json
    assert [one["config"]["ratio"] for one in planned["students"]] == [0.25, 0.5]
    planned = dcp("sweep", *words, "--config", "c.toml", "--target-macs", "0.3,0.6", "--dry-run", "--json").json
    assert [one["config"]["target_macs"] for one in planned["students"]] == [0.3, 0.6]
    assert "dcp-deploy sweep --ratio 0.25,0.5" in " ".join(
        dcp("build", "--config", "c.toml").err.replace("│", "").split()
    )


def test_the_plan_of_a_sweep_says_what_would_be_fetched(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_DEPLOY_CACHE", "empty")
    ended = dcp("sweep", "--dataset", "ffhq", "--dry-run")
    assert ended.code == 0 and "build would fetch" in ended.out and "ratio-0.85" in ended.out


def test_a_sweep_without_a_recommended_student_names_no_next_command(tmp_path: Path) -> None:
    assert next_command("sweep", {}, tmp_path) == ""
    (tmp_path / "run.json").write_text("{}")
    assert next_command("sweep", {}, tmp_path).startswith("dcp-deploy bundle ")


def test_build_with_several_ratios_leads_to_sweep(dcp: Command) -> None:
    ended = dcp("build", "--ratio", "0.5,0.7")
    words = " ".join(ended.err.replace("│", " ").split())  # the message stands in a frame
    assert ended.code == 2 and "dcp-deploy sweep --ratio 0.5,0.7" in words
    assert "sweep" not in dcp("build", "--ratio", "0.5x").err
    assert "sweep" not in dcp("build", "--hybrid-share", "0.5,0.7").err
