from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dcp_deploy.errors import InputError, ParityError, UsageError
from dcp_deploy.export import Bisection, FusedGenerator, Runner, load_runner, tolerance_for, verify
from dcp_deploy.export.fused.stylegan2 import conv_layers
from dcp_deploy.export.parity.bisect import bisect_layers
from dcp_deploy.export.parity.layer_values import layer_values, value_names
from dcp_deploy.export.runners.runner import latents_of
from dcp_deploy.generators import Generator

from ..conftest import random_generator
from .breaking import after, broken, edit, shifted

BATCH = [(0, 0.5), (1, 0.7), (2, 1.0)]
LIMIT = 1e-4
ROUNDING = 5e-6  # relative, float32, the worst of all layers in another order of summation


def layers(a: Runner, b: Runner) -> Bisection:
    return bisect_layers(a, b, BATCH, LIMIT)


@pytest.mark.parametrize("kind", ["unconditional", "conditional", "translating", "rotating"])
def test_the_fused_network_has_the_layer_outputs_of_the_readable_one(kind: str, request: pytest.FixtureRequest) -> None:
    generator: Generator = request.getfixturevalue(kind)
    found = layers(load_runner(generator), load_runner(generator, backend="fused"))
    assert [row.name for row in found.rows] == value_names(generator.config)
    assert all(row.relative < ROUNDING for row in found.rows)
    assert found.first is None


@pytest.mark.parametrize(
    ("kind", "file"),
    [("unconditional", "float_onnx"), ("conditional", "uint8_onnx"), ("translating", "translating_onnx"),
     ("rotating", "rotating_onnx")],
)  # fmt: skip
def test_an_onnx_file_shows_every_layer(kind: str, file: str, request: pytest.FixtureRequest) -> None:
    generator: Generator = request.getfixturevalue(kind)
    found = layers(load_runner(generator), load_runner(request.getfixturevalue(file)))
    assert [row.name for row in found.rows] == value_names(generator.config)
    assert all(row.relative < ROUNDING for row in found.rows[:-1])
    assert found.first is None


def test_names_are_in_the_order_of_computation() -> None:
    config = random_generator((4, 3, 5, 2)).config
    assert value_names(config) == [
        "mapping", "styles.b4.conv1", "styles.b4.torgb", "styles.b8.conv0", "styles.b8.conv1", "styles.b8.torgb",
        "b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "image",
    ]  # fmt: skip


def test_colours_are_the_image_so_far(unconditional: Generator) -> None:
    z = latents_of([0, 1], 24)
    values = layer_values(load_runner(unconditional), z, np.ones(2, np.float32), None)
    ws = unconditional.mapping(torch.from_numpy(z))
    smaller = Generator(dataclasses.replace(unconditional.config, resolution=16, widths=unconditional.widths[:6]))
    smaller.load_state_dict(unconditional.state_dict(), strict=False)
    expected = smaller.synthesis(ws[:, : smaller.config.num_ws]).detach().numpy()
    assert np.abs(values["b16.torgb"].values - expected).max() < 1e-5  # float32, magnitude 5


def test_two_onnx_files_are_compared_by_name(float_onnx: Path, tmp_path: Path) -> None:
    assert layers(load_runner(float_onnx), load_runner(float_onnx)).first is None
    damaged = broken(float_onnx, tmp_path / "x.onnx", edit("synthesis.b16.conv1.noise", np.negative))
    assert layers(load_runner(float_onnx), load_runner(damaged)).first.name == "b16.conv1"


def test_the_layers_before_the_first_bad_one_are_right(
    unconditional: Generator, float_onnx: Path, tmp_path: Path
) -> None:
    path = broken(float_onnx, tmp_path / "x.onnx", after("synthesis.b16.conv0", shifted(3, 16)))
    found = layers(load_runner(unconditional), load_runner(path))
    assert [row.passed for row in found.rows].index(False) == found.rows.index(found.first)
    assert all(row.relative < ROUNDING for row in found.rows[: found.rows.index(found.first)])
    assert "b16.conv0 (relative error" in found.verdict and "b8.torgb before it is within it" in found.verdict


def test_one_bad_sample_of_a_batch_is_enough(unconditional: Generator) -> None:
    good = load_runner(unconditional)
    sick = Generator(unconditional.config)
    sick.load_state_dict(unconditional.state_dict())
    chosen = torch.from_numpy(latents_of([2], 24))[0]
    seen: list[torch.Tensor] = []
    sick.mapping.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def spoil(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        rows = (seen[-1] == chosen).all(dim=1)
        return torch.where(rows[:, None, None, None], output * 1.01, output)

    sick.synthesis.b8.conv1.register_forward_hook(spoil)
    found = layers(good, load_runner(sick.eval()))
    assert found.first.name == "b8.conv1"
    assert found.first.relative == pytest.approx(0.01, rel=1e-3)


def test_values_of_another_shape_are_the_first_difference(unconditional: Generator, tmp_path: Path) -> None:
    wide = random_generator((6, 5, 7, 4), z_dim=12)
    narrow = random_generator((6, 5, 7, 3), z_dim=12)
    narrow.mapping.load_state_dict(wide.mapping.state_dict())
    found = layers(load_runner(wide), load_runner(narrow))
    assert any("its shape is [3, 3, 8, 8], not [3, 4, 8, 8]" in row.note for row in found.rows)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_passes_and_a_mistake_in_it_does_not(
    precision: str, kind: torch.dtype, unconditional: Generator
) -> None:
    def rounded(generator: Generator) -> Runner:
        storage = dict.fromkeys(conv_layers(generator.config), kind)
        source = FusedGenerator(generator, storage=storage)
        return dataclasses.replace(load_runner(generator), source=source)

    limit = tolerance_for(precision).layer
    found = bisect_layers(load_runner(unconditional), rounded(unconditional), BATCH, limit)
    assert found.first is None
    assert limit / 100 < max(row.relative for row in found.rows) < limit / 2  # it is rounded, and well within the limit
    sick = Generator(unconditional.config)
    sick.load_state_dict(unconditional.state_dict())
    sick.synthesis.b16.conv1.noise_strength.data.zero_()
    found = bisect_layers(load_runner(unconditional), rounded(sick.eval()), BATCH, limit)
    assert found.first.name == "b16.conv1"


def test_a_large_batch_is_cut(unconditional: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcp_deploy.export.parity.bisect.FEATURE_PIXELS", 4 * 32**2)
    runner = load_runner(unconditional)
    assert len(bisect_layers(runner, runner, BATCH * 3, LIMIT).batch) == 4


def test_weights_beside_the_file_are_found(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(float_onnx), path, save_as_external_data=True, location="external.data", size_threshold=1024)
    assert layers(load_runner(unconditional), load_runner(path)).first is None


def test_a_runner_without_layers_is_refused(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    engine = dataclasses.replace(runner, name="x.engine", backend="tensorrt", source=None)
    with pytest.raises(UsageError, match=r"x\.engine \(tensorrt\) does not show its layers"):
        layers(runner, engine)


def test_a_file_that_names_no_layer_is_refused(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(float_onnx)
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
        node.input[:] = [name.replace("styles", "s") for name in node.input]
        node.output[:] = [name.replace("styles", "s") for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("styles", "s")
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="no layers of the same names"):
        layers(load_runner(unconditional), load_runner(tmp_path / "x.onnx"))


def test_a_file_without_metadata_is_refused(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(float_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="no metadata about its network"):
        layers(load_runner(unconditional), load_runner(tmp_path / "x.onnx"))


def test_images_that_differ_though_all_layers_agree_are_blamed_on_the_runtime(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    other = dataclasses.replace(runner, draw=lambda z, psi, c: -runner.draw(z, psi, c))
    report = verify(runner, other, latents=2, bisect=True)
    assert not report.passed and report.layers.first is None
    with pytest.raises(ParityError, match=r"no layer is out of tolerance .* the cause is the runtime"):
        report.raise_for_failure()


def test_the_layers_are_in_the_json_document(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = broken(float_onnx, tmp_path / "x.onnx", edit("synthesis.b16.conv1.noise", np.zeros_like))
    report = verify(unconditional, path, latents=2, bisect=True)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["layers"]["first"] == "b16.conv1"
    assert {"name", "max_abs", "mean_abs", "relative", "limit", "passed", "note"} == set(document["layers"]["rows"][0])
    assert [report.worst[0], report.worst[1]] in document["layers"]["batch"]
