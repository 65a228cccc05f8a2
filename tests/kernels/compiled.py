"""Compiled code that all workers of a test run share. It is kept in pytest's cache, so that the next run finds it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from dcp_deploy.kernels.cpu.library import cpu_library


def compiled_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shared folder, or one of this process without pytest's cache (``-p no:cacheprovider``)."""
    named = os.environ.get("COMPILED_FOR_TESTS")  # set for a process of its own, see test_sanitizers.py
    cache = getattr(request.config, "cache", None)
    if named:
        return Path(named)
    return tmp_path_factory.getbasetemp() if cache is None else Path(cache.mkdir("compiled"))


def compile_once(folder: Path, compile_into: Callable[[Path], None]) -> Path:
    """Return ``folder``, filled by ``compile_into`` if it is missing; another process that needs it waits."""
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            shutil.rmtree(unfinished := folder.with_suffix(".unfinished"), ignore_errors=True)
            unfinished.mkdir(parents=True)
            compile_into(unfinished)
            unfinished.rename(folder)
    return folder


def compiled_cpu_library(folder: Path, machine: str = "native") -> Path:
    """Return the CPU operators' library in ``folder``; its name is a hash of everything that determines it."""
    with FileLock(f"{folder / 'cpu-library'}.lock"):
        return cpu_library(machine=machine, cache_folder=folder)
