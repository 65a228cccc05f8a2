"""What killed servers left is removed by the next one, and nothing else."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from dcp_deploy.export.serving import leftovers
from dcp_deploy.export.serving.leftovers import LOCK, PREFIX, remove_leftovers, scratch_folder


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder and a shared memory of the test's own."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path / "shm")
    return tmp_path


def left(places: Path, name: str) -> Path:
    """Make what a killed server leaves."""
    folder = places / "tmp" / f"{PREFIX}{name}"
    (folder / "models").mkdir(parents=True)
    (folder / LOCK).touch()
    (places / "shm" / f"{folder.name}_region").touch()
    return folder


def test_leftovers_are_removed_with_their_shared_memory(places: Path) -> None:
    (places / "shm" / "another_region").touch()
    folder = left(places, "a")
    assert remove_leftovers() == [folder]
    assert [path.name for path in (places / "shm").iterdir()] == ["another_region"] and not folder.exists()


def test_a_folder_whose_lock_is_held_stays(places: Path) -> None:
    folder = left(places, "a")
    lock = os.open(folder / LOCK, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert remove_leftovers() == [] and (places / "shm" / f"{folder.name}_region").exists()
    os.close(lock)
    assert remove_leftovers() == [folder]


def test_a_folder_without_a_lock_stays_while_it_may_be_being_made(places: Path) -> None:
    folder = places / "tmp" / f"{PREFIX}new"
    folder.mkdir()
    assert remove_leftovers() == []
    os.utime(folder, (0, 0))
    assert remove_leftovers() == [folder]


def test_a_link_is_not_followed(places: Path) -> None:
    (places / "kept" / "models").mkdir(parents=True)
    (places / "kept" / LOCK).touch()
    (places / "tmp" / f"{PREFIX}link").symlink_to(places / "kept")
    assert remove_leftovers() == [] and (places / "kept" / "models").is_dir()


def test_a_folder_of_another_user_stays(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(places, "a")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert remove_leftovers() == []


def test_a_scratch_folder_is_locked_while_it_is_used_and_removed_after_it(places: Path) -> None:
    with scratch_folder() as scratch:
        (places / "shm" / f"{scratch.shared_memory}x").touch()
        assert remove_leftovers() == []
    assert not scratch.folder.exists() and not list((places / "shm").iterdir())
