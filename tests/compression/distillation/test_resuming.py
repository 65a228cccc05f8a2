"""A training that was stopped, killed or went wrong goes on where it was, to the last bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.compression import distill
from dcp_deploy.compression.distillation import stopping
from dcp_deploy.compression.distillation.stopping import TrainingInterruptedError
from dcp_deploy.errors import CorruptFileError, DcpDeployError
from dcp_deploy.generators import Generator

from ..conftest import EVERYTHING, assert_same_weights, files_in, pruned


@pytest.fixture
def teacher(small_teacher: Generator) -> Generator:
    return small_teacher


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, teacher: Generator, stop: int) -> None:
    student = pruned(teacher)
    config = replace(EVERYTHING, log_every=3)  # losses are averaged across the interruption too

    def interrupt(step: int, total: int, values: dict[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(student, teacher, config=config, checkpoint_dir=tmp_path, progress=interrupt)
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    straight = distill(student, teacher, config=config)
    assert resumed.resumed_at == stop // 2 * 2
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


def test_a_finished_run_is_not_trained_again(tmp_path: Path, teacher: Generator) -> None:
    student = pruned(teacher)
    first = distill(student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    again = distill(
        student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path, progress=lambda *_: pytest.fail("trained")
    )
    assert again.resumed_at == EVERYTHING.steps
    assert_same_weights(first.generator, again.generator)
    assert first.history == again.history


@pytest.mark.parametrize("change", [{"lr": 0.001}, {"steps": 7}, {"seed": 1}, {"noise": "const"}])
def test_other_settings_start_a_checkpoint_of_their_own(
    tmp_path: Path, teacher: Generator, change: dict[str, Any]
) -> None:
    student = pruned(teacher)
    distill(student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    (first,) = files_in(tmp_path)
    before = first.read_bytes()
    assert distill(student, teacher, config=replace(EVERYTHING, **change), checkpoint_dir=tmp_path).resumed_at == 0
    assert len(files_in(tmp_path)) == 2
    assert first.read_bytes() == before


def test_how_often_to_save_does_not_start_over(tmp_path: Path, teacher: Generator) -> None:
    student = pruned(teacher)
    distill(student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    config = replace(EVERYTHING, checkpoint_every=5)
    assert distill(student, teacher, config=config, checkpoint_dir=tmp_path).resumed_at == EVERYTHING.steps


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, teacher: Generator) -> None:
    student = pruned(teacher)
    distill(student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path)
    (checkpoint,) = files_in(tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-8])
    with pytest.raises(CorruptFileError, match="Delete it to start"):
        distill(student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from dcp_deploy.checkpoints import load_generator
from dcp_deploy.compression import DistillConfig, distill

folder, config, moment, threads = sys.argv[1], eval(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(threads)
write_bytes, writes = Path.write_bytes, []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def write_half(path, content):
    writes.append(path)
    if len(writes) == 2:
        write_bytes(path, content[: len(content) // 2])
        die()
    write_bytes(path, content)

def die_within(optimizer, *args, _step=torch.optim.Adam.step):
    writes.append(optimizer)
    if len(writes) == 10:  # some of the parameters of the fourth step are new, and others are old
        die()
    return _step(optimizer, *args)

if moment == "in a step":
    torch.optim.Adam.step = die_within
if moment == "while writing":
    Path.write_bytes = write_half
student, teacher = (load_generator(f"{folder}/{name}.safetensors") for name in ("student", "teacher"))
distill(student, teacher, config=config, checkpoint_dir=f"{folder}/checkpoints",
        progress=lambda step, total, values: die() if step == 5 else None)
"""


@pytest.mark.parametrize(("moment", "resumed_at"), [("between checkpoints", 4), ("while writing", 2), ("in a step", 4)])
def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path, teacher: Generator, moment: str, resumed_at: int) -> None:
    student = pruned(teacher)
    save_generator(student, tmp_path / "student.safetensors")
    save_generator(teacher, tmp_path / "teacher.safetensors")
    # The same number of threads as here: another number sums in another order.
    arguments = [str(tmp_path), repr(EVERYTHING), moment, str(torch.get_num_threads())]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = distill(student, teacher, config=EVERYTHING, checkpoint_dir=tmp_path / "checkpoints")
    straight = distill(student, teacher, config=EVERYTHING)
    assert resumed.resumed_at == resumed_at
    assert len(files_in(tmp_path / "checkpoints")) == 1  # the half-written file is gone
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


# ---- stopping when asked ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    tmp_path: Path, teacher: Generator, number: signal.Signals
) -> None:
    student, handlers = pruned(teacher), [signal.getsignal(each) for each in stopping.SIGNALS]
    config = replace(EVERYTHING, log_every=3)
    steps: list[int] = []

    def ask(step: int, total: int, values: dict[str, float]) -> None:
        steps.append(step)
        if step == 2:  # between two steps: the third is still taken
            signal.raise_signal(number)

    with pytest.raises(TrainingInterruptedError, match=rf"stopped by {number.name} after step 3 of 6.*distill-\w+"):
        distill(student, teacher, config=config, checkpoint_dir=tmp_path, progress=ask)
    assert steps == [1, 2, 3]
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == handlers
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    straight = distill(student, teacher, config=config)
    assert resumed.resumed_at == 3
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


def test_a_terminated_command_exits_with_130_and_resumes_to_the_same_bytes(tmp_path: Path, teacher: Generator) -> None:
    save_generator(teacher, tmp_path / "teacher.safetensors")
    save_generator(pruned(teacher), tmp_path / "p.safetensors")

    def command(out: str) -> list[str]:
        files = ["p.safetensors", "--teacher", "teacher.safetensors", "-o", out]
        return [sys.executable, "-m", "dcp_deploy", "distill", *files, "--steps", "160"]

    def train(out: str, *, stop: bool) -> tuple[int, str]:
        process = subprocess.Popen(command(out), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while stop and process.poll() is None and not list(tmp_path.glob(f"{out}.checkpoints")):
            time.sleep(0.01)
        if stop:
            process.send_signal(signal.SIGTERM)
        return process.wait(timeout=200), process.communicate()[1]

    code, words = train("a.safetensors", stop=True)
    assert code == 130
    assert "stopped by SIGTERM after step" in words and "Run the same command again to resume." in words
    assert train("a.safetensors", stop=False)[0] == train("b.safetensors", stop=False)[0] == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


# ---- divergence ----


def test_weights_that_explode_stop_the_run_at_its_last_good_checkpoint(tmp_path: Path, teacher: Generator) -> None:
    student = pruned(teacher)
    config = replace(EVERYTHING, gan=0, path_length=0, lr=1e12, checkpoint_every=1)  # finite, but not what it draws
    with pytest.raises(
        DcpDeployError, match=r"loss became NaN or infinite at step 2; .* checkpoint is .*distill-\w+"
    ) as error:
        distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    assert error.value.exit_code == 1
    (checkpoint,) = files_in(tmp_path)
    assert str(checkpoint) in str(error.value)
    with pytest.raises(DcpDeployError, match="at step 2"):  # it starts at that checkpoint, and ends in the same way
        distill(student, teacher, config=config, checkpoint_dir=tmp_path, progress=lambda *_: pytest.fail("a step"))
