"""Files in fp16, bf16 and int8: their contents, their metadata, and that they pass the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dcp_deploy.errors import UsageError
from dcp_deploy.export import FusedGenerator, export_onnx, latents_of, load_runner, precision_report, verify
from dcp_deploy.export.onnx.precision import choose_storage, convolutions, islands, measure_ranges
from dcp_deploy.export.onnx.quantization import Int8Plan, quantize
from dcp_deploy.generators import Generator

from ..conftest import integer_kernels, random_generator

WIDTHS = (8, 8, 8, 8)  # 8 px: one block of each kind

Export = Callable[..., Path]


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator(WIDTHS)


@pytest.fixture(scope="module")
def overflowing() -> Generator:
    """One channel of b8.conv1 is about 1e5 sqrt(2), beyond float16, and hardly affects the image."""
    network = random_generator(WIDTHS)
    block = network.synthesis.get_submodule("b8")
    block.conv1.bias[3] = 1e5
    block.torgb.weight[:, 3] *= 1e-6
    return network


@pytest.fixture(scope="module")
def half(overflowing: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(overflowing, tmp_path_factory.mktemp("half") / "half.onnx", precision="fp16")


@pytest.fixture(scope="module")
def brain(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("brain") / "brain.onnx"
    return export_onnx(generator, path, precision="bf16", upsample="polyphase", image="float")


@pytest.fixture(scope="module")
def integers(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(generator, tmp_path_factory.mktemp("int8") / "int8.onnx", precision="int8")


def facts(path: Path) -> dict[str, Any]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def weight_types(path: Path) -> dict[str, int]:
    tensors = onnx.load(path).graph.initializer
    return {tensor.name.removeprefix("synthesis."): tensor.data_type for tensor in tensors if ".conv" in tensor.name}


def test_half_file_stores_weights_in_half_and_islands_in_float(half: Path) -> None:
    assert list(json.loads(facts(half)["islands"])) == ["b8.conv1"]
    for name, kind in weight_types(half).items():
        narrow = name in ("b4.conv1.weight", "b8.conv0.weight")
        assert kind == (onnx.TensorProto.FLOAT16 if narrow else onnx.TensorProto.FLOAT), name
    assert "b8.conv1 stays float32: reaches 1.41e+05" in precision_report(half)


def test_half_file_passes_the_gate_of_its_own_precision(overflowing: Generator, half: Path) -> None:
    report = verify(overflowing, half, latents=8)
    assert report.precision == "fp16"
    assert report.passed, report.checks


def test_bfloat16_file_runs_as_the_fused_generator_does(generator: Generator, brain: Path) -> None:
    table = measure_ranges(generator, upsample="polyphase", latents=1)
    fused = FusedGenerator(generator, upsample="polyphase", storage=choose_storage(table, "bf16"))
    z, psi = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), torch.linspace(0.5, 1, 5)
    images, expected = load_runner(brain)(z=z.numpy(), psi=psi.numpy()), fused(z, psi).numpy()
    # The same roundings to 8 bits, except where another order of summation moves a value over the edge between two.
    # These are few, and the image sums many values.
    assert np.abs(images - expected).mean() < 0.1 * np.abs(fused(z, psi).numpy() - exact(generator, z, psi)).mean()


def exact(generator: Generator, z: torch.Tensor, psi: torch.Tensor) -> np.ndarray:
    return FusedGenerator(generator)(z, psi).numpy()


def test_bfloat16_file_passes_the_gate_of_its_own_precision(generator: Generator, brain: Path) -> None:
    report = verify(generator, brain, latents=8)
    assert report.precision == "bf16"
    assert report.passed, report.checks


def test_bfloat16_file_runs_in_bare_onnxruntime(brain: Path) -> None:
    model = onnx.load(brain)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert {kind for name, kind in weight_types(brain).items() if name.endswith(".weight")} == {
        onnx.TensorProto.BFLOAT16
    }
    session = onnxruntime.InferenceSession(brain, providers=["CPUExecutionProvider"])
    feeds = {"z": latents_of([0], 12), "psi": np.ones(1, np.float32)}
    assert np.array_equal(session.run(["image"], feeds)[0], load_runner(brain)(z=feeds["z"], psi=1.0))


def test_transposed_convolutions_are_stored_in_bfloat16_too(generator: Generator, tmp_path: Path) -> None:
    path = export_onnx(generator, tmp_path / "x.onnx", precision="bf16", image="float")
    assert weight_types(path)["b8.conv0.weight"] == onnx.TensorProto.BFLOAT16
    assert verify(generator, path, latents=4).passed
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_int8_file_passes_the_gate_of_its_own_precision(generator: Generator, integers: Path) -> None:
    report = verify(generator, integers, latents=8)
    assert report.precision == "int8"
    assert report.passed, report.checks
    assert report.max_steps is not None and report.max_steps > 1  # it is not the float32 file


@pytest.mark.parametrize("name", ["half", "brain", "integers"])
def test_file_records_what_was_measured_and_chosen(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    recorded = facts(path)
    assert recorded["precision"] == {"half": "fp16", "brain": "bf16", "integers": "int8"}[name]
    assert [row["layer"] for row in json.loads(recorded["ranges"])["layers"]] == ["b4.conv1", "b8.conv0", "b8.conv1"]
    assert ("islands" in recorded, "int8" in recorded) == (name != "integers", name == "integers")
    assert "b8.conv0" in precision_report(path)


def test_int8_file_from_ws_has_the_integers_of_the_file_from_z(
    generator: Generator, integers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials for it run the network from z. Here they return the plan of that file, which takes no time."""
    trials: list[onnx.ModelProto] = []

    def plan(model: onnx.ModelProto, *_: object, **__: object) -> Int8Plan:
        trials.append(model)
        return Int8Plan.from_dict(json.loads(facts(integers)["int8"]))

    monkeypatch.setattr("dcp_deploy.export.onnx.exporter.plan_int8", plan)
    path = export_onnx(generator, tmp_path / "ws.onnx", inputs="ws", precision="int8")
    assert [value.name for model in trials for value in model.graph.input] == ["z", "psi"]
    constants = [
        {
            tensor.name: tensor
            for tensor in onnx.load(file).graph.initializer
            if "int8" in tensor.name or "scale" in tensor.name
        }
        for file in (integers, path)
    ]
    assert len(constants[0]) > 3
    assert constants[0] == constants[1]


def test_float32_file_has_nothing_to_report(float_onnx: Path) -> None:
    assert facts(float_onnx)["precision"] == "fp32"
    assert precision_report(float_onnx) == ""


def test_unknown_precision_is_refused(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'fp8'"):
        export_onnx(generator, tmp_path / "no.onnx", precision="fp8")  # type: ignore[arg-type]


# ---- StyleGAN3 ----


@pytest.mark.parametrize("name", ["translating", "rotating"])
def test_stylegan3_in_half_precision_gives_nearly_the_same_images(name: str, request: pytest.FixtureRequest) -> None:
    network: Generator = request.getfixturevalue(name)
    table = measure_ranges(network, latents=2)
    assert [row.layer for row in table.layers] == ["L0", "L1", "L2", "L3"]
    assert islands(table, "fp16") == {} == islands(table, "bf16")
    rounded = FusedGenerator(network, storage=choose_storage(table, "fp16"))
    assert {module.weight.dtype for module in convolutions(rounded).values()} == {torch.float16}
    z, psi = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.7)
    c = torch.eye(3)[[0, 1, 2, 0]] if network.config.c_dim else None
    exact, half = FusedGenerator(network)(z, psi, c), rounded(z, psi, c)
    moved = (half - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-5 < moved < 4 * 2**-11  # four convolutions, each rounded in three places, of a unit 2^-11


def test_stylegan3_in_int8_gives_nearly_the_same_images(translating: Generator, translating_onnx: Path) -> None:
    model, table = onnx.load(translating_onnx), measure_ranges(translating)
    kernels = integer_kernels(translating, table)
    assert list(kernels) == ["L0", "L1", "L2", "L3"]
    rounded = onnxruntime.InferenceSession(
        quantize(model, table, kernels, kernels).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    z, psi = np.random.default_rng(0).standard_normal((6, 12), np.float32), np.full(6, 0.7, np.float32)
    exact = load_runner(translating_onnx)(z=z, psi=psi)
    moved = np.square(rounded.run(["image"], {"z": z, "psi": psi})[0] - exact).mean() / np.square(exact).mean()
    assert 1e-8 < moved < 1e-2  # 8 bits are worth 40 to 48 dB a layer
