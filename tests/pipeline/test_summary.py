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


def test_the_speedup_names_the_backend_that_ran_both(tmp_path: Path) -> None:
    """And a faster one whose images differ is not the fastest."""
    rows = [
        *ROWS,
        {"name": "teacher, ONNX Runtime", "labels": {"model": "teacher", "backend": "onnxruntime"}, "p50_ms": 25.0},
        *(
            {**ROWS[1], "name": f"student, {title}", "labels": {"model": "student", "backend": backend}, "p50_ms": p50}
            for title, backend, p50 in (("OpenVINO", "openvino", 8.0), ("OpenVINO, Winograd", "openvino-winograd", 7.0))
        ),
    ]
    tried = [{"name": "student, OpenVINO, Winograd", "passed": False}, {"name": "student, OpenVINO", "passed": True}]
    document = {"schema": 1, "baseline": "teacher, torch eager", "rows": rows, "fastest": {"tried": tried}}
    write_json(tmp_path / "run.json", {"schema": 1, "stages": {}})
    write_json(tmp_path / "bench.json", document)
    found = summarise(tmp_path)
    words = "8.00× (student, OpenVINO against teacher, torch eager; 2.50× with both in ONNX Runtime)"
    assert dict(as_lines(found))["speedup"] == words
    assert found["fastest"] == "student, OpenVINO"
    assert (found["speedup"]["same_backend"], found["speedup"]["same_backend_name"]) == (2.5, "ONNX Runtime")
