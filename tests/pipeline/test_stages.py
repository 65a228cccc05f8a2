"""Single stages on prepared run directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.config import BuildConfig, Effort
from dcp_deploy.errors import UsageError
from dcp_deploy.files import write_json
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.pipeline import timing
from dcp_deploy.pipeline.inputs import DEMO_REQUIREMENTS, resolve_inputs
from dcp_deploy.pipeline.stages import STAGES, Job
from dcp_deploy.progress import Reporter

TUNED = Path(__file__).parents[1] / "checkpoints" / "cases" / "A15" / "A15_dragan_pti.pkl"  # G_ema, and another G

# As few calls as possible: the labels are tested, not the times.
LITTLE = Effort(
    score_latents=1,
    score_directions=1,
    refine_latents=1,
    evaluation_samples=1,
    parity_latents=1,
    bench_rounds=2,
    bench_seconds=0.0,
)


@pytest.fixture
def job(tmp_path: Path, small_onnx: Callable[..., Path]) -> Job:
    """Prepare a run directory with a student exported in fp16, with external weights, and a teacher in float32."""
    for model, width, precision in (("teacher", 5, "fp32"), ("student", 3, "fp16")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(width)
            network = Generator(GeneratorConfig(resolution=8, z_dim=6, w_dim=6, mapping_layers=1, widths=(width,) * 4))
        save_generator(network, tmp_path / f"{model}.safetensors")
        small_onnx(tmp_path / f"{model}.onnx", precision=precision)
    teacher = tmp_path / "teacher.safetensors"
    config = BuildConfig(dataset="ffhq", teacher=teacher, precision="fp16", device="cpu")
    inputs = replace(resolve_inputs(config, Reporter()), effort=LITTLE)
    return Job(inputs, tmp_path, key="", force=False, reporter=Reporter(), networks={})


def test_bench_labels_each_file_with_its_precision_and_size(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "OTHER_RUNTIMES", ("onnxruntime-winograd",))  # which takes no file in fp16
    (bench,) = (stage for stage in STAGES if stage.name == "bench")
    assert bench.work(job, lambda done, total: None) == ["bench.json"]
    document = json.loads(job.path("bench.json").read_text())
    labels = {row["name"]: row["labels"] for row in document["rows"]}
    assert {name: (label["model"], label["backend"], label["precision"]) for name, label in labels.items()} == {
        "teacher, torch eager": ("teacher", "torch", "fp32"),
        "teacher, ONNX Runtime": ("teacher", "onnxruntime", "fp32"),
        "student, torch eager": ("student", "torch", "fp32"),
        "student, ONNX Runtime, fp16": ("student", "onnxruntime", "fp16"),
    }
    assert document["baseline"] == "teacher, torch eager"
    assert [one["name"] for one in document["skipped"]] == ["student, ONNX Runtime, Winograd"]
    assert "fastest" not in document  # one ONNX file in one runtime is not a choice
    whole = sum(job.path(f"student.onnx{ending}").stat().st_size for ending in ("", ".data"))
    assert labels["student, ONNX Runtime, fp16"]["file_bytes"] == whole


def test_bench_runs_again_once_another_runtime_is_installed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench,) = (stage for stage in STAGES if stage.name == "bench")
    monkeypatch.setattr(timing, "find_spec", lambda name: None)
    before = bench.settings(job.inputs)
    monkeypatch.setattr(timing, "find_spec", lambda name: name)
    assert bench.settings(job.inputs) != before


def test_the_teacher_is_the_chosen_network_of_its_file(tmp_path: Path) -> None:
    """And only a choice is a setting, so that builds without one keep their cache keys."""
    (stage,) = (stage for stage in STAGES if stage.name == "teacher")
    settings, constants = [], []
    for network in (None, "G"):
        inputs = resolve_inputs(BuildConfig(dataset="ffhq", teacher=TUNED, network=network, device="cpu"), Reporter())
        settings.append(stage.settings(inputs))
        stage.work(Job(inputs, tmp_path, "", False, Reporter(), {}), lambda done, total: None)
        read = load_generator(tmp_path / "teacher.safetensors").state_dict()
        wanted = load_generator(TUNED, network=network).state_dict()
        assert all(torch.equal(read[name], wanted[name]) for name in wanted)
        constants.append(read["synthesis.b4.const"])
    assert settings == [{}, {"network": "G"}]
    assert not torch.equal(*constants)


# ---- gates ----


def judged(folder: Path, require: list[str] | None, fid: float = 1.6, **bench: Any) -> dict[str, Any]:
    """Return gates.json of a run of the demo with these measured figures."""
    quality = {"fid": fid, "recall": 0.79, "mode_coverage": 0.98}
    models = {"teacher": {**quality, "recall": 0.87}, "student": quality}
    write_json(folder / "run.json", {"schema": 1})
    latents = {"edits": {"correlation": 0.98, "slope": 0.95}, "mixed": {"l1": 0.08}}
    write_json(folder / "metrics.json", {"schema": 1, "models": models, "latents": latents})
    times = {"teacher": 80.0, "student": 10.0}
    rows = [
        {
            "name": name,
            "labels": {"model": name},
            "p50_ms": ms,
            "speedup": {"value": 8.0} if name == "student" else None,
        }
        for name, ms in times.items()
    ]
    write_json(folder / "bench.json", {"schema": 1, "rows": rows, **bench})
    inputs = resolve_inputs(BuildConfig(require=require, device="cpu"), Reporter())
    (stage,) = (stage for stage in STAGES if stage.name == "gates")
    job = Job(inputs, folder, key="", force=False, reporter=Reporter(), networks={})
    assert stage.work(job, lambda done, total: None) == ["gates.json"]
    return json.loads((folder / "gates.json").read_text())


@pytest.mark.parametrize(("fid", "passed"), [(1.64, True), (29.6, False)])
def test_the_demo_has_requirements_that_a_short_training_misses(tmp_path: Path, fid: float, passed: bool) -> None:
    document = judged(tmp_path, None, fid)
    assert document["passed"] == passed
    assert [one["requirement"] for one in document["requirements"]] == list(DEMO_REQUIREMENTS)


def test_given_requirements_replace_those_of_the_demo(tmp_path: Path) -> None:
    document = judged(tmp_path, ["recall>=0.95*teacher", "speedup>5"])
    assert [one["passed"] for one in document["requirements"]] == [False, True]
    assert judged(tmp_path, ["none"])["requirements"] == []


def test_the_speed_of_an_unstable_run_meets_no_requirement(tmp_path: Path) -> None:
    document = judged(tmp_path, ["speedup>5"], unstable_because=["other processes took 1.7 of 2 cores"])
    assert not document["passed"]
    assert "other processes took 1.7 of 2 cores" in document["requirements"][0]["text"]


def test_a_figure_that_the_build_does_not_measure_is_refused_before_the_work() -> None:
    config = BuildConfig(dataset="ffhq", teacher=TUNED, require=["fid<2"], device="cpu")
    with pytest.raises(UsageError, match="'fid<2' cannot be checked: there are no real images"):
        resolve_inputs(config, Reporter())


def test_figures_of_latents_can_be_required_where_quality_is_not_measured() -> None:
    config = BuildConfig(dataset="ffhq", teacher=TUNED, require=["edit_slope>0.9", "speedup>2"], device="cpu")
    assert [one.metric for one in resolve_inputs(config, Reporter()).requirements] == ["edit_slope", "speedup"]


def test_figures_of_latents_can_be_required(tmp_path: Path) -> None:
    verdict = judged(tmp_path, ["edit_correlation>0.9", "mixed_l1<0.05", "inverted_mse<0.01"])
    assert [one["passed"] for one in verdict["requirements"]] == [True, False, False]
    assert verdict["requirements"][2]["text"] == "inverted_mse was not measured (inverted_mse<0.01 is required)"
