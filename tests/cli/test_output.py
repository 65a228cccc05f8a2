"""What a verb prints, and the numbers it reads."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from dcp_deploy.cli.options import numbers, whole_numbers
from dcp_deploy.cli.output import PLAIN_SECONDS, Output, _PlainProgress
from dcp_deploy.errors import UsageError
from dcp_deploy.progress import Pace, clock, duration


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
    progress = _PlainProgress("distil", said.append, now=lambda: now)
    progress(100, 200)  # resumed in the middle
    for step in range(101, 201):
        now += PLAIN_SECONDS / 10
        progress(step, 200)
    assert said[0] == "distil: 110/200, 0:15 elapsed, about 2:15 left"
    assert len(said) == 9  # one each ten steps, none for the last


def test_a_nested_task_is_timed_separately() -> None:
    said: list[str] = []
    now = 0.0
    progress = _PlainProgress("distil", said.append, now=lambda: now)
    progress(0, 5000)
    now += 1000.0
    progress(5000, 5000)  # much faster than the next task
    progress(10, 20)
    now += PLAIN_SECONDS
    progress(11, 20)
    assert said == ["distil: 10/20, 16:40 elapsed", "distil: 11/20, 16:55 elapsed, about 2:15 left"]


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (115, "1:55"), (3599.6, "1:00:00"), (7390, "2:03:10")])
def test_times_on_a_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_elapsed_time_is_never_called_left() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    now = 119.0
    assert str(pace) == "1:59 elapsed"  # nothing is counted: the time left is unknown
    pace.update(0, 1800)
    assert str(pace) == "0/1800, 1:59 elapsed"
    now = 129.0
    pace.update(100, 1800)
    now = 131.0
    assert str(pace) == "100/1800, 2:11 elapsed, about 2:48 left"  # 170 s from the last count on
    now = 400.0
    assert str(pace) == "100/1800, 6:40 elapsed"  # longer than the estimate: nothing is known
    now = 131.0
    pace.update(1800, 1800)
    assert str(pace) == "1800/1800, 2:11 elapsed, finishing"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_a_spinner_the_count_and_both_times_in_one_line(width: int) -> None:
    output = Output()
    output.stderr = Console(file=io.StringIO(), force_terminal=True, width=width)
    with output.task("compare exported and original images") as progress:
        progress(0, 4)
        time.sleep(0.02)
        progress(1, 4)
    shown = output.stderr.file.getvalue()  # type: ignore[attr-defined]
    assert "1/4, 0:00 elapsed, about 0:00 left" in shown
    assert ("━" in shown) == (width == 120)


def test_quiet_drops_messages_and_progress(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.message("hello")
    with output.task("work") as progress:
        progress(1, 2)
    assert capfd.readouterr() == ("", "")
