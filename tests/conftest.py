"""Settings and fixtures that all tests share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout

DATA = Path(__file__).parent / "data"

# A slow machine is no failure; in CI the same examples every time, so that a red run can be repeated.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Two threads everywhere: sums are split the same way on every machine, so tolerances mean the same.
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, np.ndarray]]:
    """``golden("sg2ada_32")``: weights ("sd/<key>"), latents and images of a reference network, by entry name."""

    def load(name: str) -> Mapping[str, np.ndarray]:
        with np.load(DATA / "golden" / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture(scope="session")
def golden_generator(golden: Callable[[str], Mapping[str, np.ndarray]]) -> Callable[[str], Generator]:
    """``golden_generator("sg2ada_32")``: the StyleGAN2 or StyleGAN3 whose weights a golden file holds."""

    def build(name: str) -> Generator:
        arrays = golden(name)
        record = json.loads(str(arrays["config"]))
        config = _golden_stylegan3(record) if "layers" in record else _golden_stylegan2(record)
        # NVIDIA's names of StyleGAN3 layers end in their size and width.
        state = {
            re.sub(r"(?<=synthesis\.)(L\d+)_\d+_\d+", r"\1", key[3:]): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith("sd/") and not key.endswith("resample_filter")
        }
        generator = Generator(config)
        generator.load_state_dict(state)
        return generator.eval().requires_grad_(False)

    return build


def _golden_stylegan2(record: Mapping[str, Any]) -> GeneratorConfig:
    blocks = sorted(record["blocks"].items(), key=lambda item: int(item[0]))
    return GeneratorConfig(
        resolution=record["img_resolution"],
        widths=tuple(block["out_ch"] for _, block in blocks for _ in range(2)),
        conv_clamp=blocks[0][1]["conv_clamp"],
        **{name: record[name] for name in ("z_dim", "w_dim", "c_dim", "mapping_layers")},
    )


def _golden_stylegan3(record: Mapping[str, Any]) -> GeneratorConfig:
    first = record["layers"][0]
    return GeneratorConfig(
        resolution=record["img_resolution"],
        widths=tuple(layer["in_ch"] for layer in record["layers"]),
        conv_clamp=first["clamp"],
        kind="stylegan3",
        layout=StyleGAN3Layout(record["input"]["channels"], conv_kernel=first["kernel"], radial=first["radial"]),
        **{name: record[name] for name in ("z_dim", "w_dim", "c_dim", "mapping_layers")},
    )


@pytest.fixture
def tiny_generator() -> Generator:
    """A 32 px generator, the same on every call, with uneven widths and no parameter left at a neutral value.

    A fresh network has zero biases, noise strengths and mean code; those zeros would hide a mistake, so they are drawn.
    """
    config = GeneratorConfig(resolution=32, z_dim=16, w_dim=16, mapping_layers=2, widths=(12, 12, 12, 10, 10, 8, 8, 8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(config).eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.endswith((".bias", ".noise_strength", ".w_avg")):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return generator
