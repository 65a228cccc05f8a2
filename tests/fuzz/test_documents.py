"""A fixed number of fuzzed inputs for each reader of documents; ``make fuzz`` tries as many as it has time for."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from .documents import mutated, targets

NAMES = tuple(targets(Path()))
INPUTS = 300


@pytest.mark.parametrize("name", NAMES)
def test_valid_documents_are_accepted(name: str, tmp_path: Path) -> None:
    target = targets(tmp_path)[name]
    accepted = [target.accepts(content) for content in target.valid]
    several = name in ("directions", "codes", "files of a run")  # not each document fits each of their readers
    assert any(accepted) if several else all(accepted)


@pytest.mark.parametrize("name", NAMES)
def test_changed_documents_are_accepted_or_refused_and_nothing_else(name: str, tmp_path: Path) -> None:
    target = targets(tmp_path)[name]
    outcomes = {target.accepts(mutated(target, Random(seed))) for seed in range(INPUTS)}
    assert outcomes == ({True} if not target.refused else {True, False})
