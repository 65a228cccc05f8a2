"""A batch in parts, one after the other, has the gradients of the whole batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dcp_deploy.compression import DistillConfig, distill
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator

from ..conftest import EVERYTHING, assert_same_to_rounding, gradients, pruned

# One step has every update: R1, and path length in an update of its own, whose gradient is the student's last. The
# learning rate is so low that weights do not depend on the rounding of the update before.
WHOLE = replace(EVERYTHING, steps=1, batch=8, gan_start=0, lr=1e-12, mirror=True, checkpoint_every=1)
WITHOUT_PATH = replace(WHOLE, path_length=0)
IMAGES = list(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("config", [WHOLE, WITHOUT_PATH], ids=["path length", "losses"])
@pytest.mark.parametrize("data", [IMAGES, None], ids=["images", "samples"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(
    tmp_path: Path, small_teacher: Generator, config: DistillConfig, data: list[NDArray[np.uint8]] | None
) -> None:
    student = pruned(small_teacher)
    histories: list[list[dict[str, float]]] = []
    for parts in (1, 2):
        divided = replace(config, accumulate=parts)
        folder = tmp_path / str(parts)
        histories.append(distill(student, small_teacher, config=divided, data=data, checkpoint_dir=folder).history)
    assert_same_to_rounding(gradients(tmp_path / "2"), gradients(tmp_path / "1"))
    assert histories[0][-1] == pytest.approx(histories[1][-1], rel=1e-5)  # every loss, in float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 6, "accumulate": 4}, "cannot be split evenly"),
        ({"batch": 8, "accumulate": 4}, "the relation loss needs groups of 4 images"),
        ({"batch": 8, "accumulate": 4, "relation_group": 2}, "the discriminator needs groups of 4 images"),
    ],
)
def test_parts_that_would_have_other_gradients_are_refused(
    small_teacher: Generator, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        distill(pruned(small_teacher), small_teacher, config=replace(EVERYTHING, **changes))  # type: ignore[arg-type]


def test_the_group_size_is_that_of_the_given_discriminator(small_teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, batch=8, accumulate=2)
    discriminator = Discriminator(replace(DiscriminatorConfig.mirror(small_teacher.config), mbstd_group=8))
    with pytest.raises(UsageError, match="the discriminator needs groups of 8 images"):
        distill(pruned(small_teacher), small_teacher, config=config, discriminator=discriminator)


def test_groups_of_two_can_be_split_into_four_parts(small_teacher: Generator) -> None:
    config = replace(EVERYTHING, steps=1, gan=0, batch=8, accumulate=4, relation_group=2)
    assert distill(pruned(small_teacher), small_teacher, config=config).history[-1]["relation"] > 0
