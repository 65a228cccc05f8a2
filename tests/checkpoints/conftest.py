"""Writers of other people's formats, and small files of each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _beside(name: str) -> ModuleType:
    """A Python file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"checkpoint_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def assembler() -> ModuleType:
    """Pickles by hand."""
    return _beside("assembler")


@pytest.fixture(scope="session")
def small_files() -> ModuleType:
    return _beside("small_files")


# ---- NVIDIA's snapshots ----


@pytest.fixture(scope="session")
def nvidia_writer() -> ModuleType:
    return _beside("nvidia_writer")


@pytest.fixture
def nvidia_file(nvidia_writer: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """``nvidia_file(generator, **options of nvidia_pickle)``: a snapshot on the disk."""

    def write(*arguments: Any, **options: Any) -> Path:
        path = tmp_path / "network.pkl"
        path.write_bytes(nvidia_writer.nvidia_pickle(*arguments, **options))
        return path

    return write


# ---- rosinality's state dicts and TensorFlow pickles ----


@pytest.fixture(scope="session")
def rosinality_writer() -> ModuleType:
    return _beside("rosinality_writer")


@pytest.fixture(scope="session")
def tensorflow_writer() -> ModuleType:
    return _beside("tensorflow_writer")
