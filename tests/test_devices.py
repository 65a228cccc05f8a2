"""How many CPU threads are taken: by the machine, by its load, by OMP_NUM_THREADS, by --threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dcp_deploy import devices as threads
from dcp_deploy.errors import UsageError

IDLE, BUSY = 0.0, 1.0


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Cores 1 and 3 of a machine, without a quota, torch on two threads and no OMP_NUM_THREADS."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "none")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Inject /proc/stat: after each look, the given cores have been busy for these shares of the time."""
    statistics, time_now = tmp_path / "stat", [0.0]
    ticks = dict.fromkeys(range(4), 0)

    def write() -> None:
        lines = [f"cpu{core} {count} 0 0 0 0 0 0 0 0 0" for core, count in ticks.items()]
        statistics.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5"]))

    def inject(*looks: dict[int, float]) -> Any:
        remaining = list(looks)

        def sleep(seconds: float) -> None:
            time_now[0] += seconds
            shares = remaining.pop(0)
            for core, share in shares.items():
                ticks[core] += round(share * seconds * os.sysconf("SC_CLK_TCK"))
            write()

        return sleep

    write()
    monkeypatch.setattr(threads, "_STATISTICS", statistics)
    monkeypatch.setattr(threads.time, "monotonic", lambda: time_now[0])
    monkeypatch.setattr(psutil.Process, "children", lambda process, recursive: [])
    monkeypatch.setattr(psutil.Process, "cpu_times", lambda process: (0.0, 0.0, 0.0, 0.0, 0.0))
    return inject


@pytest.mark.parametrize(("shares", "chosen"), [((1.0, 1.0), 1), ((1.0, 0.0), 1), ((0.32, 0.0), 2), ((0.0, 0.0), 2)])
def test_training_takes_the_threads_that_others_leave_free(
    two_cores: None, load: Any, shares: tuple[float, float], chosen: int
) -> None:
    found = threads.choose_threads(2, sleep=load(*[dict(zip((1, 3), shares, strict=True))] * threads.LOOKS))
    assert found.threads == chosen
    assert bool(found.because) == (chosen < 2)


def test_the_choice_names_the_load(two_cores: None, load: Any) -> None:
    found = threads.choose_threads(2, sleep=load(*[{1: BUSY, 3: 0.6}] * threads.LOOKS))
    assert str(found) == "1 CPU thread, because other processes take 1.6 of 2 cores"


def test_load_on_cores_that_this_process_may_not_use_does_not_count(two_cores: None, load: Any) -> None:
    assert threads.choose_threads(2, sleep=load({0: BUSY, 2: BUSY})).threads == 2


def test_a_short_burst_does_not_decide(two_cores: None, load: Any) -> None:
    assert threads.choose_threads(2, sleep=load({1: BUSY, 3: BUSY}, {1: IDLE})) == threads.Choice(2)


def test_without_proc_stat_all_threads_are_taken(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_STATISTICS", Path("/nowhere"))
    assert threads.choose_threads(2, sleep=lambda seconds: None) == threads.Choice(2)


def test_a_single_thread_is_not_looked_for(two_cores: None) -> None:
    assert threads.choose_threads(1, sleep=lambda seconds: pytest.fail("looked")).threads == 1


# ---- the default ----


@pytest.mark.parametrize(("stated", "number"), [("1", 1), ("8", 8), ("3,2", 3), ("", 2), ("many", 2), ("0", 2)])
def test_all_follow_omp_num_threads(two_cores: None, monkeypatch: pytest.MonkeyPatch, stated: str, number: int) -> None:
    monkeypatch.setenv(threads.VARIABLE, stated)
    assert threads.default_threads() == number


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "cpu.max": "400000 100000"}, 3.0),
        ("4:cpu,io:/x", {"cpu,io/x/cpu.cfs_quota_us": "50000", "cpu,io/x/cpu.cfs_period_us": "100000"}, 0.5),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("8:pids:/", {}, None),
        ("0::/", {"cpu.max": "nonsense"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_control_groups_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "cgroup").write_text(f"{membership}\n")
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{content}\n")
    monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    assert threads.cpu_quota() == quota


@pytest.mark.parametrize(("quota", "number"), [(None, 2), (1.9, 1), (0.5, 1), (7.0, 2)])
def test_the_default_stays_within_the_quota(
    two_cores: None, monkeypatch: pytest.MonkeyPatch, quota: float | None, number: int
) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.default_threads() == number


# ---- the load of others ----


def test_other_load_is_the_busy_time_less_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 50.0, 7.0), (110.0, 68.0, 10.0)])  # (clock, busy seconds of the cores, our own)
    monkeypatch.setattr(threads, "busy_seconds", lambda: next(readings))
    assert threads.LoadMeter().others() == 1.5  # 18 busy, 3 of them ours, in 10 seconds


def test_the_load_of_less_than_a_second_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 50.0, 7.0), (100.5, 51.0, 7.0)])
    monkeypatch.setattr(threads, "busy_seconds", lambda: next(readings))
    assert threads.LoadMeter().others() is None


def test_the_time_of_children_is_our_own() -> None:
    """Isolated candidates run in children, whose time must not count as other load."""
    code = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(); input()"
    _, _, before = threads.busy_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        _, _, during = threads.busy_seconds()
        child.communicate(b"\n")
    _, _, after = threads.busy_seconds()
    assert during - before > 0.25 and after - before > 0.25  # the kernel counts in steps of 10 ms


# ---- computing with a number ----


def test_a_loaded_machine_is_reported_and_leaves_everything_as_it_was(
    two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(threads, "choose_threads", lambda most: threads.Choice(1, "because it is busy"))
    with threads.computing(None, said.append):
        assert torch.get_num_threads() == threads.default_threads() == 1
        assert os.environ[threads.VARIABLE] == "1"  # for processes that are started here
    assert said == ["computing on 1 CPU thread, because it is busy; --threads N overrides this"]
    assert torch.get_num_threads() == 2 and threads.VARIABLE not in os.environ


def test_a_quiet_machine_is_left_alone(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "choose_threads", threads.Choice)
    with monkeypatch.context() as inside, threads.computing(None, pytest.fail):
        inside.setattr(torch, "set_num_threads", lambda count: pytest.fail("would change how sums are split"))
        assert threads.VARIABLE not in os.environ


def test_a_stated_number_is_not_reconsidered(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, "2")
    monkeypatch.setattr(threads, "choose_threads", lambda most: pytest.fail("looked at the load"))
    with threads.computing():
        assert torch.get_num_threads() == 2


def test_a_given_number_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, "1")
    before = torch.get_num_threads()
    with threads.computing(3):
        assert torch.get_num_threads() == threads.default_threads() == 3
    assert torch.get_num_threads() == before and os.environ[threads.VARIABLE] == "1"


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="threads is 0"), threads.computing(0):
        pass
