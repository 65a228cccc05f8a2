"""The record of the machine, which is made even when probes fail."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from dcp_deploy.benchmarks.machine import environment


def test_the_record_names_machine_versions_and_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dcp-deploy", "bench", "a file.safetensors"])
    record = environment.capture_environment()
    assert record.command == "dcp-deploy bench 'a file.safetensors'"
    assert record.python == ".".join(map(str, sys.version_info[:3]))
    assert record.packages["torch"]
    assert record.usable_cores >= 1
    assert record.time_utc.endswith("+00:00")
    json.dumps(asdict(record), allow_nan=False)


def test_the_record_is_made_when_every_probe_fails(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("nothing here")

    for name in ("_cpu_model", "cpu_quota", "usable_cores", "_gpu", "_os_name", "_torch_threads", "_git_commit"):
        monkeypatch.setattr(environment, name, fail)
    monkeypatch.setattr(environment.os, "getloadavg", fail)
    record = environment.capture_environment()
    assert record.cpu is record.gpu is record.load_average is record.git_commit is None
    assert record.os


def _repository(folder):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    (folder / "tracked.py").write_text("1")
    git("add", "tracked.py")
    git("commit", "-qm", "first")
    return git("rev-parse", "HEAD").strip()


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path, monkeypatch):
    commit = _repository(tmp_path)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "tracked.py"))
    assert environment.capture_environment().git_commit == commit
    (tmp_path / "tracked.py").write_text("2")
    assert environment.capture_environment().git_commit == f"{commit}-dirty"


def test_a_package_installed_inside_another_checkout_has_no_commit(tmp_path, monkeypatch):
    _repository(tmp_path)
    (tmp_path / "installed.py").write_text("untracked")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "installed.py"))
    assert environment.capture_environment().git_commit is None


@pytest.mark.parametrize(
    ("taken", "quiet", "looks"), [([1.5, 1.2, 0.0], True, 3), ([None], True, 1), ([1.5] * 10, False, 7)]
)
def test_a_quiet_machine_is_waited_for(monkeypatch, taken, quiet, looks):
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    seen, times = iter(taken), iter(range(0, 1000, 10))
    looked = []
    found = environment.wait_until_quiet(
        60, others=lambda: looked.append(1) or next(seen), clock=lambda: next(times), progress=lambda done, total: None
    )
    assert found == quiet
    assert len(looked) <= looks


def test_without_a_wait_nothing_is_observed():
    assert environment.wait_until_quiet(0, others=lambda: pytest.fail("observed"))
