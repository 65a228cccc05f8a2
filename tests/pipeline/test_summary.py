"""The few lines that a build ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_deploy.files import write_json
from dcp_deploy.pipeline.summary import as_lines, summarise

ROWS = [
    {"name": "teacher, torch eager", "labels": {"model": "teacher", "backend": "torch"}, "p50_ms": 80.0},
    {
        "name": "student, ONNX Runtime",
        "labels": {"model": "student", "backend": "onnxruntime"},
        "p50_ms": 10.0,
        "speedup": {"value": 8.0, "low": 7.5, "high": 8.5},
    },
]


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ([], "8.00× (student, ONNX Runtime against teacher, torch eager)"),
        (["other processes took 1.7 of 2 cores"], "unstable, measure again (other processes took 1.7 of 2 cores)"),
    ],
)
def test_only_a_stable_run_has_a_speedup(tmp_path: Path, reasons: list[str], words: str) -> None:
    write_json(tmp_path / "run.json", {"schema": 1, "stages": {}})
    document = {"schema": 1, "baseline": "teacher, torch eager", "rows": ROWS, "unstable_because": reasons}
    write_json(tmp_path / "bench.json", document)
    assert dict(as_lines(summarise(tmp_path)))["speedup"] == words
