from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dcp_deploy.benchmarks.experiments import engine_matrix
from dcp_deploy.benchmarks.experiments.engine_matrix import main, network_config, table
from dcp_deploy.errors import DcpDeployError


def cell(folder: Path, resolution: int, model: str, precision: str) -> dict[str, Any]:
    process = {"seconds": 12.0, "peak_gib": 1.25, "build_seconds": 3.5}
    about = {"resolution": resolution, "model": model, "precision": precision}
    return {**about, "onnx_bytes": 2_500_000, "engine_bytes": 3_000_000, "export": process, "engine": process}


def test_the_networks_are_full_size() -> None:
    assert network_config(256, "teacher").widths == (*[512] * 10, 256, 256, 128, 128)
    assert network_config(1024, "teacher").widths == (*[512] * 10, 256, 256, 128, 128, 64, 64, 32, 32)
    assert network_config(256, "student").widths == (*[152] * 10, 80, 80, 40, 40)


def test_a_stopped_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def measure(folder: Path, resolution: int, model: str, precision: str) -> dict[str, Any]:
        if len(measured) == 2:
            raise DcpDeployError("the power went off")
        measured.append(f"{resolution} {model}")
        return cell(folder, resolution, model, precision)

    monkeypatch.setattr(engine_matrix, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["engine_matrix", str(tmp_path), "--precision", "fp32"])
    with pytest.raises(DcpDeployError):
        main()
    first, measured[:] = list(measured), []
    main()
    assert (first, measured) == (["256 teacher", "256 student"], ["1024 teacher", "1024 student"])
    assert capsys.readouterr().out.count("| fp32 |") == 4


def test_the_table_has_a_row_for_each_cell(tmp_path: Path) -> None:
    rows = table([cell(tmp_path, 256, "teacher", "fp16")]).splitlines()
    assert rows[2] == "| 256 px teacher | fp16 | 2.5 | 12 | 1.2 | 3.0 | 3.5 | 1.2 |"


def test_the_error_holds_the_output_of_a_failing_command() -> None:
    with pytest.raises(DcpDeployError, match=r"ended with 3: .*nowhere\.onnx"):
        engine_matrix._run(["engine", "nowhere.onnx", "--target", "sm89", "--out", "x.engine"])
