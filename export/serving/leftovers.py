"""The scratch folder and the shared memory of a server, and their removal however it ended.

All processes of a server hold a lock in its scratch folder, until the last of them has ended. Its shared memory carries
the folder's name. So a process that finds a folder without a held lock may remove both, and nothing of other users.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PREFIX = "dcp-deploy-serve-"
LOCK = "lock"
SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it
MAKING_SECONDS = 600.0  # a folder without a lock is younger than this while it is made


@dataclass(frozen=True)
class Scratch:
    """A folder of a server's own."""

    folder: Path
    lock: int
    """A file descriptor. Processes that inherit it hold the lock, too."""

    @property
    def shared_memory(self) -> str:
        """Return how the names of its shared memory begin."""
        return f"{self.folder.name}_"


@contextmanager
def scratch_folder() -> Iterator[Scratch]:
    """Make a scratch folder, and remove it and its shared memory at the end. Removes what killed servers left, too."""
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Scratch(folder, lock)
    finally:
        remove(folder)
        os.close(lock)


def remove_leftovers() -> list[Path]:
    """Remove the folders of this user's servers that have ended, and their shared memory. Return the folders."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is being removed by its own server, or is not ours
            about = folder.lstat()
            if about.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink() and _is_left(folder):
                remove(folder)
                removed.append(folder)
    return removed


def _is_left(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - folder.lstat().st_mtime > MAKING_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def remove(folder: Path) -> None:
    """Remove a server's shared memory, and then its folder, whose name is needed to find it."""
    remove_shared_memory(folder)
    shutil.rmtree(folder, ignore_errors=True)


def remove_shared_memory(folder: Path) -> None:
    """Remove the shared memory of the server that has this folder."""
    for path in SHARED_MEMORY.glob(f"{folder.name}_*"):
        with suppress(OSError):
            path.unlink()


def end_group(leader: psutil.Process, seconds: float) -> None:
    """End a process with SIGTERM, after ``seconds`` with SIGKILL, and then every process that it left in its group."""
    with suppress(psutil.NoSuchProcess):
        leader.terminate()
    end = time.monotonic() + seconds
    while is_alive(leader) and time.monotonic() < end:
        time.sleep(0.05)
    kill_group(leader.pid)


def kill_group(number: int) -> None:
    """End all processes of a group at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_stopped(process: psutil.Process) -> bool:
    """Return whether a signal has stopped a process, which would run otherwise."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_STOPPED)
    return False
