"""Real builds of a tiny teacher: killed at awkward moments, resumed, and compared with a build never killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from dcp_deploy import config as config_module
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.config import BuildConfig, Effort
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout
from dcp_deploy.pipeline.builder import REUSED, build
from dcp_deploy.pipeline.stages import STAGES
from dcp_deploy.pipeline.summary import describe_run
from dcp_deploy.schemas import checked, published

STEPS = 24
UP_TO_THE_STUDENT = 4  # stages
TINY = Effort(
    score_latents=10,
    score_directions=2,
    refine_latents=8,
    evaluation_samples=500,
    parity_latents=4,
    bench_rounds=3,
    bench_seconds=0.1,
)

# A build with little work and many checkpoints; otherwise started as a user does.
SHORT = f"""
from dataclasses import replace
from math import inf
from dcp_deploy import config
from dcp_deploy.compression.distillation import recipe
config.EFFORTS["quick"] = config.{TINY}
recipe.RECIPES["quick"] = replace(recipe.RECIPES["quick"], checkpoint_every=2)
"""
COMMAND = f"{SHORT}\nfrom dcp_deploy.cli import main\nmain()"

# Imports and the first read of a teacher are slow, so they happen once. Each line is a configuration with a number of
# stages, which are built in a fork.
SERVER = f"""
import json, os, sys
import torch
{SHORT}
from dcp_deploy import checkpoints, compression, metrics
from dcp_deploy.pipeline import builder, stages
torch.set_num_threads(1)  # a fork would wait for its parent's threads
checkpoints.load_generator(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            settings = json.loads(line)
            builder.STAGES = stages.STAGES[:settings.pop("stages")]
            builder.build(config.BuildConfig(**settings))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print("started", child, flush=True)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a teacher of 8 px without neutral parameters, whose colours are in range, as the parity gate requires."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator = Generator(GeneratorConfig(8, (12,) * 4, z_dim=8, w_dim=8, mapping_layers=2)).requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.endswith((".bias", ".noise_strength", ".w_avg")):
                tensor.add_(0.1 * torch.randn_like(tensor))
            if name.endswith("torgb.weight"):
                tensor.mul_(0.2)
    return save_generator(generator, tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stage_status(directory: Path, stage: str) -> str | None:
    """Return a stage's status in run.json; None before the first stage."""
    try:
        return str(json.loads((directory / "run.json").read_text())["stages"][stage]["status"])
    except FileNotFoundError:
        return None


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited two minutes for {what}"
        time.sleep(0.002)


# ---- killed on the way to the student ----


class Builds:
    """Builds in processes that can be killed, one at a time."""

    def __init__(self, teacher: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(teacher)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.settings = {"dataset": "ffhq", "teacher": str(teacher), "device": "cpu"}

    def start(self, out: Path, *, steps: int = STEPS, stages: int = UP_TO_THE_STUDENT) -> int:
        """Start a build of the first ``stages`` stages; return its process number."""
        assert self.server.stdin
        settings = {**self.settings, "out": str(out), "steps": steps, "stages": stages}
        self.server.stdin.write(json.dumps(settings) + "\n")
        self.server.stdin.flush()
        return self.answer("started")

    def status(self) -> int:
        """Wait for the build to end; return 0 if it finished, the signal if it was killed."""
        return self.answer("ended")

    def answer(self, expected: str) -> int:
        """Return the number in the server's next line, checked, because killing process 0 ends our own group."""
        assert self.server.stdout
        word, number = self.server.stdout.readline().split()
        assert word == expected
        return int(number)


@pytest.fixture(scope="module")
def builds(teacher: Path) -> Iterator[Builds]:
    running = Builds(teacher)
    yield running
    assert running.server.stdin and running.server.stdout
    running.server.stdin.close()
    assert running.server.wait(timeout=60) == 0
    running.server.stdout.close()


@pytest.fixture(scope="module")
def undisturbed(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of a build that was not killed."""
    directory = tmp_path_factory.mktemp("undisturbed")
    builds.start(directory)
    assert builds.status() == 0
    return directory


def test_a_build_killed_again_and_again_ends_with_the_same_student(
    builds: Builds, undisturbed: Path, tmp_path: Path
) -> None:
    # Each condition stays true once it is true, because a stage may end before the next look at it.
    student = tmp_path / "student.safetensors"
    moments: list[tuple[Callable[[], bool], float]] = [
        (lambda: stage_status(tmp_path, "score") in ("running", "done"), 0.1),
        (lambda: stage_status(tmp_path, "distill") in ("running", "done"), 0.0),
        *[(lambda: any(tmp_path.glob("checkpoints/*/*.safetensors")) or student.exists(), 0.01)] * 2,
    ]
    chance = random.Random(0)
    killed_at = []
    for moment, longest in moments:
        process = builds.start(tmp_path)
        wait_until(moment, "the moment to kill")
        time.sleep(chance.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        if builds.status() == 0:
            break  # the build finished before the signal came
        killed_at.append({stage: stage_status(tmp_path, stage) for stage in ("score", "distill")})
    assert {"score": "done", "distill": "running"} in killed_at  # at least once during distillation
    builds.start(tmp_path)
    assert builds.status() == 0
    assert sha256(student) == sha256(undisturbed / "student.safetensors")
    assert (tmp_path / "history.json").read_bytes() == (undisturbed / "history.json").read_bytes()


def test_a_kill_leaves_whole_files_only(builds: Builds, undisturbed: Path, tmp_path: Path) -> None:
    process = builds.start(tmp_path)
    wait_until(lambda: any(tmp_path.glob("checkpoints/*/*.safetensors")), "a checkpoint")
    os.kill(process, signal.SIGKILL)
    builds.status()
    for name in ("teacher.safetensors", "scores.safetensors", "pruned.safetensors"):
        assert sha256(tmp_path / name) == sha256(undisturbed / name)
    assert not (tmp_path / "student.safetensors").exists()


# ---- all the way ----


@pytest.fixture(scope="module")
def finished(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Kill a build while it exports, and finish it by the command; return its directory and its JSON answer."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    process = builds.start(directory, steps=3, stages=len(STAGES))
    wait_until(lambda: stage_status(directory, "export") == "running", "the export")
    os.kill(process, signal.SIGKILL)
    assert builds.status() == signal.SIGKILL
    settings = {**builds.settings, "out": str(directory), "steps": "3"}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-c", COMMAND, "build", *words, "--quiet", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # --quiet
    return directory, json.loads(done.stdout)


@pytest.mark.slow
def test_a_whole_build_leaves_every_file_of_the_run_directory(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = finished
    names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert names >= {
        "run.json", "config.toml", "teacher.safetensors", "scores.safetensors", "pruned.safetensors",
        "student.safetensors", "history.json", "student.onnx", "teacher.onnx", "parity.json", "metrics.json",
        "bench.json", "gates.json", "report.html", "grids/teacher.png", "grids/pruned.png", "grids/student.png",
    }  # fmt: skip
    assert not [name for name in names if name.endswith(".tmp")]


@pytest.mark.slow
def test_the_resumed_run_reused_what_was_done(finished: tuple[Path, dict[str, Any]]) -> None:
    stages = finished[1]["run"]["stages"]
    assert [stages[name]["reused"] for name in ("teacher", "score", "prune", "distill")] == [True] * 4
    assert stages["export"]["reason"] == "ran because it was killed"


@pytest.mark.slow
def test_every_output_is_recorded_with_its_hash(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, answer = finished
    for stage in answer["run"]["stages"].values():
        assert stage["status"] in ("done", "skipped")
        for name, recorded in stage["outputs"].items():
            assert sha256(directory / name) == recorded


@pytest.mark.slow
def test_the_summary_has_figures_and_names_what_was_not_measured(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, answer = finished
    summary = answer["summary"]
    assert answer["schema"] == 1
    assert summary["speedup"]["value"] > 0 and summary["parity"]["passed"] is True
    assert summary["quality"]["student"] == {"fid": None, "mode_coverage": None}
    assert "no real images" in summary["not_measured"]
    assert summary["networks"]["student"]["parameters"] < summary["networks"]["teacher"]["parameters"]
    assert summary["files"]["student.onnx"] < summary["files"]["teacher.onnx"]
    assert summary["engine"] or summary["no_engine"]
    assert summary["report"] == str(directory / "report.html")


@pytest.mark.slow
def test_the_json_answer_matches_the_published_schema(finished: tuple[Path, dict[str, Any]]) -> None:
    Draft202012Validator(published("build")).validate(finished[1])


@pytest.mark.slow
def test_inspect_describes_the_run(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, answer = finished
    facts = describe_run(directory)
    Draft202012Validator(published("inspect")).validate(json.loads(checked("inspect", facts)))
    assert facts["summary"] == answer["summary"] and set(facts["stages"]) == set(answer["run"]["stages"])
    assert facts["parameters"] == answer["summary"]["networks"]["student"]["parameters"]


@pytest.mark.slow
def test_the_next_run_reuses_everything_and_touches_no_result(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = finished
    monkeypatch.setitem(config_module.EFFORTS, "quick", TINY)
    config = BuildConfig.from_toml(directory / "config.toml")
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in ("run.json", "config.toml")]
    before = {path: path.stat().st_mtime_ns for path in files if path.name != ".lock"}
    run = build(config)
    skipped = {"engine"} if run.record.stages["engine"].status == "skipped" else set()
    for name, stage in run.record.stages.items():
        assert name in skipped or (stage.reused and stage.reason == REUSED)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_stylegan3_build_ends_with_a_verified_file_an_engine_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = StyleGAN3Layout(12, num_layers=2, num_critical=1, margin=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = GeneratorConfig(
            16, (12,) * 3, z_dim=8, w_dim=8, mapping_layers=1, conv_clamp=256.0, kind="stylegan3", layout=layout
        )
        generator = Generator(config).requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.endswith((".bias", ".w_avg")):
                tensor.add_(0.1 * torch.randn_like(tensor))
            if name == "synthesis.L2.weight":  # so small a random network generates hardly more than one colour
                tensor.mul_(4.0)
    teacher = save_generator(generator, tmp_path / "teacher.safetensors")
    monkeypatch.setitem(config_module.EFFORTS, "quick", TINY)
    out = tmp_path / "run"
    run = build(BuildConfig(dataset="stylegan3-t-ffhqu", teacher=teacher, out=out, ratio=0.4, align=1, steps=3))
    statuses = {name: stage.status for name, stage in run.record.stages.items()}
    assert statuses.pop("engine") in ("done", "skipped")  # skipped without TensorRT-RTX
    assert set(statuses.values()) == {"done"}
    parity = json.loads((out / "parity.json").read_text())
    assert parity["passed"] and parity["pairs"]["student"]["layers"]["first"] is None
    assert "L1" in (out / "report.html").read_text(encoding="utf-8")
