"""A process stops itself in the write that was named, with the scratch file as far as was named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dcp_deploy.benchmarks.experiments.write_stops import LOG, Phase, Stop, Write, read_writes, stop_at
from dcp_deploy.files import result_of

PROGRAM = """
import sys
from pathlib import Path
from dcp_deploy.benchmarks.experiments.write_stops import watch_writes
from dcp_deploy.files import write_text
stage = "a"
watch_writes(lambda: stage)
for stage in "ab":
    for name in ("one.json", "two.json"):
        write_text(Path(sys.argv[1]) / name, stage * 100_000)
"""


def run(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], env={**os.environ, **environment})


@pytest.mark.parametrize(("phase", "size"), [("empty", 0), ("half", 40_000), ("whole", 100_000)])
def test_it_stops_in_the_file_of_the_stage(tmp_path: Path, phase: Phase, size: int) -> None:
    process = run(tmp_path, stop_at(Stop("b", "one.json", phase, 40_000)))
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    process.kill()
    process.wait()
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
    ((scratch, result),) = [(path, name) for path in tmp_path.iterdir() if (name := result_of(path))]
    assert result == "one.json" and scratch.read_text() == "b" * size
    assert (tmp_path / "one.json").read_text() == "a" * 100_000  # of stage a, whole


def test_it_notes_every_write(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(tmp_path, {LOG: str(log)}).wait() == 0
    assert read_writes(log) == [Write(stage, f"{name}.json", 100_000) for stage in "ab" for name in ("one", "two")]
