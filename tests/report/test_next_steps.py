"""What the page proposes, and which files it links."""

from __future__ import annotations

import shlex

from typer.main import get_command

from dcp_deploy.cli.app import app
from dcp_deploy.report.next_steps import files_of, next_steps
from dcp_deploy.report.run_directory import Bench, Gates, Metrics, Parity, Run, RunDirectory

FILES = {"student.onnx": 5, "student.safetensors": 5, "teacher.onnx": 9}


def commands(status="finished", files=FILES, config=None, **facts):
    config = {"out": "build/my demo", "dataset": "demo", "effort": "quick", **(config or {})}
    run = RunDirectory(run=Run(config=config, status=status, command="dcp-deploy build"), files=files, **facts)
    return [step.command for step in next_steps(run)]


def test_a_good_run_is_used():
    assert commands() == [
        "dcp-deploy sample 'build/my demo/student.onnx'",
        "dcp-deploy bundle 'build/my demo' --out 'my demo-bundle'",
        "dcp-deploy bundle 'build/my demo' --web --out 'build/my demo/web'",
    ]


def test_a_broken_run_is_continued():
    assert commands(status="failed", files={}) == ["dcp-deploy build"]


def test_an_unstable_benchmark_is_measured_again():
    first = commands(bench=Bench(unstable_because=["load"]))[0]
    assert first == "dcp-deploy bench 'build/my demo/student.onnx' --teacher 'build/my demo/teacher.onnx' --wait 60"


def test_worse_quality_is_trained_longer_with_the_same_inputs():
    metrics = Metrics.model_validate({"models": {"teacher": {"fid": 1.0}, "student": {"fid": 9.0}}})
    wanted = "dcp-deploy build --dataset demo --data '/my photos' --effort standard --out 'build/my demo-standard'"
    assert commands(metrics=metrics, config={"data": "/my photos"})[0] == wanted
    assert commands(gates=Gates(passed=False))[0].startswith("dcp-deploy build --dataset demo --effort standard")
    assert commands(metrics=metrics, config={"effort": "standard"}) == commands()  # nothing longer is proposed


def test_a_failed_parity_is_looked_at():
    assert commands(parity=Parity(passed=False))[0].endswith("--worst worst.png")


def test_every_proposed_verb_exists():
    everything = commands(
        status="failed", parity=Parity(passed=False), bench=Bench(unstable_because=["load"]), gates=Gates(passed=False)
    )
    verbs = {shlex.split(command)[1] for command in everything}
    assert verbs == {"build", "verify", "bench", "sample", "bundle"}
    assert verbs <= set(get_command(app).commands)


def test_files_are_linked_relative_to_the_page_the_student_first():
    files = files_of(RunDirectory(run=Run(), files={"grids/a b.png": 3, "run.json": 2, "student.onnx": 1500}))
    assert [(file.name, file.link, file.size) for file in files] == [
        ("student.onnx", "student.onnx", "1.50 kB"),
        ("run.json", "run.json", "2 B"),
        ("grids/a b.png", "grids/a%20b.png", "3 B"),
    ]
    assert all(file.purpose for file in files)
