from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from pydantic import TypeAdapter

from dcp_deploy.errors import ParityError
from dcp_deploy.export import Tolerance, export_onnx, latents_of
from dcp_deploy.export.graph.stored import storable, store
from dcp_deploy.export.onnx.precision import RangeTable, measure_ranges
from dcp_deploy.export.onnx.quantization import (
    SENSITIVITY_SEED,
    Int8Plan,
    plan_int8,
    quantize,
    size_report,
)
from dcp_deploy.export.onnx.rounding import IntegerKernel
from dcp_deploy.generators import Generator

from ..conftest import integer_kernels, random_generator

CONV1 = ["b4.conv1", "b8.conv1", "b16.conv1"]
LATENTS, PSI = latents_of(range(6), 12), np.ones(6, np.float32)
Kernels = dict[str, IntegerKernel]
ANYTHING = Tolerance(max_abs=2.0, max_steps=255, differing=1.0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator((8, 8, 8, 8, 8, 8))


@pytest.fixture(scope="module")
def exact(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return onnx.load(export_onnx(generator, tmp_path_factory.mktemp("onnx") / "exact.onnx", image="float"))


@pytest.fixture(scope="module")
def ranges(generator: Generator) -> RangeTable:
    return measure_ranges(generator, latents=8)


@pytest.fixture(scope="module")
def kernels(generator: Generator, ranges: RangeTable) -> Kernels:
    return integer_kernels(generator, ranges)


@pytest.fixture(scope="module")
def all_int8(exact: onnx.ModelProto, ranges: RangeTable, kernels: Kernels) -> onnx.ModelProto:
    return quantize(exact, ranges, kernels, CONV1)


@pytest.fixture(scope="module")
def plan(exact: onnx.ModelProto, ranges: RangeTable, kernels: Kernels) -> Int8Plan:
    calls: list[tuple[int, int]] = []
    found = plan_int8(
        exact, ranges, kernels, ANYTHING, latents=4, progress=lambda done, total: calls.append((done, total))
    )
    total = len(storable(exact)) + 3 * len(kernels)
    assert {whole for _, whole in calls} == {total}
    assert [done for done, _ in calls] == sorted({done for done, _ in calls}) and calls[-1] == (total, total)
    assert len(calls) > len(kernels) + 1  # not only the layers: also trials of several together
    return found


def draw(model: onnx.ModelProto, z: np.ndarray = LATENTS, psi: np.ndarray = PSI) -> np.ndarray:
    """Run it with onnxruntime alone, as a user would."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["image"], {"z": z, "psi": psi})[0]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(4 / np.mean(np.square(np.clip(a, -1, 1) - np.clip(b, -1, 1), dtype=np.float64))))


def test_int8_file_runs_and_gives_nearly_the_same_images(exact: onnx.ModelProto, all_int8: onnx.ModelProto) -> None:
    onnx.checker.check_model(all_int8, full_check=True)
    # 8 bits of features that reach four standard deviations give 38 dB per layer; three layers, amplified by those that
    # follow, stay above 25.
    assert 25 < psnr(draw(exact), draw(all_int8)) < 60


def test_onnxruntime_runs_integer_convolutions(all_int8: onnx.ModelProto, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the optimised file is for this machine only
    onnxruntime.InferenceSession(all_int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert sum(node.op_type == "QLinearConv" for node in optimized) == len(CONV1)


def test_weights_have_a_scale_per_channel_and_no_zero_points(kernels: Kernels, all_int8: onnx.ModelProto) -> None:
    after = constants(all_int8)
    for layer in CONV1:
        name = f"synthesis.{layer}.weight"
        assert name not in after
        assert after[f"{name}.int8"].dtype == np.int8
        assert np.array_equal(after[f"{name}.int8"], kernels[layer].integers)
        assert np.array_equal(after[f"{name}.scale"], kernels[layer].steps)
    zeros = [array for name, array in after.items() if name.endswith("zero_point")]
    assert zeros and all(array.dtype == np.int8 and not array.any() for array in zeros)


def test_activations_reach_127_at_the_measured_maximum(all_int8: onnx.ModelProto, ranges: RangeTable) -> None:
    stored = constants(all_int8)
    for row in ranges.layers:
        if row.layer in CONV1:
            prefix = f"synthesis.{row.layer}/Conv"
            assert stored[f"{prefix}.input.scale"] == pytest.approx(row.input / 127)
            assert stored[f"{prefix}.output.scale"] == pytest.approx(row.output / 127)


def test_only_the_named_layers_change(exact: onnx.ModelProto, ranges: RangeTable, kernels: Kernels) -> None:
    one = quantize(exact, ranges, kernels, ["b8.conv1"])
    kinds = {tensor.name: tensor.data_type for tensor in one.graph.initializer if tensor.name.endswith("weight.int8")}
    assert kinds == {"synthesis.b8.conv1.weight.int8": onnx.TensorProto.INT8}
    assert {node.name for node in exact.graph.node} <= {node.name for node in one.graph.node}
    assert list(one.functions) == list(exact.functions)
    assert quantize(exact, ranges, kernels, []).graph.node == exact.graph.node


def test_layer_that_is_all_zero_stays_all_zero(exact: onnx.ModelProto) -> None:
    dead = random_generator((8, 8, 8, 8, 8, 8))
    dead.synthesis.get_parameter("b8.conv1.weight").zero_()
    model = onnx.ModelProto.FromString(exact.SerializeToString())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "synthesis.b8.conv1.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((8, 8, 3, 3), np.float32), weight.name))
    ranges = measure_ranges(dead, latents=2)
    kernels = integer_kernels(dead, ranges)
    rounded = draw(quantize(model, ranges, kernels, ["b8.conv1"]))
    assert not kernels["b8.conv1"].integers.any()
    assert np.abs(rounded - draw(model)).max() < 1e-5


def test_same_arguments_give_the_same_bytes(exact: onnx.ModelProto, ranges: RangeTable, kernels: Kernels) -> None:
    first, second = (quantize(exact, ranges, kernels, CONV1).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_list_has_every_layer_and_starts_with_the_most_error_per_multiplication(plan: Int8Plan) -> None:
    assert sorted(row.layer for row in plan.sensitivity) == sorted(CONV1)
    # All are 8 x 8 x 3 x 3, at 4 x 4, 8 x 8 and 16 x 16 places.
    places = {"b4.conv1": 16, "b8.conv1": 64, "b16.conv1": 256}
    errors = [10 ** (-row.psnr_db / 10) / places[row.layer] for row in plan.sensitivity]
    assert errors == sorted(errors, reverse=True)
    assert [row.psnr_db for row in plan.sensitivity] != sorted(row.psnr_db for row in plan.sensitivity)
    assert plan.left_out == ()


def test_sensitivity_is_the_loss_with_the_layer_alone(
    exact: onnx.ModelProto, ranges: RangeTable, kernels: Kernels, plan: Int8Plan
) -> None:
    z, psi = latents_of(range(SENSITIVITY_SEED, SENSITIVITY_SEED + 4), 12), np.ones(4, np.float32)
    for row in plan.sensitivity:
        int8 = quantize(exact, ranges, kernels, [row.layer])
        pairs = zip(draw(exact, z, psi), draw(int8, z, psi), strict=True)
        alone = min(psnr(a, b) for a, b in pairs)
        # A feature on the border between two of 255 steps may be rounded either way in another batch.
        assert row.psnr_db == pytest.approx(alone, abs=0.3)


def test_sensitive_layer_is_left_out_until_the_gate_passes(tmp_path: Path) -> None:
    network = random_generator((8, 8, 8, 8, 8, 8))
    block = network.synthesis.get_submodule("b8")
    block.conv0.bias[3] = 300.0  # this channel needs the whole range of conv1's input and hardly affects its output
    block.conv1.weight[:, 3] *= 0.003
    model = onnx.load(export_onnx(network, tmp_path / "sensitive.onnx", image="float"))
    ranges = measure_ranges(network, latents=4)
    kernels = integer_kernels(network, ranges)
    plan = plan_int8(model, ranges, kernels, Tolerance(None, None, None, psnr_db=30.0), latents=4)
    assert plan.sensitivity[0].layer == "b8.conv1"
    assert plan.sensitivity[0].psnr_db < 25 < 35 < plan.sensitivity[1].psnr_db
    assert plan.left_out == ("b8.conv1",)
    assert set(plan.layers) == {"b4.conv1", "b16.conv1"}


def test_a_generator_without_any_int8_layer_fails_the_gate(
    exact: onnx.ModelProto, ranges: RangeTable, kernels: Kernels
) -> None:
    with pytest.raises(ParityError, match="no layer of this generator can be int8"):
        plan_int8(exact, ranges, kernels, Tolerance(1e-9, 0, 0.0), latents=2)


def test_plan_can_be_printed_and_stored_as_json(plan: Int8Plan) -> None:
    text = json.dumps(asdict(plan), allow_nan=False)
    document = json.loads(text)
    assert [row["layer"] for row in document["sensitivity"]] == [row.layer for row in plan.sensitivity]
    assert TypeAdapter(Int8Plan).validate_json(text) == plan
    lines = str(plan).splitlines()
    assert lines[1].split()[0] == plan.sensitivity[0].layer
    assert lines[-1].startswith("3 layers in int8")


def test_the_report_names_what_keeps_a_file_large(tmp_path: Path) -> None:
    network = random_generator((32, 32, 32, 32, 16, 16))
    path = export_onnx(network, tmp_path / "large.onnx")
    model = onnx.load(path)
    first, *rows = size_report(path).splitlines()
    assert "1.00 of the" in first and first.endswith("because these are not int8:")
    assert "b4.conv1" in [row.split()[0] for row in rows]
    store(model, list(storable(model)))
    onnx.save(model, path)
    first, *rows = size_report(path).splitlines()
    assert 0.2 < float(first.split(" of the ")[0].split()[-1]) < 0.5
    assert ["b4.conv1", "int8"] not in [row.split()[:2] for row in rows]


def test_plans_of_earlier_files_can_be_read() -> None:
    plan = Int8Plan.from_dict({"sensitivity": [], "left_out": ["b4.conv1"], "psnr_db": 31.0})
    assert plan.stored_float32 == ()
