"""The command on two machines of two processes each, as torchrun and srun start it."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from safetensors.torch import load_file

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.compression import load_scores, score
from dcp_deploy.distributed.launched import run_launched
from dcp_deploy.errors import UsageError

from .conftest import Ended, ended, slurm, start_process

LOSS = """
import os, time

rank = os.environ.get("SLURM_PROCID", os.environ.get("RANK", "0"))
calls = 0

def patient(student, teacher):
    global calls
    calls += 1
    if os.path.exists(f"fail {rank}"):
        raise ValueError("nothing works here")
    while rank != "0" and calls > 2 and os.path.exists("wait"):
        time.sleep(0.05)
    return (student - teacher).abs().mean()
"""
"""A loss that fails in process N while a file "fail N" exists, and waits in the third step for "wait" to go."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory of all processes, with the module of the loss."""
    (tmp_path / "waiting.py").write_text(LOSS)
    return tmp_path


def on_two_machines(folder: Path, *words: object, port: int | None = None) -> list[Ended]:
    """Run the command in the four processes of a SLURM step."""
    port = port or find_free_network_port()
    logs = [folder / f"{rank}.log" for rank in range(4)]
    processes = [start_process(slurm(rank, 2, 2, port), words, log) for rank, log in enumerate(logs)]
    return [ended(process, log) for process, log in zip(processes, logs, strict=True)]


def distilling(networks: tuple[Path, Path]) -> list[object]:
    teacher, student = networks
    return [
        "distill", student, "--teacher", teacher, "--dataset", "none", "--steps", 5, "--loss", "waiting:patient=1",
        "--device", "cpu", "-o", "student.safetensors",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def alone(networks: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that one process distils from the joined batch."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "waiting.py").write_text(LOSS)
    process = start_process({}, distilling(networks), folder / "log")
    found = ended(process, folder / "log")
    assert found.code == 0, found.text
    return load_file(folder / "student.safetensors")


def assert_same_student(ours: Path, theirs: dict[str, torch.Tensor]) -> None:
    for name, value in load_file(ours).items():
        distance = (value - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-8)
        assert distance < 2e-5, f"{name}: {distance}"


@pytest.mark.slow
def test_four_processes_of_slurm_make_the_student_of_one(
    networks: tuple[Path, Path], alone: dict[str, torch.Tensor], folder: Path
) -> None:
    found = on_two_machines(folder, *distilling(networks))
    assert [one.code for one in found] == [0, 0, 0, 0], [one.text for one in found]
    assert_same_student(folder / "student.safetensors", alone)
    assert "wrote student.safetensors" in found[0].text
    assert [one.text for one in found[1:]] == ["", "", ""]  # the first alone prints


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "who"), [(0, "the loss"), (3, "process 3 of 4 on ")])
def test_an_error_in_one_process_ends_all_with_its_message_and_code(
    networks: tuple[Path, Path], folder: Path, rank: int, who: str
) -> None:
    (folder / f"fail {rank}").touch()
    found = on_two_machines(folder, *distilling(networks))
    assert [one.code for one in found] == [2, 2, 2, 2], [one.text for one in found]
    assert found[0].text.count("error: ") == 1 and "nothing works here" in found[0].text
    assert f"error: {who}" in found[0].text
    assert [one.text for one in found[1:]] == ["", "", ""]


@pytest.mark.slow
def test_scores_are_summed_over_all_processes(networks: tuple[Path, Path], folder: Path) -> None:
    teacher = networks[0]
    words = ["score", teacher, "--score", "change", "--latents", 24, "--directions", 5, "-o", "scores.safetensors"]
    found = on_two_machines(folder, *words)
    assert [one.code for one in found] == [0, 0, 0, 0], [one.text for one in found]
    expected = score(load_generator(teacher), method="change", latents=24, directions=5)
    for ours, theirs in zip(load_scores(folder / "scores.safetensors").scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [(["--devices", 2], "--devices 2, and a launcher has started 4 processes"), (["--steps", 0], "--steps 0")],
)
def test_what_the_launcher_decides_is_refused(
    networks: tuple[Path, Path], folder: Path, words: list[object], message: str
) -> None:
    found = on_two_machines(folder, *distilling(networks), *words)
    assert [one.code for one in found] == [2, 2, 2, 2], [one.text for one in found]
    assert found[0].text.count("error: ") == 1 and message in found[0].text
    assert [one.text for one in found[1:]] == ["", "", ""]


@pytest.mark.slow
def test_the_next_port_may_belong_to_another_job(networks: tuple[Path, Path], folder: Path) -> None:
    """SLURM's job number decides the port, so the next job on the same machine has the next port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = on_two_machines(folder, "score", networks[0], "--score", "change", "--latents", 24, "--directions", 5,
                                "-o", "scores.safetensors", port=other.getsockname()[1] - 1)  # fmt: skip
    assert [one.code for one in found] == [0, 0, 0, 0], [one.text for one in found]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_find_each_other_say_so(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """The first cannot serve at a port that is taken; the others find nobody there, or somebody else."""
    monkeypatch.setattr("dcp_deploy.distributed.launched.START", timedelta(seconds=1))
    monkeypatch.setattr("dcp_deploy.distributed.launched.NEWS", 0.5)
    before = threading.enumerate()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for name, value in slurm(rank, 1, 2, port).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=f"the 2 processes .* do not find each other at 127.0.0.1:{port}: "):
            run_launched(lambda: 0)
    for thread in set(threading.enumerate()) - set(before):
        thread.join(30)  # now that the other program is gone; torch logs it, and must do so within this test
        assert not thread.is_alive()


def wait_for(happened: Callable[[], bool], seconds: float = 200) -> None:
    begin = time.monotonic()
    while not happened():
        assert time.monotonic() - begin < seconds
        time.sleep(0.05)


def kill(agent: Any) -> None:
    """Kill an agent of torchrun and its processes, as the end of a machine does."""
    everyone = [*psutil.Process(agent.pid).children(recursive=True), psutil.Process(agent.pid)]
    for process in everyone:
        process.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_a_machine_is_killed_and_comes_back(
    networks: tuple[Path, Path], alone: dict[str, torch.Tensor], folder: Path
) -> None:
    """With torchrun's own agents, at two addresses. The others start again from the last checkpoint."""
    (folder / "wait").touch()
    # Else an agent that stays publishes no address for the one that comes.
    environment = {
        "RENDEZVOUS": f"127.0.0.1:{find_free_network_port()}", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }  # fmt: skip
    first, second = (
        start_process(environment, distilling(networks), folder / f"{node}.log", agent=f"127.0.0.{node}")
        for node in (1, 2)
    )
    checkpoints = folder / "student.safetensors.checkpoints"
    wait_for(lambda: any(checkpoints.glob("distill-*.safetensors")))
    kill(second)
    second.join()
    (folder / "wait").unlink()
    again = start_process(environment, distilling(networks), folder / "3.log", agent="127.0.0.2")
    found = [ended(process, folder / f"{node}.log") for process, node in ((first, 1), (again, 3))]
    assert [one.code for one in found] == [0, 0], [one.text for one in found]
    assert_same_student(folder / "student.safetensors", alone)
