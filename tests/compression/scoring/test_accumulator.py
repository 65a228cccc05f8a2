"""Killed runs of scoring, which continue from the file of their sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_deploy.compression import score
from dcp_deploy.compression.scoring import accumulator
from dcp_deploy.errors import CorruptFileError
from dcp_deploy.generators import Generator

from ..conftest import assert_same_scores


@pytest.fixture(autouse=True)
def saving_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulator, "_SECONDS", 0.0)


@pytest.mark.parametrize("method", ["diversity", "change"])
def test_a_killed_run_resumes_to_the_same_scores(teacher: Generator, tmp_path: Path, method: str) -> None:
    settings = {"method": method, "latents": 16, "directions": 4, "batch": 4}
    state, whole = tmp_path / "state", score(teacher, **settings)
    calls: list[int] = []

    def killed(done: int, total: int) -> None:
        calls.append(done)
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(teacher, state=state, progress=killed, **settings)
    assert state.exists()
    resumed = score(teacher, state=state, progress=killed, **settings)
    assert calls == [4, 8, 12, 16]  # nothing twice
    assert_same_scores(resumed, whole)
    assert resumed.settings == whole.settings
    assert not state.exists()


def test_other_settings_do_not_resume_from_the_file(
    teacher: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulator.ScoreAccumulator, "discard", lambda self: None)
    state = tmp_path / "state"
    score(teacher, latents=8, directions=2, batch=2, state=state, method="diversity")
    other = {"latents": 8, "directions": 2, "batch": 2, "alpha": 4.0}
    assert_same_scores(
        score(teacher, state=state, method="diversity", **other), score(teacher, method="diversity", **other)
    )


def test_a_damaged_state_is_refused(teacher: Generator, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(b"nothing")
    with pytest.raises(CorruptFileError, match="Delete it"):
        score(teacher, state=state, method="diversity", latents=7)
