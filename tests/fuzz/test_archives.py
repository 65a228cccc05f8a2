"""The differential fuzzing itself starts and finds nothing in its first archives."""

from __future__ import annotations

import sys

import pytest

from . import fuzz_archives


def test_the_command_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz_archives", "5"])
    assert fuzz_archives.main() == 0
    assert "5 archives, 0 failures" in capsys.readouterr().out
