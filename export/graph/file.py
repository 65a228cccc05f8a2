"""Reads and writes ONNX files. A model is checked, for TensorRT's parser too, and written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CorruptFileError
from ...files import atomic_path
from ..kinds import onnx_needed

if TYPE_CHECKING:
    import onnx

# The most bytes of weights inside the file; more go to NAME.data beside it. A protobuf message ends at 2^31 bytes.
MOST_INSIDE = 2**31 - 2**24
# Tensors up to this size always stay inside: shapes and axes, which shape inference must see.
_SMALL = 1024

# The standard operators of TensorRT's ONNX parser that our graphs may need, opset 17 to 20.
_TAKEN = """
    Abs Add AveragePool Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos DepthToSpace
    DequantizeLinear Div Einsum Equal Exp Expand Flatten Floor Gather Gemm Greater Identity LeakyRelu Less Log MatMul
    Max Min Mul Neg Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize
    Round Shape Sigmoid Sign Sin Slice Softplus Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
"""
TENSORRT_OPERATORS = frozenset(_TAKEN.split())


def operators_beyond_tensorrt(model: onnx.ModelProto) -> list[str]:
    """Return the operators, of the graph and of its functions' bodies, that TensorRT's parser may not support.

    A node with a function in the file is replaced by the function's body, so only the body's operators count.
    """
    ours = {(function.domain, function.name) for function in model.functions}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    strange = {
        f"{node.domain}.{node.op_type}".lstrip(".")
        for node in nodes
        if (node.domain, node.op_type) not in ours and not (node.domain == "" and node.op_type in TENSORRT_OPERATORS)
    }
    return sorted(strange)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Check ``model`` (``onnx.checker`` with strict shape inference) and write it to ``path``.

    More than ``MOST_INSIDE`` bytes of weights go to ``NAME.data`` beside it, which must be kept with the file. These
    weights are removed from ``model``. Raises ValueError for operators that TensorRT's parser may not support.
    """
    import onnx

    strange = operators_beyond_tensorrt(model)
    if strange:
        raise ValueError(f"the exported graph has operators that TensorRT's parser may not take: {', '.join(strange)}")
    data = path.with_name(f"{path.name}.data")
    weights = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > _SMALL]
    outside = sum(len(tensor.raw_data) for tensor in weights) > MOST_INSIDE
    if outside:
        _move_out(weights, data)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(inferred.SerializeToString(deterministic=True))
        # By path, so that the checker finds the weights beside the file and accepts any size.
        onnx.checker.check_model(os.fspath(temporary), full_check=True)
    if not outside:
        data.unlink(missing_ok=True)  # left by an earlier, larger model of that name


def _move_out(weights: list[onnx.TensorProto], data: Path) -> None:
    """Write the tensors to ``data``, each at a multiple of 4096 bytes so that it can be mapped into memory."""
    from onnx.external_data_helper import set_external_data

    with atomic_path(data) as temporary, temporary.open("wb") as stream:
        for tensor in weights:
            stream.write(b"\0" * (-stream.tell() % 4096))
            set_external_data(tensor, data.name, offset=stream.tell(), length=len(tensor.raw_data))
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")


def read_onnx(path: Path) -> Any:
    """Return the ModelProto of a file, without weights that are stored in other files.

    Raises InputError if it cannot be read or is a model of another kind, CorruptFileError if it is not an ONNX model
    with inputs.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # the system's, or protobuf's own, which differs between its implementations
        damaged = CorruptFileError(f"{path} is not an ONNX file: {error}", "Export it again.")
        raise onnx_needed(path) or damaged from error
    if not model.graph.input:
        damaged = CorruptFileError(f"{path} has no inputs: it is not an ONNX model of a generator", "Export it again.")
        raise onnx_needed(path) or damaged
    return model


def read_whole_onnx(path: Path) -> onnx.ModelProto:
    """Return the model including weights stored beside it. Raises CorruptFileError if it cannot be read."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's, onnx's and the system's types share no base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptFileError(f"onnx cannot load {path}: {reason}", "Check the path, or export it again.") from error
