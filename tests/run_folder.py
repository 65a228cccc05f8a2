"""A run directory with a student alone, as ``build`` leaves it, without the training."""

from __future__ import annotations

import json
from pathlib import Path

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.generators import Generator


def write_run(folder: Path, student: Generator, *, passed: bool = True) -> Path:
    """Write a finished run of ``student``, whose export passed the gate or not."""
    save_generator(student, folder / "student.safetensors", extra={"source": {"licence": "CC BY 4.0"}})
    record = {
        "schema": 1, "tool": {"name": "dcp-deploy", "version": "0"}, "status": "finished",
        "command": "dcp-deploy build",
        "teacher": {"path": "faces.pkl"}, "config": {"dataset": "faces"}, "networks": {}, "stages": {},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "parity.json").write_text(json.dumps({"schema": 1, "passed": passed, "pairs": {}}))
    return folder
