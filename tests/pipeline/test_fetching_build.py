"""A build whose teacher lies on a server: announced, fetched once, and the remedies when that fails."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.cli import tables
from dcp_deploy.cli.app import app
from dcp_deploy.config import BuildConfig
from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.generators import Generator
from dcp_deploy.pipeline import builder, stages, summary
from dcp_deploy.teachers import downloads
from dcp_deploy.teachers.downloads import fetch
from dcp_deploy.teachers.presets import DATASETS, Teacher

from ..conftest import HASTE
from ..file_server import FileServer
from .conftest import Listener


@pytest.fixture
def dataset(
    file_server: FileServer, tiny_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FileServer:
    """Serve a small teacher for ``--dataset ffhq``. Its format is recognised by content, not by name."""
    teacher = Teacher("teacher.pkl", "NVIDIA pickle", "for tests only", file_server.url, "https://example.invalid/", 7)
    file_server.body = save_generator(tiny_generator, tmp_path / "real.safetensors").read_bytes()
    monkeypatch.setitem(DATASETS, "ffhq", replace(DATASETS["ffhq"], teacher=teacher))
    monkeypatch.setattr(downloads, "PATIENCE", HASTE)
    monkeypatch.chdir(tmp_path)
    return file_server


def fetched() -> Path:
    """Fetch the data set's teacher into the cache; return its path."""
    return fetch(DATASETS["ffhq"].teacher, say=lambda text: None, progress=lambda done, total: None).path


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dcp(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; return exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            app(list(words), prog_name="dcp-deploy")
        return int(end.value.code or 0), *capfd.readouterr()

    return run


def test_build_fetches_its_teacher_once_and_records_its_origin(
    dataset: FileServer, tiny_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "STAGES", stages.STAGES[:1])
    config, listener = BuildConfig(dataset="ffhq", out=tmp_path / "run"), Listener()
    first = builder.build(config, reporter=listener).record
    assert first.teacher["origin"] == "fetched" and first.teacher["url"] == dataset.url
    assert (
        first.teacher["sha256"] == hashlib.sha256(dataset.body).hexdigest()
        and first.teacher["licence"] == "for tests only"
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["teacher"] == first.teacher
    assert "for tests only" in listener.heard[0] and dataset.url in listener.heard[0]
    read = load_generator(tmp_path / "run" / "teacher.safetensors").state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in tiny_generator.state_dict().items())
    again = builder.build(config).record
    assert again.teacher == {**first.teacher, "origin": "cache"}
    assert again.stages["teacher"].reused and len(dataset.asked) == 1


@pytest.mark.parametrize(
    "name", ["sg2ada_32_uncond_torch171.pkl", "ros_training_zip_torch213.pt", "tf_stylegan2_v4_32.pkl"]
)
def test_a_fetched_teacher_is_read_by_content_whatever_its_name(
    dataset: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(builder, "STAGES", stages.STAGES[:1])
    dataset.body = (Path(__file__).parents[1] / "data" / "checkpoints" / name).read_bytes()
    builder.build(BuildConfig(dataset="ffhq", out=tmp_path / "run"))
    assert load_generator(tmp_path / "run" / "teacher.safetensors").config.resolution == 32
    assert dataset.sent == len(dataset.body)


def test_a_missing_package_fails_before_the_download(dataset: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(MissingCapabilityError, match="ONNX Runtime"):
        builder.build(BuildConfig(dataset="ffhq"))
    assert dataset.asked == []


def test_a_dry_run_announces_the_download_and_fetches_nothing(
    dcp: Command, dataset: FileServer, own_cache: Path
) -> None:
    code, out, _ = dcp("build", "--dataset", "ffhq", "--dry-run")
    assert code == 0
    assert all(part in out for part in ("would fetch teacher.pkl", dataset.url, "about 7 MB", "for tests only"))
    code, out, _ = dcp("build", "--dataset", "ffhq", "--dry-run", "--json")
    facts = json.loads(out)
    assert facts["fetch"]["url"] == dataset.url and facts["estimate"] is None
    assert dataset.asked == [] and not own_cache.exists()


def test_a_dry_run_plans_with_the_teacher_in_the_cache(dcp: Command, dataset: FileServer) -> None:
    fetched()
    code, out, _ = dcp("build", "--dataset", "ffhq", "--dry-run", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["fetch"] is None
    assert facts["student"]["parameters"] < facts["teacher"]["parameters"]
    assert len(dataset.asked) == 1


def test_datasets_shows_what_is_in_the_cache(dcp: Command, dataset: FileServer) -> None:
    (row,) = [line for line in dcp("datasets")[1].splitlines() if " ffhq " in line]
    assert "7 MB to fetch" in row
    path = fetched()
    (row,) = [line for line in dcp("datasets")[1].splitlines() if " ffhq " in line]
    assert "in the cache" in row
    assert json.loads(dcp("datasets", "ffhq", "--json")[1])["cached"] == str(path)
    assert json.loads(dcp("datasets", "--json")[1])["datasets"][0]["cached"] is None


def test_a_table_fits_a_terminal_of_80_columns(dcp: Command) -> None:
    assert max(map(len, dcp("datasets")[1].splitlines())) <= 80


@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"status": 404, "body": "<title>Gone</title>"}, 4, "404 Not Found: Gone"),
        ({"status": 200, "body": "<title>Quota exceeded</title>", "content_type": "text/html"}, 4, "Quota exceeded"),
        ({"status": 503}, 4, "503"),
        ({"status": 200, "body": "\x01 not a teacher at all"}, 3, "delete"),
    ],
    ids=["gone", "a page", "busy", "something else"],
)
def test_a_failed_download_ends_with_its_exit_code_and_a_remedy(
    dcp: Command, dataset: FileServer, own_cache: Path, settings: dict[str, Any], code: int, named: str
) -> None:
    dataset.script = [partial(dataset.answer, **settings)]
    ended, out, err = dcp("build", "--dataset", "ffhq", "--out", "run")
    assert ended == code and out == ""
    assert named in err and dataset.url in err and "Traceback" not in err
    assert "--teacher FILE" in err if code == 4 else str(own_cache) in err
    assert not Path("run").exists()


def test_without_a_network_build_ends_with_4_and_names_the_flag(
    dcp: Command, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("offline")
    code, _, err = dcp("build", "--dataset", "lsunchurch")
    assert code == 4
    assert "stylegan2-church-config-f.pkl" in err and "--teacher FILE" in err and "network is down" in err


def test_the_command_resumes_a_broken_download_and_reads_the_teacher(
    dcp: Command, dataset: FileServer, tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "STAGES", stages.STAGES[:1])  # the others are test_build.py's
    monkeypatch.setattr(summary, "summarise", lambda directory: {})
    monkeypatch.setattr(tables, "summary_lines", lambda facts: [])
    dataset.script = [partial(dataset.send, stop=20_000), dataset.send]
    code, _, err = dcp("build", "--dataset", "ffhq", "--out", "run")
    assert code == 0, err
    run = json.loads(Path("run/run.json").read_text())
    assert (
        run["teacher"]["origin"] == "fetched" and run["teacher"]["sha256"] == hashlib.sha256(dataset.body).hexdigest()
    )
    assert load_generator("run/teacher.safetensors").widths == tiny_generator.widths
    assert "licence: for tests only" in err and "trying again" in err
    assert dataset.sent == len(dataset.body)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--mask", "gone.onnx"), 3),
        (("--data", "gone"), 3),
        (("--ratio", "0.5", "--target-macs", "0.2"), 2),
        (("--lpips", "gone.pth"), 3),
        (("--require", "fdi<2"), 2),
    ],
)
def test_a_dry_run_and_a_build_fail_alike_before_the_download(
    dcp: Command, dataset: FileServer, flags: tuple[str, ...], code: int
) -> None:
    for dry in (("--dry-run",), ()):
        assert dcp("build", "--dataset", "ffhq", *flags, *dry)[0] == code
    assert dataset.asked == []
