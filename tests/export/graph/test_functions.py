"""The body of each of our operators, run by ONNX Runtime, against the reference of the kernels."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dcp_deploy.export.graph.functions import add_functions
from dcp_deploy.export.graph.operators import DOMAIN, PLUGIN, attributes_of, inputs_of, operator_types, parts_of
from dcp_deploy.kernels import reference

OPSET = 18
CHANNELS, HEIGHT, WIDTH, BATCH = 3, 6, 4, 2
CLAMP = 0.7
KINDS = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.uint8: onnx.TensorProto.UINT8,
}


def tensors(op_type: str) -> dict[str, torch.Tensor]:
    """Return random inputs for an operator whose result is CHANNELS (or 3 colours) x HEIGHT x WIDTH."""
    family, parts = parts_of(op_type)
    random = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "x": (BATCH, CHANNELS, HEIGHT, WIDTH),
        "scale": (BATCH, CHANNELS),
        "noise": (HEIGHT, WIDTH),
        "bias": (3 if family == "ToRGB" else CHANNELS,),
        "next_scale": (BATCH, CHANNELS),
        "styles": (BATCH, CHANNELS),
        "weight": (3, CHANNELS),
        "skip": (BATCH, 3, HEIGHT // 2, WIDTH // 2),
    }
    if family == "FirEpilogue":
        shapes["x"] = (BATCH, CHANNELS, HEIGHT + 1, WIDTH + 1)
    if "Shuffle" in parts:
        shapes["x"] = (BATCH, 4 * CHANNELS, HEIGHT // 2, WIDTH // 2)
    return {name: torch.randn(shapes[name], generator=random) for name in inputs_of(op_type)}


def expected(op_type: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    family, parts = parts_of(op_type)
    options = {name: value for name, value in inputs.items() if name in ("next_scale", "skip")}
    clamp = CLAMP if "Clamp" in parts else None
    if family == "ToRGB":
        arguments = [inputs[name] for name in ("x", "styles", "weight", "bias")]
        return reference.to_rgb(*arguments, clamp=clamp, as_bytes="Bytes" in parts, **options)
    arguments = (inputs["x"], inputs["scale"], inputs.get("noise"), inputs["bias"])
    if family == "FirEpilogue":
        return reference.fir_epilogue(*arguments, clamp=clamp, **options)
    return reference.modconv_epilogue(*arguments, clamp=clamp, depth_to_space="Shuffle" in parts, **options)


def model_of(op_type: str, inputs: dict[str, torch.Tensor], result: torch.Tensor) -> onnx.ModelProto:
    """Return a model with one of our nodes, fixed channels and a dynamic batch."""
    values = {"clamp": CLAMP, "channels": CHANNELS, **PLUGIN}
    node = onnx.helper.make_node(
        op_type, list(inputs), ["image"], domain=DOMAIN, **{name: values[name] for name in attributes_of(op_type)}
    )
    info = onnx.helper.make_tensor_value_info
    shapes = {name: ["B", *x.shape[1:]] if x.shape[0] == BATCH else list(x.shape) for name, x in inputs.items()}
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [info(name, KINDS[x.dtype], shapes[name]) for name, x in inputs.items()],
        [info("image", KINDS[result.dtype], ["B", *result.shape[1:]])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    add_functions(model)
    return model


def run(model: onnx.ModelProto, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["image"], {name: x.numpy() for name, x in inputs.items()})[0]


@pytest.mark.parametrize("op_type", operator_types())
def test_the_body_computes_what_the_reference_does(op_type: str) -> None:
    inputs = tensors(op_type)
    result = expected(op_type, inputs)
    model = model_of(op_type, inputs, result)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    image = run(model, inputs)
    if result.dtype == torch.uint8:
        # One step, where another order of summation moves a value over the edge between two steps.
        assert np.abs(image.astype(int) - result.numpy()).max() <= 1
        assert (image != result.numpy()).mean() < 0.01
    else:
        assert np.abs(image - result.numpy()).max() < 1e-5  # magnitude 10, float32, another order of summation


@pytest.mark.parametrize("op_type", ["ModConvEpilogueShuffleNoiseNextClamp", "FirEpilogueNoiseNext", "ToRGBSkip"])
def test_features_may_be_half_precision(op_type: str) -> None:
    inputs = tensors(op_type)
    inputs["x"] = inputs["x"].half()
    result = expected(op_type, inputs)
    image = run(model_of(op_type, inputs, result), inputs)
    assert image.dtype == result.numpy().dtype
    # The FIR's result is rounded to float16 in a body and not in the kernel: 2^-11 of magnitude 10, scaled by up to 3.
    assert np.abs(image.astype(np.float32) - result.float().numpy()).max() < 2e-2
