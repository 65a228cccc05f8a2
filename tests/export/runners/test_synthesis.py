"""From codes to images, by the public call: checkpoints, ONNX files, engines and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dcp_deploy import load_synthesis
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.export import SynthesisRunner, export_onnx, load_runner
from dcp_deploy.export.integrity import seal
from dcp_deploy.export.runners import engine, synthesis
from dcp_deploy.generators import Generator

from ...bundle_facts import FACTS, served
from ..conftest import random_generator

TOLERANCE = 1e-5  # of the image's magnitude where that is above 1: float32, another order of summation


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator((6, 5, 4, 3))


@pytest.fixture(scope="module")
def ws_onnx(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(generator, tmp_path_factory.mktemp("ws") / "ws.onnx", inputs="ws", image="float")


def ws_of(generator: Generator, batch: int) -> np.ndarray:
    shape = (batch, generator.config.num_ws, generator.config.w_dim)
    return np.random.default_rng(batch).standard_normal(shape).astype(np.float32)


def close(images: np.ndarray, generator: Generator, ws: np.ndarray) -> bool:
    expected = generator.synthesis(torch.from_numpy(ws)).numpy()
    return bool(np.abs(images - expected).max() < TOLERANCE * max(1.0, np.abs(expected).max()))


@pytest.fixture(scope="module")
def bundle(ws_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed folder that serves only the synthesis form, two images at a time."""
    folder = tmp_path_factory.mktemp("bundles") / "b"
    place = folder / "models" / "synthesis" / "1" / "model.onnx"
    place.parent.mkdir(parents=True)
    place.write_bytes(ws_onnx.read_bytes())
    onnx = place.relative_to(folder).as_posix()
    seal(folder, {**FACTS, "models": {"synthesis": served(onnx, 2)}})
    return folder


@pytest.mark.parametrize("kind", ["network", "checkpoint", "onnx", "bundle"])
def test_codes_give_the_images_of_the_readable_synthesis(
    kind: str, generator: Generator, ws_onnx: Path, bundle: Path, tmp_path: Path
) -> None:
    sources = {"network": generator, "onnx": ws_onnx, "bundle": bundle}
    source = sources.get(kind) or save_generator(generator, tmp_path / "g.safetensors")
    draw = load_synthesis(source, threads=1)
    ws = ws_of(generator, 3)
    assert close(draw(ws), generator, ws)
    assert (draw.num_ws, draw.w_dim, draw.image_size, draw.image) == (4, 16, (8, 8), "float")
    assert draw.config == generator.config
    assert draw(ws[:0]).shape == (0, 3, 8, 8)


def test_one_vector_stands_for_all_slots(generator: Generator) -> None:
    draw, w = load_synthesis(generator), ws_of(generator, 2)[:, 0]
    np.testing.assert_array_equal(draw(w), draw(np.repeat(w[:, None], 4, axis=1)))


def test_a_bundle_is_run_within_its_largest_batch(bundle: Path) -> None:
    assert (load_synthesis(bundle).largest, load_synthesis(bundle).name) == (2, "b/synthesis")


def test_a_large_batch_is_split() -> None:
    batches = []

    def draw(ws: np.ndarray) -> np.ndarray:
        batches.append(len(ws))
        return np.zeros((len(ws), 3, 8, 8), np.float32)

    runner = SynthesisRunner("x", "test", 4, 16, 8, "float", draw, largest=2)
    assert runner(np.zeros((5, 4, 16))).shape == (5, 3, 8, 8) and batches == [2, 2, 1]


@pytest.mark.parametrize(
    ("ws", "words"),
    [
        (np.zeros((2, 3, 16)), r"\[2, 3, 16\], expected \[B, 4, 16\]"),
        (np.zeros((2, 15)), r"\[2, 15\], expected \[B, 16\]"),
        (np.full((1, 4, 16), np.nan), "64 values that are not finite"),
        (np.zeros((1, 4, 16), int), "int64"),
    ],
)
def test_wrong_codes_are_refused(generator: Generator, ws: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_synthesis(generator)(ws)


def test_a_file_that_takes_z_names_the_right_export(float_onnx: Path) -> None:
    with pytest.raises(UsageError, match="takes z, psi, not codes") as caught:
        load_synthesis(float_onnx)
    assert "For saved codes, a file made of it with dcp-deploy export --inputs ws" in caught.value.remedy


def test_a_file_that_takes_noise_is_refused(monkeypatch: pytest.MonkeyPatch, float_onnx: Path) -> None:
    form = SimpleNamespace(name="n.onnx", inputs={"ws": (4, 16), "noise.b8.conv1": (1, 8, 8)})
    monkeypatch.setattr(synthesis, "load_form", lambda path, **options: form)
    with pytest.raises(UsageError, match="noise beside codes") as caught:
        load_synthesis(float_onnx)
    assert "load_form" in caught.value.remedy


def test_a_bundle_without_the_synthesis_form_names_the_flag(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    seal(tmp_path / "b", {**FACTS, "models": {"generator": served("a", 2)}})
    with pytest.raises(UsageError, match="no model 'synthesis'") as caught:
        load_synthesis(tmp_path / "b")
    assert "--synthesis" in caught.value.remedy
    with pytest.raises(UsageError, match="no model 'generator'"):
        load_runner(bundle)


def test_another_backend_cannot_draw_codes_of_a_checkpoint(generator: Generator) -> None:
    with pytest.raises(UsageError, match="'fused'"):
        load_synthesis(generator, backend="fused")


def test_a_file_that_records_no_architecture_says_so(generator: Generator) -> None:
    plain = SynthesisRunner("x.onnx", "onnxruntime", 4, 16, 8, "float", lambda ws: ws, facts={"config": "null"})
    with pytest.raises(InputError, match=r"x\.onnx does not record its architecture"):
        _ = plain.config


def test_an_engine_of_codes_is_run_within_its_profile(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The session stands in for TensorRT's: images whose every value is the sum of the code."""
    ran: list[int] = []

    def run(feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        ran.append(len(feeds["ws"]))
        return feeds["ws"].sum(dim=(1, 2)).to(torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)

    profile = {"ws": {"min": [2, 4, 16], "opt": [2, 4, 16], "max": [3, 4, 16]}}
    config = json.loads(json.dumps(generator.config.to_dict()))
    manifest = {"profile": profile, "resolution": 8, "precision": "fp16", "config": config}
    session = SimpleNamespace(run=run, output_dtype=torch.uint8)
    monkeypatch.setattr(engine, "open_engine", lambda path: (manifest, session))
    (tmp_path / "x.engine").write_bytes(b"\0trt plan")
    draw = load_synthesis(tmp_path / "x.engine")
    ws = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 4, 16), np.float32)
    assert draw(ws)[:, 0, 0, 0].tolist() == [0, 64, 128, 192]
    assert ran == [3, 2] and draw.image == "uint8" and draw.config == generator.config
    with pytest.raises(UsageError, match="backend 'torch'"):
        load_synthesis(tmp_path / "x.engine", backend="torch")
