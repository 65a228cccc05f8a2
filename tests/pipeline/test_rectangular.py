"""A rectangular network on the whole way from the scores to a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.compression import DistillConfig, distill, plan, prune, score
from dcp_deploy.export import export_onnx, load_runner, verify
from dcp_deploy.export.bundle import sizing
from dcp_deploy.export.bundle.writer import write_bundle
from dcp_deploy.export.runners.sampling import sample_grid
from dcp_deploy.shipping.contents import contents_of

from ..compression.conftest import make_generator


def test_a_rectangular_network_is_pruned_distilled_exported_verified_and_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "SECONDS", 0.05)
    teacher = load_generator(save_generator(make_generator(base=(4, 2)), tmp_path / "teacher.safetensors"))
    scores = score(teacher, latents=4, directions=2, method="diversity")
    student = prune(teacher, plan(teacher, scores, ratio=0.4, align=1), refine="svs")
    config = DistillConfig(steps=2, batch=4, perceptual=0, gan_start=0)
    student = distill(student, teacher, config=config).generator
    exported = export_onnx(student, tmp_path / "student.onnx")
    assert verify(student, exported, latents=4).passed
    write_bundle(contents_of(exported, name="tiny"), tmp_path / "bundle", max_batch=4)

    model = (tmp_path / "bundle" / "models" / "generator" / "config.pbtxt").read_text()
    assert "dims: 16\n  dims: 8\n  dims: 3\n" in model
    golden = tmp_path / "bundle" / "golden" / "generator"
    assert json.loads((golden / "golden.json").read_text())["image_size"] == [16, 8]
    served = load_runner(tmp_path / "bundle")
    z = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    expected = np.clip(load_runner(student)(z=z) * 127.5 + 128, 0, 255).transpose(0, 2, 3, 1)
    assert served.image_size == (16, 8)
    assert np.abs(served(z=z) - expected.astype(np.uint8).astype(int)).max() <= 1
    with Image.open(sample_grid(served, tmp_path / "grid.png", seeds=[0, 1, 2])) as picture:
        assert picture.size == (3 * 8, 16)
