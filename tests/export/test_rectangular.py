"""Rectangular networks in every exported form and every runtime: the images are those of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcp_deploy.export import export_onnx, load_runner, verify
from dcp_deploy.export.parity.bisect import bisect_layers
from dcp_deploy.export.parity.pictures import CAPTION, GAP, triplet
from dcp_deploy.files import find_compiler
from dcp_deploy.generators import Generator

from .conftest import random_generator

HUMAN = random_generator((12, 10, 8, 8, 6, 6), base=(4, 2))  # 16 x 8, as StyleGAN-Human's shape
WIDE = random_generator((12, 10, 8, 8, 6, 6), base=(3, 5))
TALL = random_generator((12, 10), base=(20, 11))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("rectangular")

    def export(generator: Generator = HUMAN, **options: Any) -> Path:
        names = [f"{key}-{value}" for key, value in options.items()]
        path = folder / f"{'-'.join(map(str, [*generator.config.base, *names]))}.onnx"
        return path if path.is_file() else export_onnx(generator, path, **options)

    return export


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp32"},
        {"precision": "fp16"},
        {"precision": "bf16"},
        {"precision": "int8"},
        {"image": "float", "upsample": "polyphase"},
        {"inputs": "ws"},
        {"noise": "none"},
        {"inputs": "ws", "noise": "input"},
    ],
    ids=str,
)
def test_every_form_passes_its_gate(options: dict[str, Any], exported: Callable[..., Path]) -> None:
    assert verify(HUMAN, exported(**options), latents=4).passed


@pytest.mark.parametrize("generator", [HUMAN, WIDE, TALL], ids=["8x16", "20x12", "11x20"])
@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-winograd", "openvino", "openvino-winograd", "fused"])
def test_every_runtime_draws_images_of_the_networks_size(
    backend: Any, generator: Generator, exported: Callable[..., Path]
) -> None:
    if backend.startswith("openvino"):
        pytest.importorskip("openvino")
    if backend.endswith("winograd") and find_compiler() is None:
        pytest.skip("no C++ compiler")
    source = generator if backend == "fused" else exported(generator, image="float")
    runner, readable = load_runner(source, backend=backend), load_runner(generator)
    assert runner.image_size == readable.image_size == generator.config.image_size
    z = np.random.default_rng(0).standard_normal((2, 12)).astype(np.float32)
    images = runner(z=z)
    assert images.shape == (2, 3, *runner.image_size)
    assert runner(z=z[:0]).shape == (0, 3, *runner.image_size)
    np.testing.assert_allclose(images, readable(z=z), rtol=0, atol=1e-4)  # float32 of magnitude 5, through some layers


def test_another_shape_of_as_many_pixels_is_not_comparable() -> None:
    lying = random_generator((12, 10, 8, 8, 6, 6), base=(2, 4))
    report = verify(HUMAN, lying, latents=2)
    assert not report.passed
    assert any("8x16 px" in check.detail and "16x8 px" in check.detail for check in report.checks)


def test_layers_are_compared_and_pictures_keep_their_shape(exported: Callable[..., Path]) -> None:
    found = bisect_layers(load_runner(HUMAN), load_runner(exported(image="float")), [(0, 1.0), (1, 0.5)], 1e-3)
    assert found.first is None
    images = load_runner(HUMAN)(z=np.ones((2, 12), np.float32)).transpose(0, 2, 3, 1)
    assert triplet(images[0], images[1], 0, 1.0).size == (3 * 8 * 16 + 2 * GAP, 16 * 16 + CAPTION)
