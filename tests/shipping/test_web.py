"""From a run directory or one ONNX file to a page for browsers, by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from dcp_deploy import schemas
from dcp_deploy.checkpoints.directions import Direction, save_directions
from dcp_deploy.doctor.diagnosis import TRITON_VARIABLE
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.export import export_onnx
from dcp_deploy.generators import Generator
from dcp_deploy.report import write_report
from dcp_deploy.shipping.web import web_contents_of
from tests.run_folder import write_run


@pytest.fixture
def run(tiny_generator: Generator, tmp_path: Path) -> Path:
    return write_run(tmp_path / "faces", tiny_generator)


def dcp(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcp_deploy", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def answer(verb: str, *words: object) -> dict[str, Any]:
    done = dcp(*verb.split(), *words, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    Draft202012Validator(schemas.published(verb)).validate(document)
    return document


def test_a_run_becomes_a_page_that_verbs_know_and_the_report_links(run: Path, runtime_cache: Path) -> None:
    write_report(run)
    assert "web/index.html" not in (run / "report.html").read_text()
    made = answer("bundle", run, "--web", "--out", run / "web")
    assert list(made["directions"]) == [f"pc{index}" for index in range(6)]
    assert (made["name"], made["model"]["inputs"]["strengths"]) == ("faces", [6])
    report = (run / "report.html").read_text()
    assert '<a href="web/index.html">' in report and "dcp-deploy serve" in report
    assert answer("bundle verify", run / "web")["sha256"] == made["sha256"]
    inspected = answer("inspect", run / "web")
    assert (inspected["format"], inspected["licence"]) == ("web page", "CC BY 4.0")
    check_served(run / "web")
    for flag in ("--server", "--allow-host"):
        refused = dcp("serve", run / "web", flag, "any")
        assert refused.returncode == 2 and f"{flag} is for bundles" in " ".join(refused.stderr.split())
    refused = dcp("verify", run / "web", run / "student.safetensors")
    assert refused.returncode == 2 and "is a page for browsers" in refused.stderr


def check_served(page: Path) -> None:
    """Serve a page by the command, ask for its manifest, and stop it."""
    command = [sys.executable, "-m", "dcp_deploy", "serve", str(page), "--json", "--port", "8391"]
    settings = os.environ | {TRITON_VARIABLE: "/of/another/server"}  # for bundles, so it does not disturb
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings) as server:
        assert server.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = server.stdout.readline()
            assert line, "it ended"
            text += line
        document = json.loads(text)
        Draft202012Validator(schemas.published("serve")).validate(document)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(document["http"] + "manifest.json", timeout=30) as manifest:
            assert json.load(manifest)["kind"] == "dcp-deploy web page"
        os.kill(document["process"], signal.SIGINT)
        assert server.wait(timeout=30) == 0


@pytest.mark.parametrize("flag", ["--teacher", "--synthesis", "--max-batch=4", "--engine=x.engine"])
def test_flags_for_servers_are_refused(run: Path, flag: str) -> None:
    done = dcp("bundle", run, "--web", "--out", run.parent / "page", flag)
    assert done.returncode == 2
    assert f"{flag.partition('=')[0]} is for inference servers" in " ".join(done.stderr.split())


def test_directions_of_the_user_are_those_of_the_page(run: Path, tiny_generator: Generator, tmp_path: Path) -> None:
    vector = torch.eye(tiny_generator.config.w_dim)[0]
    file = save_directions({"smile": Direction(vector, (0, 1), 1.5)}, tmp_path / "d.safetensors")
    contents = web_contents_of(run, directions=file, scratch=tmp_path)
    assert contents.directions == file
    assert set(contents.models) == {"generator", "edited"}


def test_directions_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    file = save_directions({"smile": Direction(torch.eye(3)[0], (0, 1), 1.5)}, tmp_path / "d.safetensors")
    with pytest.raises(InputError, match="'smile' has 3 numbers"):
        web_contents_of(run, directions=file, scratch=tmp_path)


def test_an_onnx_file_takes_no_directions(tiny_generator: Generator, tmp_path: Path) -> None:
    file = export_onnx(tiny_generator, tmp_path / "s.onnx")
    assert web_contents_of(file, scratch=tmp_path).directions is None
    with pytest.raises(UsageError, match="cannot be edited"):
        web_contents_of(file, directions=tmp_path / "d.safetensors", scratch=tmp_path)


def test_a_run_without_a_passed_gate_is_refused(tiny_generator: Generator, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_generator, passed=False)
    with pytest.raises(InputError, match="passed the parity gate"):
        web_contents_of(run, scratch=tmp_path)


def test_a_source_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        web_contents_of(tmp_path / "nothing", scratch=tmp_path)
