"""Killing builds, tried on a short program of two stages; the command is run by hand (docs/distillation.md)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from dcp_deploy.benchmarks.experiments.build_kills import (
    NETWORKS,
    Builds,
    Kill,
    Round,
    demo_build,
    kill_rounds,
    never_cut,
    table,
)
from dcp_deploy.errors import DcpDeployError

# A build of two stages that continues where it was killed. Its second word says what is wrong with it.
BUILD = r"""
import json, os, struct, sys, time
from pathlib import Path
from dcp_deploy.benchmarks.experiments.write_stops import watch_writes
fault, out = sys.argv[1], Path(sys.argv[3])
out.mkdir(exist_ok=True)

def written(name, content):
    scratch = out / f".{name}.0123456789abcdef.tmp"
    scratch.write_bytes(content)
    scratch.replace(out / name)

def network(numbers):
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(numbers)], "data_offsets": [0, len(numbers)]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(numbers)

at_work = ["start"]
watch_writes(lambda: at_work[0])
starts = out / "starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
run = {"status": "running", "seconds": 0.3, "stages": {}}
try:
    run["stages"] = json.loads((out / "run.json").read_text())["stages"]
except FileNotFoundError:
    run["stages"] = {name: {"started": None, "seconds": None, "status": "pending", "outputs": {}} for name in "ab"}
for name, files in (("a", ("teacher", "scores", "pruned")), ("b", ("student",))):
    stage = run["stages"][name]
    if stage["status"] == "done":
        continue
    stage.update(started=str(time.time()), status="running", seconds=0.05)
    written("run.json", json.dumps(run).encode())
    at_work[0] = name
    time.sleep(0.05)
    wrong = fault == "another student" and len(starts.read_text()) > 1
    for file in files:
        written(f"{file}.safetensors", network([9 if wrong else 1, 2, 3]))
    stage["status"] = "done"
    if fault == "a file" and len(starts.read_text()) > 1:
        (Path(os.environ["TMPDIR"]) / "forgotten").touch()
run["status"] = "finished"
written("run.json", json.dumps(run).encode())
for left in out.glob(".*.tmp"):
    left.unlink()
sys.exit(fault == "an error")
"""


def rounds_of(tmp_path: Path, fault: str, kills: int) -> list[Round]:
    program = tmp_path / "build.py"
    program.write_text(BUILD)
    builds = Builds([sys.executable, str(program), fault], tmp_path / "runs")
    return list(kill_rounds(builds, kills, random.Random(0)))


def test_a_build_that_continues_well_passes_every_round(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path, "nothing", 7)  # a turn: a write and a random time of each stage, a write of the record
    assert sum(len(one.kills) for one in rounds) == 7
    assert all(not one.differs and not one.left for one in rounds)
    cut = {name for one in rounds for kill in one.kills for name in kill.cut}
    assert {"student.safetensors", "run.json"} < cut and cut & {f"{name}.safetensors" for name in NETWORKS[:3]}
    assert never_cut(rounds, ["start", "a", "b"]) == ["start"]  # it writes nothing but the record


@pytest.mark.parametrize(
    ("fault", "differs", "left"), [("another student", {"student"}, set()), ("a file", set(), {"forgotten"})]
)
def test_another_student_and_forgotten_files_are_found(
    tmp_path: Path, fault: str, differs: set[str], left: set[str]
) -> None:
    rounds = rounds_of(tmp_path, fault, 3)
    assert {name for one in rounds for name in one.differs} >= differs
    assert {name for one in rounds for name in one.left} == left


def test_a_build_that_fails_ends_the_experiment_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(DcpDeployError, match="ended with code 1"):
        rounds_of(tmp_path, "an error", 1)


def test_the_table_has_a_line_for_each_stage() -> None:
    bad = Round((Kill("b", ("x.json",)), Kill("b", ())), ("student",), ("process 7",))
    good = Round((Kill("a", ()),), (), ())
    lines = table([bad, good], ["a", "b", "c"]).splitlines()[2:]
    assert lines[0] == "| a | 1 | 0 |  | yes | nothing |"
    assert lines[1] == "| b | 2 | 1 | x.json | no: student | process 7 |"
    assert lines[2] == "| c | 0 | 0 |  |  |  |"


def test_a_stage_is_cut_when_a_result_is_and_not_when_the_record_is() -> None:
    rounds = [Round((Kill("a", ("x.json",)), Kill("b", ("run.json",)), Kill("c", ())), (), ())]
    assert never_cut(rounds, ["a", "b", "c"]) == ["b", "c"]


def test_processes_that_outlived_a_kill_are_left_over_once(tmp_path: Path) -> None:
    builds = Builds([], tmp_path)
    builds.alive.append("process 7")
    assert builds.leftovers("round-1") == ["process 7"]
    assert builds.leftovers("round-2") == []


def test_the_build_is_a_short_one_of_the_demo() -> None:
    assert demo_build(7)[3:] == [
        "build", "--dataset", "demo", "--steps", "7", "--threads", "1", "--require", "none"
    ]  # fmt: skip
