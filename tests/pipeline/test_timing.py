"""Which runtimes a build times, and which one it calls the fastest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcp_deploy import benchmarks
from dcp_deploy.benchmarks.candidates.candidate import Candidate
from dcp_deploy.benchmarks.candidates.matrix import Spec
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.config import Effort
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.export import export_onnx
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.pipeline.timing import OTHER_RUNTIMES, time_in_turns

LITTLE = Effort(
    score_latents=1, score_directions=1, evaluation_samples=1, parity_latents=1, bench_rounds=2, bench_seconds=0.0
)  # fmt: skip
TIMED = ["teacher, torch eager", "teacher, ONNX Runtime", "student, torch eager", "student, ONNX Runtime"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """A teacher and a student of 8 px, each as checkpoint and ONNX file."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    for model, width in (("teacher", 6), ("student", 4)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(width)
            network = Generator(GeneratorConfig(resolution=8, z_dim=6, w_dim=6, mapping_layers=1, widths=(width,) * 4))
        save_generator(network, folder / f"{model}.safetensors")
        made[model] = [folder / f"{model}.safetensors", export_onnx(network, folder / f"{model}.onnx")]
    return made


def opening(monkeypatch: pytest.MonkeyPatch, **errors: Exception) -> None:
    """Let the other runtimes be plain ONNX Runtime, except those that raise."""
    real = benchmarks.open_candidate

    def opened(spec: Spec) -> Candidate:
        name = spec.backend.replace("-", "_")
        if spec.backend not in OTHER_RUNTIMES:
            return real(spec)
        if name in errors:
            raise errors[name]
        return spec.candidate(lambda: np.zeros((1, 8, 8, 3), np.uint8), precision="fp32")

    monkeypatch.setattr(benchmarks, "open_candidate", opened)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Backends whose images were compared; all pass."""
    from dcp_deploy.benchmarks import fastest

    asked: list[str] = []

    class Passed:
        passed, psnr_db = True, 50.0

    def compare(reference: Spec, other: Spec) -> Any:
        asked.append(other.backend)
        return Passed

    monkeypatch.setattr(fastest, "_compare", compare)
    return asked


def test_the_model_is_timed_in_every_runtime_and_the_fastest_is_compared(
    files: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch, gate: list[str]
) -> None:
    opening(monkeypatch)
    document = time_in_turns(files, LITTLE, in_all="student")
    others = ["student, ONNX Runtime, Winograd", "student, OpenVINO", "student, OpenVINO, Winograd"]
    assert [row["name"] for row in document["rows"]] == [*TIMED, *others]
    assert document["baseline"] == TIMED[0] and not document["skipped"]
    onnx = [row for row in document["rows"] if row["name"] in (TIMED[3], *others)]
    best = min(onnx, key=lambda row: row["p50_ms"])
    assert [one["name"] for one in document["fastest"]["tried"]] == [best["name"]]
    assert gate == [best["labels"]["backend"]]
    assert document["notes"][-1].startswith(f"Fastest with the images of student, torch eager: {best['name']}, ")


def test_a_runtime_that_fails_is_listed_with_its_reason(
    files: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch, gate: list[str]
) -> None:
    opening(
        monkeypatch,
        onnxruntime_winograd=UsageError("takes no such file"),
        openvino=RuntimeError("crashed\nsomewhere"),
        openvino_winograd=InputError("cannot run it"),
    )
    document = time_in_turns(files, LITTLE, in_all="student")
    assert [row["name"] for row in document["rows"]] == TIMED
    assert [(one["name"].removeprefix("student, "), one["reason"]) for one in document["skipped"]] == [
        ("ONNX Runtime, Winograd", "takes no such file"),
        ("OpenVINO", "openvino failed: crashed"),
        ("OpenVINO, Winograd", "cannot run it"),
    ]
    assert "fastest" not in document and not gate


def test_a_sweep_times_no_other_runtimes(files: dict[str, list[Path]]) -> None:
    document = time_in_turns(files, LITTLE)
    assert [row["name"] for row in document["rows"]] == TIMED and not document["skipped"]
    assert "fastest" not in document
