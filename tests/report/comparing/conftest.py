"""Several finished runs of one teacher, of different sizes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.generators import Generator

from ..conftest import RunFolder

MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path, complete_run: RunFolder, tiny_generator: Generator) -> MakeRun:
    """Make a finished run: ``make_run("a", fid=2.0, slower=1.5, ratio=0.5)``. Its student is ``slower`` than usual."""

    def make(name: str, fid: float = 9.84, slower: float = 1.0, teacher: str = "0" * 64, **config: Any) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        shutil.copytree(complete_run.path, folder.path)
        (folder.path / "scores.safetensors").unlink()
        run, metrics, bench = folder.read("run.json"), folder.read("metrics.json"), folder.read("bench.json")
        metrics["models"]["student"]["fid"] = fid
        for row in bench["rows"]:
            if row["name"] == "student, ONNX Runtime":
                row["p50_ms"] *= slower
                row["speedup"] = {key: value / slower for key, value in row["speedup"].items()}
        folder.change("run.json", status="finished", config={**run["config"], **config, "out": str(folder.path)})
        folder.write("metrics.json", metrics)
        folder.change("bench.json", rows=bench["rows"], environment={"cpu": "one", "usable_cores": 2})
        save_generator(
            tiny_generator, folder.path / "student.safetensors", extra={"teacher": {"tensors_sha256": teacher}}
        )
        return folder

    return make
