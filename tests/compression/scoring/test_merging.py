"""Shards of one scoring run, added up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.compression import ChannelScores, load_scores, merge_scores, plan, save_scores, score
from dcp_deploy.errors import CorruptFileError, UsageError
from dcp_deploy.generators import Generator

CHANGE: dict[str, Any] = {"method": "change", "latents": 12, "batch": 4}
DIVERSITY: dict[str, Any] = {"method": "diversity", "latents": 11, "directions": 2, "batch": 2}


def shards_of(teacher: Generator, count: int, settings: dict[str, Any]) -> list[ChannelScores]:
    return [score(teacher, shard=(index, count), **settings) for index in range(count)]


def edited(part: ChannelScores, **settings: object) -> ChannelScores:
    """Return the part with other settings; None removes one."""
    changed = {name: value for name, value in (part.settings | settings).items() if value is not None}
    return ChannelScores(part.scores, changed, part.moments)


def test_shards_of_gradients_add_up_to_the_whole(teacher: Generator) -> None:
    merged, whole = merge_scores(shards_of(teacher, 3, DIVERSITY)[::-1]), score(teacher, **DIVERSITY)
    for a, b in zip(merged.scores, whole.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)  # float64 sums in another order
    assert {**merged.settings, "stability": 0} == {**whole.settings, "stability": 0}


def test_shards_of_changes_add_up_to_the_whole(teacher: Generator, tmp_path: Path) -> None:
    settings = {**CHANGE, "latents": 20, "directions": 5}
    parts = []
    for index, part in enumerate(shards_of(teacher, 3, settings)):
        save_scores(part, tmp_path / f"{index}.safetensors")
        parts.append(load_scores(tmp_path / f"{index}.safetensors"))
    merged, whole = merge_scores(parts[::-1], teacher), score(teacher, **settings)
    for a, b in zip(merged.scores, whole.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert {**merged.settings, "stability": 0} == {**whole.settings, "stability": 0}
    assert not whole.moments and not merged.moments


def test_more_shards_than_directions_still_add_up(teacher: Generator) -> None:
    settings = {**CHANGE, "latents": 8, "directions": 2}
    merged, whole = merge_scores(shards_of(teacher, 3, settings), teacher), score(teacher, **settings)
    for a, b in zip(merged.scores, whole.scores, strict=True):
        assert a.argsort().tolist() == b.argsort().tolist()


def test_shards_that_do_not_belong_together_are_refused(teacher: Generator) -> None:
    first, second = shards_of(teacher, 2, DIVERSITY)
    other = score(teacher, shard=(1, 2), **{**DIVERSITY, "alpha": 3.0})
    third = score(teacher, shard=(2, 3), **DIVERSITY)
    for parts, words in [
        ([first, first], "shard 0/2 is given 2 times"),
        ([second], "shards are missing: 0/2"),
        ([first, third], "shard 2/3 is not of a run of 2"),
        ([first, other], "shard 1/2 was scored with alpha 3.0, shard 0/2 with 5.0"),
        ([first, score(teacher, **DIVERSITY)], "not shards"),
        ([], "not shards"),
    ]:
        with pytest.raises(UsageError, match=words):
            merge_scores(parts)


@pytest.mark.parametrize("other", [False, True])
def test_shards_of_changes_are_merged_with_the_generator_that_was_scored(
    teacher: Generator, new_generator: Callable[..., Generator], other: bool
) -> None:
    parts = shards_of(teacher, 2, CHANGE)
    with pytest.raises(UsageError, match="another generator" if other else "none was given"):
        merge_scores(parts, new_generator(1) if other else None)


def test_damaged_shards_are_refused(teacher: Generator) -> None:
    (part,) = shards_of(teacher, 1, CHANGE)
    for moments in ((), part.moments[:4], part.moments[::-1]):
        with pytest.raises(CorruptFileError, match="shard 0/1 does not hold the moments"):
            merge_scores([ChannelScores(part.scores, part.settings, moments)], teacher)
    with pytest.raises(CorruptFileError, match="do not hold moments of features"):
        merge_scores([ChannelScores(part.scores, part.settings, tuple(-each for each in part.moments))], teacher)
    for name in ("psi", "seed", "alpha", "change_weight"):
        for value in (None, "0.5"):
            with pytest.raises(CorruptFileError, match=f"no number '{name}'"):
                merge_scores([edited(part, **{name: value})], teacher)
    with pytest.raises(CorruptFileError, match="no number 'hybrid_share'"):
        merge_scores([edited(part, method="hybrid")], teacher)
    with pytest.raises(UsageError, match="another generator"):
        merge_scores([edited(part, network=None)], teacher)
    for shard in ("0/1", [0], [0.0, 1], [True, 1]):
        with pytest.raises(CorruptFileError, match="not numbers of shards"):
            merge_scores([edited(part, shard=shard)], teacher)


def test_a_shard_alone_is_not_planned_from(teacher: Generator) -> None:
    for settings in (CHANGE, DIVERSITY):
        with pytest.raises(UsageError, match="scores of shard 1/2 alone"):
            plan(teacher, shards_of(teacher, 2, settings)[1])
