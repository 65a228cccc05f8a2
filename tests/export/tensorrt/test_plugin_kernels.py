"""What a plugin passes to TensorRT, tested without it: a kernel's entry point, its launch and its arguments."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dcp_deploy.errors import UsageError
from dcp_deploy.export.tensorrt.plugin_kernels import (
    OPERATORS,
    TACTICS,
    Layout,
    Operator,
    entry,
    legal_tactics,
    output_shape,
    plugin_call,
)
from dcp_deploy.kernels import operators, reference
from dcp_deploy.kernels.cuda.calls import BLOCK, fir_epilogue_call, modconv_epilogue_call, to_rgb_call
from dcp_deploy.kernels.cuda.library import source_texts

EMULATOR = Path(__file__).parents[2] / "kernels"
ENTRY = "EXPORTED const char* name parameters { return emulator::run([&] { __VA_ARGS__; }); }"
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def tensors(
    operator: Operator, size: tuple[int, int, int, int], dtype: torch.dtype, layout: Layout
) -> dict[str, Tensor]:
    """Return the inputs of an operator whose output has batch, channels, height and width ``size``."""
    batch, channels, height, width = size
    extra = 1 if operator.name.startswith("FirEpilogue") else 0
    x = torch.randn(batch, channels, height + extra, width + extra)
    if operator.shuffles:
        x = torch.randn(batch, 4 * channels, height // 2, width // 2)
    known = {
        "x": x.to(dtype).contiguous(memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format),
        "scale": torch.randn(batch, channels),
        "noise": torch.randn(height, width),
        "bias": torch.randn(3 if operator.is_rgb else channels),
        "next_scale": torch.randn(batch, channels),
        "styles": torch.randn(batch, channels),
        "weight": torch.randn(3, channels),
        "skip": torch.randn(batch, 3, height // 2, width // 2),
    }
    return {name: known[name] for name in operator.inputs}


def expected(operator: Operator, inputs: dict[str, Tensor], clamp: float | None) -> Tensor:
    """Return the result of the readable reference."""
    if operator.is_rgb:
        arguments = [inputs[name] for name in operator.inputs[:4]]
        return reference.to_rgb(*arguments, inputs.get("skip"), clamp=clamp, as_bytes=operator.as_bytes)
    x, scale, bias = (inputs[name] for name in ("x", "scale", "bias"))
    noise, following = inputs.get("noise"), inputs.get("next_scale")
    if operator.name.startswith("FirEpilogue"):
        return reference.fir_epilogue(x, scale, noise, bias, clamp=clamp, next_scale=following)
    return reference.modconv_epilogue(
        x, scale, noise, bias, clamp=clamp, next_scale=following, depth_to_space=operator.shuffles
    )


def run_on_host(
    folder: Path, operator: Operator, inputs: dict[str, Tensor], y: Tensor, clamp: float | None, tactic: int
) -> None:
    """Compile an entry for the host emulator and launch it as TensorRT would: inputs, the batch, the output."""
    dtype: torch.dtype = inputs["x"].dtype
    layout: Layout = "nchw" if inputs["x"].is_contiguous() else "nhwc"
    call = plugin_call(operator, [list(tensor.shape) for tensor in inputs.values()], dtype, layout, clamp, tactic)
    assert call is not None
    block = TACTICS[tactic][1]
    name, text = entry(operator, call, dtype, block)
    for file, source in source_texts(call.source).items():
        (folder / file).write_text(source.replace(f"kBlock = {BLOCK};", f"kBlock = {block};"))
    (folder / "entry.cu").write_text(text)
    library = folder / f"{name}.so"
    options = ["-std=c++17", "-x", "c++", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-w"]
    options += [f"-I{EMULATOR}", f"-I{folder}"]
    compiler = os.environ.get("CXX", "g++")
    command = [
        compiler,
        *options,
        f"-DENTRY(name, parameters, ...)={ENTRY}",
        "-o",
        str(library),
        str(folder / "entry.cu"),
    ]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.emulator_shape(*call.grid, block, 0)
    kernel = loaded[name]
    kernel.restype = ctypes.c_char_p
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in inputs.values()]
    assert kernel(*pointers, ctypes.c_int(len(y)), ctypes.c_void_p(y.data_ptr())) is None


CASES = [
    ("ModConvEpilogueNoiseNextClamp", torch.float16, "nhwc", 1),
    ("ModConvEpilogueShuffleNoise", torch.float32, "nchw", 2),
    ("ModConvEpilogue", torch.bfloat16, "nchw", 3),
    ("FirEpilogueNoiseNext", torch.float16, "nchw", 2),
    ("FirEpilogueClamp", torch.float32, "nhwc", 4),
    ("ToRGBSkipClamp", torch.float16, "nhwc", 2),
    ("ToRGBSkipBytes", torch.float32, "nchw", 1),
]


@pytest.mark.parametrize(("name", "dtype", "layout", "tactic"), CASES)
def test_an_entry_computes_what_the_reference_does(
    name: str, dtype: torch.dtype, layout: Layout, tactic: int, tmp_path: Path
) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler to build the kernels for the host")
    torch.manual_seed(0)
    operator, clamp = OPERATORS[name], 1.5 if "Clamp" in name else None
    inputs = tensors(operator, (3, 16, 8, 16), dtype, layout)
    reference = expected(operator, inputs, clamp)
    y = torch.empty_like(reference, memory_format=torch.contiguous_format)
    if not operator.is_rgb and layout == "nhwc":
        y = y.contiguous(memory_format=torch.channels_last)
    run_on_host(tmp_path, operator, inputs, y, clamp, tactic)
    # Sums of 16 products in another order, then one rounding to the stored type; a byte may fall on the other side.
    atol = (
        1.0 if operator.as_bytes else {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[reference.dtype]
    )
    torch.testing.assert_close(y.float(), reference.float(), atol=atol, rtol=0)


sizes = st.tuples(st.integers(1, 40), st.integers(1, 12).map(lambda n: 2 * n), st.integers(1, 40).map(lambda n: 2 * n))


@given(
    st.sampled_from(sorted(OPERATORS)),
    sizes,
    st.sampled_from([0, 1, 2, 65535, 65536, 70000]),
    st.sampled_from(TYPES),
    st.sampled_from(["nchw", "nhwc"]),
    st.sampled_from([1, 4]),
)
def test_a_launch_is_that_of_the_kernels_own_callers(
    name: str, size: tuple[int, int, int], batch: int, dtype: torch.dtype, layout: Layout, tactic: int
) -> None:
    operator, variant = OPERATORS[name], TACTICS[tactic][0]
    with torch.device("meta"):
        inputs = tensors(operator, (batch, *size), dtype, layout)
        x, noise, following = inputs["x"], inputs.get("noise"), inputs.get("next_scale")
        y = _output(operator, x)
        if not operator.is_rgb and layout == "nhwc":  # as TensorRT has it, also where one pixel lies both ways
            y = torch.empty(y.shape, dtype=dtype, memory_format=torch.channels_last)
    if operator.is_rgb:
        rest = (inputs[key] for key in ("styles", "weight", "bias"))
        direct = to_rgb_call(x, *rest, inputs.get("skip"), y, variant=variant)
    elif operator.name.startswith("FirEpilogue"):
        direct = fir_epilogue_call(x, inputs["scale"], noise, inputs["bias"], y, next_scale=following, variant=variant)
    else:
        terms = (inputs["scale"], noise, inputs["bias"], y)
        shuffles = operator.shuffles
        direct = modconv_epilogue_call(x, *terms, next_scale=following, depth_to_space=shuffles, variant=variant)
    ours = plugin_call(operator, [tuple(tensor.shape) for tensor in inputs.values()], dtype, layout, None, tactic)
    assert (ours is None) == (direct is None) == (batch == 0)
    if ours is not None and direct is not None:
        assert (ours.source, ours.kernel, ours.grid) == (direct.source, direct.kernel, direct.grid)
        numbers = [[argument for argument in call.arguments if isinstance(argument, int)] for call in (ours, direct)]
        assert numbers[0] == numbers[1]


def _output(operator: Operator, x: Tensor) -> Tensor:
    """Return the output of the torch operator for x on the device "meta", whose shape depends on x alone."""
    if operator.is_rgb:
        return operators.to_rgb(x, x, x, x, as_bytes=operator.as_bytes)
    if operator.name.startswith("FirEpilogue"):
        return operators.fir_epilogue(x, x, None, x)
    return operators.modconv_epilogue(x, x, None, x, depth_to_space=operator.shuffles)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_the_output_has_the_shape_of_the_torch_operator(name: str) -> None:
    operator = OPERATORS[name]
    with torch.device("meta"):
        x = tensors(operator, (2, 3, 4, 6), torch.float32, "nchw")["x"]
        assert output_shape(operator, tuple(x.shape)) == tuple(_output(operator, x).shape)


def test_the_narrow_variant_is_a_tactic_of_its_own_where_the_wide_one_is_legal() -> None:
    operator = OPERATORS["ModConvEpilogue"]
    wide, narrow = ([[-1, channels, 3, 3], [-1, channels], [channels]] for channels in (16, 5))
    assert legal_tactics(operator, wide, torch.float16, "nhwc") == [1, 2, 3, 4]
    assert legal_tactics(operator, narrow, torch.float16, "nhwc") == [1, 2, 4]


def test_an_entry_has_the_pointers_of_its_node_and_the_batch() -> None:
    operator = OPERATORS["ModConvEpilogueNext"]
    call = plugin_call(operator, [[-1, 8, 4, 4], [-1, 8], [8], [-1, 8]], torch.float16, "nchw", None, 1)
    assert call is not None
    name, text = entry(operator, call, torch.float16, BLOCK)
    head, _, body = text.partition(f"ENTRY({name}, (")[2].partition("),\n")
    assert [part.split()[-1] for part in head.split(", ")] == ["x", "scale", "bias", "next_scale", "batch", "y"]
    assert "(x, scale, nullptr, bias, next_scale, batch, 8, 4, 4, 0, 1, 2139095040, y)" in body  # infinity's bits


def test_inputs_that_no_kernel_takes_are_refused() -> None:
    with pytest.raises(UsageError, match="scale is"):
        plugin_call(OPERATORS["ModConvEpilogue"], [[-1, 8, 4, 4], [-1, 7], [8]], torch.float32, "nchw", None, 1)


@pytest.mark.parametrize("file", ["float_onnx", "uint8_onnx"])
def test_every_node_of_ours_in_an_exported_file_has_its_plugin(file: str, request: pytest.FixtureRequest) -> None:
    model = onnx.load(request.getfixturevalue(file))
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in [*model.graph.value_info, *model.graph.input]:
        shapes[value.name] = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]  # -1: the batch
    nodes = [node for node in model.graph.node if node.domain == "dcp_deploy"]
    assert len(nodes) > 8
    for node in nodes:
        operator = OPERATORS[node.op_type]
        recorded = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert ("clamp" in recorded) == operator.clamps
        assert (recorded["plugin_namespace"], recorded["plugin_version"], recorded["aot"]) == (b"dcp_deploy", b"1", 1)
        inputs = [shapes[name] for name in node.input]
        call = plugin_call(operator, inputs, torch.float32, "nchw", recorded.get("clamp"), 1)
        assert call is not None and call.grid[0] >= 1
        output = shapes.get(node.output[0])
        assert output is None or tuple(output) == output_shape(operator, inputs[0])
