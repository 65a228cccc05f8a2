from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcp_deploy.benchmarks.experiments import cuda_path
from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.files import read_json


def test_rows_compare_with_the_eager_teacher() -> None:
    samples = {
        cuda_path.BASELINE: {"gpu": [4.0, 4.0, 4.0], "host": [5.0, 5.0, 5.0]},
        "student, ours fp16, graph": {"gpu": [0.5, 0.25, 0.5], "host": [1.0, 1.0, 1.0]},
    }
    found = cuda_path.rows(samples, 8)
    assert [row["gpu_ms"] for row in found] == [4.0, 0.5]
    assert found[1]["speedup"]["value"] == 8.0
    assert found[1]["images_per_second"] == 16000.0
    assert "8.00x" in cuda_path.table(found)


def test_the_student_has_30_percent_of_the_channels_in_steps_of_8() -> None:
    widths = zip(cuda_path.TEACHER, cuda_path.STUDENT, strict=True)
    assert all(width % 8 == 0 and 0 <= width - 0.3 * full < 8 for full, width in widths)


def test_without_a_gpu_the_experiment_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingCapabilityError, match="needs an NVIDIA GPU"):
        cuda_path.run(tmp_path / "latency.json", (1,), 1, 1.0, ())


@pytest.mark.gpu
def test_a_small_pair_is_compared_and_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda_path, "TEACHER", (32,) * 8)
    monkeypatch.setattr(cuda_path, "STUDENT", (16,) * 8)
    cuda_path.run(tmp_path / "latency.json", (1, 2), 5, 1.0, ())
    record = read_json(tmp_path / "latency.json")
    assert {(row["name"], row["batch"]) for row in record["rows"]} >= {
        (cuda_path.BASELINE, 1), ("student, ours fp16, graph", 2),
    }  # fmt: skip
    assert record["differences"]["teacher"]["fp16"] > 0
