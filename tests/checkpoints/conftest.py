"""NVIDIA's snapshots as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import nvidia_writer


@pytest.fixture
def nvidia_file(tmp_path: Path) -> Callable[..., Path]:
    """``nvidia_file(generator, **options of nvidia_pickle)`` writes a snapshot and returns its path."""

    def write(*arguments: Any, **options: Any) -> Path:
        path = tmp_path / "network.pkl"
        path.write_bytes(nvidia_writer.nvidia_pickle(*arguments, **options))
        return path

    return write
