"""What several tests of the benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcp_deploy.export import export_onnx
from dcp_deploy.generators import Generator, GeneratorConfig


@pytest.fixture(scope="session")
def small_generator() -> Generator:
    """A StyleGAN2 of four layers, 8 px."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Generator(GeneratorConfig(8, (4,) * 4, z_dim=6, w_dim=6, mapping_layers=1)).eval()


@pytest.fixture(scope="session")
def exported(small_generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of ``small_generator``; tracing takes seconds, so tests copy this one. Do not change it."""
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    export_onnx(small_generator, path, upsample="transposed")
    return path
