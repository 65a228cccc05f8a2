from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dcp_deploy.compression.distillation.real_images import check_labels, real_batch
from dcp_deploy.datasets.images import ImageSet, open_images
from dcp_deploy.errors import UsageError

SETTINGS: dict[str, Any] = {"seed": 0, "resolution": 4, "mirror": False}


def endless(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return images: image i is grey with value i, with a white first column."""
    images = np.zeros((len(indices), 4, 4, 3), np.uint8) + indices.astype(np.uint8)[:, None, None, None]
    images[:, :, 0] = 255
    return images


def grey(batch_and_labels: tuple[torch.Tensor, torch.Tensor | None]) -> list[int]:
    batch, labels = batch_and_labels
    assert labels is None
    return [round(value) for value in ((batch[:, 0, 0, 1] + 1) * 127.5).tolist()]


def test_an_endless_source_is_read_in_order() -> None:
    assert grey(real_batch(endless, 30, 3, **SETTINGS)) == [30, 31, 32]


def test_images_become_channels_first_in_minus_one_to_one() -> None:
    batch, _ = real_batch(endless, 0, 1, **SETTINGS)
    assert batch.shape == (1, 3, 4, 4)
    assert batch.dtype == torch.float32
    assert (batch[:, :, :, 0] == 1).all()
    assert (batch[:, :, :, 1:] == -1).all()


def test_every_epoch_of_a_finite_source_shows_every_image_once() -> None:
    source = list(endless(np.arange(7)))
    # Seven batches of three are three epochs, and batches cross from one epoch into the next.
    seen = [value for step in range(7) for value in grey(real_batch(source, 3 * step, 3, **SETTINGS))]
    epochs = [seen[0:7], seen[7:14], seen[14:21]]
    assert all(Counter(epoch) == Counter(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_mirroring_flips_about_half_and_repeats() -> None:
    settings = {**SETTINGS, "mirror": True}
    batch, _ = real_batch(endless, 0, 200, **settings)
    flipped = batch[:, 0, 0, 3] == 1
    # Four standard deviations of 200 fair coin tosses are 28.
    assert 72 <= int(flipped.sum()) <= 128
    assert (batch[~flipped, 0, 0, 0] == 1).all()
    assert torch.equal(batch, real_batch(endless, 0, 200, **settings)[0])


def labelled(folder: Path, *, c_dim: int | None = None) -> ImageSet:
    """Write ten images: image i is grey with value i and of class i modulo 3."""
    for value in range(10):
        Image.new("RGB", (4, 4), (value, value, value)).save(folder / f"{value}.png")
    labels = [[f"{value}.png", value % 3] for value in range(10)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return open_images(folder, resolution=4, c_dim=c_dim)


def test_labels_belong_to_their_images_in_any_order_of_reading(tmp_path: Path) -> None:
    source = labelled(tmp_path)
    seen = []
    for position in range(0, 30, 4):
        batch, labels = real_batch(source, position, 4, **SETTINGS)
        values = [round(value) for value in ((batch[:, 0, 0, 1] + 1) * 127.5).tolist()]
        assert labels is not None and labels.dtype == torch.float32
        assert torch.equal(labels, torch.eye(3)[[value % 3 for value in values]])
        seen += values
    # The same in the order in which a resumed run reads; and every epoch has every image.
    for position in (20, 4):
        assert grey((real_batch(source, position, 4, **SETTINGS)[0], None)) == seen[position : position + 4]
    assert all(sorted(seen[start : start + 10]) == list(range(10)) for start in (0, 10, 20))


def test_labels_must_have_the_length_of_a_class_conditional_discriminator(tmp_path: Path) -> None:
    check_labels(labelled(tmp_path), 3)
    check_labels(labelled(tmp_path), 0)
    for source in (labelled(tmp_path, c_dim=0), endless, [np.zeros((4, 4, 3), np.uint8)]):
        with pytest.raises(UsageError, match="conditional on 3 classes, and the real images have labels of length 0"):
            check_labels(source, 3)
    with pytest.raises(UsageError, match="labels of length 3"):
        check_labels(labelled(tmp_path), 4)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[2, 8, 8, 3\].*got uint8 \[2, 4, 4, 3\]"):
        real_batch(endless, 0, 2, seed=0, resolution=8, mirror=False)


def test_images_that_are_not_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="got float64"):
        real_batch([np.zeros((4, 4, 3))], 0, 1, **SETTINGS)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(UsageError, match="no images"):
        real_batch([], 0, 1, **SETTINGS)
