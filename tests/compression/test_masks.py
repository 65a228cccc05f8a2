"""A user's segmentation model selects the pixels of the L1 and perceptual losses."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from dcp_deploy.compression import distill
from dcp_deploy.compression.masks import SegmentationMask
from dcp_deploy.errors import CorruptFileError, InputError, UsageError
from dcp_deploy.generators import Generator

from .conftest import EVERYTHING, pruned

DYNAMIC = ("B", 3, "H", "W")


def model(path: Path, nodes: list[onnx.NodeProto], shape: tuple[int | str, ...] = DYNAMIC) -> Path:
    """Write an ONNX file from "image" to "out" with the constants "numbers" [1, 3, 1, 1] = (0, 1, 2) and "axes" (1)."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    numbers = helper.make_tensor("numbers", TensorProto.FLOAT, [1, 3, 1, 1], [0.0, 1.0, 2.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "mask", [image], [out], [numbers, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def brightness(path: Path, shape: tuple[int | str, ...] = DYNAMIC) -> Path:
    """Write a model that returns the mean colour of its input as a mask [B, 1, H, W]."""
    return model(path, [helper.make_node("ReduceMean", ["image", "axes"], ["out"], keepdims=1)], shape)


def colours_as_classes(path: Path) -> Path:
    """Write a model that returns its input: the colours are the scores of three classes."""
    return model(path, [helper.make_node("Identity", ["image"], ["out"])])


def halves(size: int = 8) -> Tensor:
    """Return two images, white on the left and black on the right."""
    image = torch.ones(2, 3, size, size)
    image[..., size // 2 :] = -1
    return image


@pytest.mark.parametrize("inputs", ["unit", "signed", "imagenet"])
def test_a_mask_counts_where_it_is_above_a_half(tmp_path: Path, inputs: str) -> None:
    mask = SegmentationMask(brightness(tmp_path / "m.onnx"), inputs=inputs)  # type: ignore[arg-type]
    assert torch.equal(mask(halves()), (halves()[:, :1] > 0).float())


def test_the_inputs_setting_decides_the_range_of_values(tmp_path: Path) -> None:
    file, grey = brightness(tmp_path / "m.onnx"), torch.full((1, 3, 4, 4), 0.4)  # 0.7 in [0, 1], 0.4 in [-1, 1]
    assert SegmentationMask(file, inputs="unit")(grey).min() == 1
    assert SegmentationMask(file, inputs="signed")(grey).max() == 0
    assert SegmentationMask(file, inputs="imagenet")(grey).min() == 1  # (0.7 - 0.45) / 0.23 = 1.1
    assert SegmentationMask(file, inputs="unit")(100 * grey).min() == 1  # clamped before


def test_background_classes_do_not_count(tmp_path: Path) -> None:
    file = colours_as_classes(tmp_path / "m.onnx")
    stripes = torch.full((1, 3, 6, 6), -1.0)
    for colour in range(3):
        stripes[:, colour, :, 2 * colour : 2 * colour + 2] = 1
    for background in ((0,), (1,), (0, 2)):
        mask = SegmentationMask(file, background=background, inputs="unit")(stripes)
        expected = torch.tensor([float(column // 2 not in background) for column in range(6)])
        assert torch.equal(mask, expected.expand(1, 1, 6, 6)), background


def test_a_model_of_fixed_size_and_batch_gets_scaled_images_one_by_one(tmp_path: Path) -> None:
    mask = SegmentationMask(brightness(tmp_path / "m.onnx", (1, 3, 32, 32)), inputs="unit")
    assert torch.equal(mask(halves(8)), (halves(8)[:, :1] > 0).float())
    assert torch.equal(mask(halves(64)), (halves(64)[:, :1] > 0).float())


def test_a_mask_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    mask = SegmentationMask(brightness(tmp_path / "m.onnx"), background=(3,), inputs="unit")
    copy = pickle.loads(pickle.dumps(mask))
    assert copy.identity == mask.identity
    assert torch.equal(copy(halves()), mask(halves()))


def test_files_that_do_not_hold_a_mask_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.onnx not found"):
        SegmentationMask(tmp_path / "missing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CorruptFileError, match=r"bad\.onnx cannot be run as ONNX model"):
        SegmentationMask(tmp_path / "bad.onnx")
    with pytest.raises(UsageError, match="Give a model of one image"):
        SegmentationMask(brightness(tmp_path / "four.onnx", ("B", 4, "H", "W")))
    flat = model(tmp_path / "flat.onnx", [helper.make_node("Flatten", ["image"], ["out"])])
    with pytest.raises(UsageError, match="whose first output is a mask"):
        SegmentationMask(flat)(halves())


def test_l1_and_perceptual_loss_are_masked_and_the_others_are_not(small_teacher: Generator) -> None:
    student = pruned(small_teacher)
    config = replace(EVERYTHING, steps=1, gan_start=0, perceptual=1.0)
    seen: dict[str, list[Tensor]] = {"all": [], "left": []}

    def losses_with(name: str, mask: object) -> dict[str, float]:
        def features(images: Tensor) -> list[Tensor]:
            seen[name].append(images.detach())
            return [images]

        found: dict[str, float] = {}
        distill(
            student, small_teacher, config=config, perceptual=features, mask=mask,  # type: ignore[arg-type]
            on_step=lambda step, total, values: found.update(values),
        )  # fmt: skip
        return found

    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    every, half = losses_with("all", None), losses_with("left", lambda images: left.expand(len(images), 1, 8, 8))
    target, image = seen["all"]
    assert half["l1"] == pytest.approx(((image - target) * left).abs().mean().item(), rel=1e-6)
    assert all(torch.equal(masked, whole * left) for masked, whole in zip(seen["left"], seen["all"], strict=True))
    assert [half[name] for name in ("gan", "discriminator", "relation", "r1")] == [
        every[name] for name in ("gan", "discriminator", "relation", "r1")
    ]


def test_another_mask_is_another_run(tmp_path: Path, small_teacher: Generator) -> None:
    student, config = pruned(small_teacher), replace(EVERYTHING, steps=1, gan=0, path_length=0)
    file = colours_as_classes(tmp_path / "m.onnx")
    for background in ((0,), (1,), (0,)):
        mask = SegmentationMask(file, background=background)
        distill(student, small_teacher, config=config, mask=mask, checkpoint_dir=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2
