"""The bench stage on a prepared run directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.config import BuildConfig, Effort
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.pipeline.inputs import resolve_inputs
from dcp_deploy.pipeline.stages import STAGES, Job
from dcp_deploy.progress import Reporter

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


def test_bench_labels_each_file_with_its_precision_and_size(job: Job) -> None:
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
    whole = sum(job.path(f"student.onnx{ending}").stat().st_size for ending in ("", ".data"))
    assert labels["student, ONNX Runtime, fp16"]["file_bytes"] == whole
