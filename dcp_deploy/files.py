"""Atomic writes, hashes, run directories, and the disk space, cache folder and C++ compiler of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"
"""The record of ``build`` in its run directory."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, else delete it.

    The rename stays within one file system. So a reader sees the old file or the new one, and a kill at any moment
    leaves no half-written ``path``. The content is flushed to the disk before the rename.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp makes the file private, but others should read results
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hex sha256 of a file's content, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_run_directory(path: Path) -> bool:
    """Return whether a path is a folder in which ``build`` has worked."""
    return (path / RUN_FILE).is_file()


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of ``folder``, which need not exist yet."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cache_folder() -> Path:
    """Return the folder of fetched, computed and compiled files: ``$DCP_DEPLOY_CACHE``, else the user's own."""
    import platformdirs

    chosen = os.environ.get("DCP_DEPLOY_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("dcp-deploy")


def kernel_cache() -> Path:
    """Return the folder of compiled kernels."""
    return cache_folder() / "kernels"


def find_compiler() -> str | None:
    """Return the C++ compiler to use: the value of CXX, else the first of g++, c++ and clang++ that is installed."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)
