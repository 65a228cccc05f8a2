"""A training that was stopped, killed or diverged resumes from its checkpoint, bit for bit."""

from __future__ import annotations

import shutil
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
from dcp_deploy.cli.app import app
from dcp_deploy.compression import DistillResult, distill
from dcp_deploy.compression.distillation import stopping
from dcp_deploy.compression.distillation.stopping import TrainingInterruptedError
from dcp_deploy.errors import CorruptFileError, DcpDeployError
from dcp_deploy.generators import Generator

from ..conftest import EVERYTHING, assert_same_weights, distill_until, files_in, make_small_teacher, pruned


@pytest.fixture
def teacher(small_teacher: Generator) -> Generator:
    return small_teacher


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, teacher: Generator, stop: int) -> None:
    student = pruned(teacher)
    config = replace(EVERYTHING, log_every=3)  # losses are averaged across the interruption too

    distill_until(stop, student, teacher, config=config, checkpoint_dir=tmp_path)
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    straight = distill(student, teacher, config=config)
    assert resumed.resumed_at == stop // 2 * 2
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


@pytest.fixture
def finished(tmp_path: Path, finished_run: tuple[DistillResult, Path]) -> Path:
    """A folder with the checkpoint of a finished run of ``EVERYTHING``."""
    return Path(shutil.copytree(finished_run[1], tmp_path / "finished"))


def test_a_finished_run_is_not_trained_again(
    finished: Path, finished_run: tuple[DistillResult, Path], teacher: Generator
) -> None:
    first, student = finished_run[0], pruned(teacher)
    again = distill(
        student, teacher, config=EVERYTHING, checkpoint_dir=finished, on_step=lambda *_: pytest.fail("trained")
    )
    assert again.resumed_at == EVERYTHING.steps
    assert_same_weights(first.generator, again.generator)
    assert first.history == again.history


@pytest.mark.parametrize("change", [{"lr": 0.001}, {"steps": 7}, {"seed": 1}, {"noise": "const"}])
def test_other_settings_start_a_checkpoint_of_their_own(
    finished: Path, teacher: Generator, change: dict[str, Any]
) -> None:
    (first,) = files_in(finished)
    before = first.read_bytes()
    config = replace(EVERYTHING, **change)
    assert distill(pruned(teacher), teacher, config=config, checkpoint_dir=finished).resumed_at == 0
    assert len(files_in(finished)) == 2
    assert first.read_bytes() == before


def test_another_checkpoint_interval_does_not_start_over(finished: Path, teacher: Generator) -> None:
    config = replace(EVERYTHING, checkpoint_every=5)
    assert distill(pruned(teacher), teacher, config=config, checkpoint_dir=finished).resumed_at == EVERYTHING.steps


def test_a_damaged_checkpoint_is_refused(finished: Path, teacher: Generator) -> None:
    (checkpoint,) = files_in(finished)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-8])
    with pytest.raises(CorruptFileError, match="Delete it to start"):
        distill(pruned(teacher), teacher, config=EVERYTHING, checkpoint_dir=finished)


# ---- killed processes ----

# Imports everything once, and then forks a process for each moment, which trains until it kills itself.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from dcp_deploy.checkpoints import load_generator
from dcp_deploy.compression import DistillConfig, distill

folder, config, threads = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
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

def train(moment):
    torch.set_num_threads(threads)
    if moment == "in a step":
        torch.optim.Adam.step = die_within
    if moment == "while writing":
        Path.write_bytes = write_half
    student, teacher = (load_generator(f"{folder}/{name}.safetensors") for name in ("student", "teacher"))
    distill(student, teacher, config=config, checkpoint_dir=f"{folder}/{moment}",
            on_step=lambda step, total, values: die() if step == 5 else None)

for moment in sys.argv[4:]:
    if (child := os.fork()) == 0:
        train(moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
MOMENTS = {"between checkpoints": 4, "while writing": 2, "in a step": 4}
"""When a process is killed, and the step at which the run resumes."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each moment, with what a process that was killed then left in it."""
    folder, teacher = tmp_path_factory.mktemp("killed"), make_small_teacher()
    save_generator(pruned(teacher), folder / "student.safetensors")
    save_generator(teacher, folder / "teacher.safetensors")
    # The same number of threads as here: another number sums in another order.
    arguments = [str(folder), repr(EVERYTHING), str(torch.get_num_threads()), *MOMENTS]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=200)
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * len(MOMENTS), ended.stderr
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_process_resumes_bit_for_bit(
    killed: Path, finished_run: tuple[DistillResult, Path], teacher: Generator, moment: str
) -> None:
    resumed = distill(pruned(teacher), teacher, config=EVERYTHING, checkpoint_dir=killed / moment)
    straight = finished_run[0]
    assert resumed.resumed_at == MOMENTS[moment]
    assert len(files_in(killed / moment)) == 1  # the half-written file is removed
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


# ---- stopped processes ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    tmp_path: Path, teacher: Generator, number: signal.Signals
) -> None:
    student, handlers = pruned(teacher), [signal.getsignal(each) for each in stopping.SIGNALS]
    config = replace(EVERYTHING, log_every=3)
    steps: list[int] = []

    def stop(step: int, total: int, values: dict[str, float]) -> None:
        steps.append(step)
        if step == 2:  # between two steps: the third still runs
            signal.raise_signal(number)

    with pytest.raises(TrainingInterruptedError, match=rf"stopped by {number.name} after step 3 of 6.*distill-\w+"):
        distill(student, teacher, config=config, checkpoint_dir=tmp_path, on_step=stop)
    assert steps == [1, 2, 3]
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == handlers
    resumed = distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    straight = distill(student, teacher, config=config)
    assert resumed.resumed_at == 3
    assert_same_weights(resumed.generator, straight.generator)
    assert resumed.history == straight.history


def test_a_terminated_command_exits_with_130_and_resumes_to_the_same_bytes(
    tmp_path: Path, teacher: Generator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the same order of sums
    save_generator(teacher, "teacher.safetensors")
    save_generator(pruned(teacher), "p.safetensors")

    def words(out: str) -> list[str]:
        return ["distill", "p.safetensors", "--teacher", "teacher.safetensors", "-o", out, "--steps", "120"]

    process = subprocess.Popen(
        [sys.executable, "-m", "dcp_deploy", *words("a.safetensors")], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not Path("a.safetensors.checkpoints").exists():  # made at step 50
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=200) == 130
    messages = process.communicate()[1]
    assert "stopped by SIGTERM after step" in messages and "Run the same command again to resume." in messages

    for out in ("a.safetensors", "b.safetensors"):
        monkeypatch.setattr(sys, "argv", ["dcp-deploy", *words(out)])
        with pytest.raises(SystemExit) as end:
            app(words(out), prog_name="dcp-deploy")
        assert not end.value.code, capfd.readouterr().err
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


# ---- divergence ----


def test_weights_that_explode_stop_the_run_at_its_last_good_checkpoint(tmp_path: Path, teacher: Generator) -> None:
    student = pruned(teacher)
    config = replace(EVERYTHING, gan=0, path_length=0, lr=1e12, checkpoint_every=1)  # finite weights, infinite images
    with pytest.raises(
        DcpDeployError, match=r"loss became NaN or infinite at step 2; .* checkpoint is .*distill-\w+"
    ) as error:
        distill(student, teacher, config=config, checkpoint_dir=tmp_path)
    assert error.value.exit_code == 1
    (checkpoint,) = files_in(tmp_path)
    assert str(checkpoint) in str(error.value)
    with pytest.raises(DcpDeployError, match="at step 2"):  # resumed from that checkpoint, it diverges again
        distill(student, teacher, config=config, checkpoint_dir=tmp_path, on_step=lambda *_: pytest.fail("a step"))
