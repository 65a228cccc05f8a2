"""What a verb prints, and the numbers it reads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dcp_deploy.cli.options import numbers, whole_numbers
from dcp_deploy.cli.output import PLAIN_SECONDS, Output, _PlainProgress
from dcp_deploy.errors import UsageError
from dcp_deploy.progress import duration


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    """The output must be larger than the pipe's buffer, or writing it would never fail."""
    command = f"{sys.executable} -m dcp_deploy schema --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("text", "meant"), [("3", (3,)), ("1,8,64", (1, 8, 64)), ("0-3", (0, 1, 2, 3)), ("0-1, 5", (0, 1, 5))]
)
def test_lists_of_whole_numbers(text: str, meant: tuple[int, ...]) -> None:
    assert whole_numbers("--seeds", text) == meant


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5", "-3", "3-1"])
def test_an_invalid_list_of_whole_numbers_names_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        whole_numbers("--seeds", text)


def test_lists_of_numbers() -> None:
    assert numbers("--psi", "0.5, 1") == (0.5, 1.0)
    with pytest.raises(UsageError, match="--psi"):
        numbers("--psi", "half")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (99, "99 s"), (99.6, "2 min"), (3600, "60 min"), (8000, "2.2 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    said: list[str] = []
    now = 0.0
    progress = _PlainProgress("distil", said.append, clock=lambda: now)
    progress(100, 200)  # resumed in the middle
    for step in range(101, 201):
        now += PLAIN_SECONDS / 10
        progress(step, 200)
    assert said[0] == "distil: 110 of 200, about 2 min left"
    assert len(said) == 9  # one each ten steps, none for the last


def test_a_nested_task_is_timed_separately() -> None:
    said: list[str] = []
    now = 0.0
    progress = _PlainProgress("distil", said.append, clock=lambda: now)
    progress(0, 5000)
    now += 1000.0
    progress(5000, 5000)  # much faster than the next task
    progress(10, 20)
    now += PLAIN_SECONDS
    progress(11, 20)
    assert said == ["distil: 10 of 20", "distil: 11 of 20, about 2 min left"]


def test_quiet_drops_messages_and_progress(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.message("hello")
    with output.task("work") as progress:
        progress(1, 2)
    assert capfd.readouterr() == ("", "")
