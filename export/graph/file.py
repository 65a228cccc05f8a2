"""An ONNX model on the disk: held to what TensorRT's parser takes, checked, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CorruptFileError, InputError
from ...files import atomic_path

if TYPE_CHECKING:
    import onnx

# Weights lie inside the file up to this many bytes in all; above, beside it in NAME.data. Protobuf ends at 2^31.
MOST_INSIDE = 2**31 - 2**24
# Smaller tensors stay inside always: shapes and axes, which shape inference must see.
_SMALL = 1024

# The standard operators that TensorRT's ONNX parser takes, as far as our graphs may need them, opset 17 to 20.
_TAKEN = """
    Abs Add AveragePool Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos DepthToSpace
    DequantizeLinear Div Einsum Equal Exp Expand Flatten Floor Gather Gemm Greater Identity LeakyRelu Less Log MatMul
    Max Min Mul Neg Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize
    Round Shape Sigmoid Sign Sin Slice Softplus Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
"""
TENSORRT_OPERATORS = frozenset(_TAKEN.split())


def operators_beyond_tensorrt(model: onnx.ModelProto) -> list[str]:
    """Standard operators, of the graph and of our functions' bodies, that TensorRT's parser is not known to take.

    Operators of a domain that the file has functions for count by those.
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

    With more than ``MOST_INSIDE`` bytes of weights these go to ``NAME.data`` beside it, which has to travel with it.
    ``model`` is changed: shapes are filled in, and weights that go outside leave it.
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
        # By its path: the checker finds the weights beside the file, and takes one of any size.
        onnx.checker.check_model(os.fspath(temporary), full_check=True)
    if not outside:
        data.unlink(missing_ok=True)  # of an earlier, larger model of that name


def _move_out(weights: list[onnx.TensorProto], data: Path) -> None:
    """Write the tensors one after the other, each at a multiple of 4096 bytes so that it can be mapped into memory."""
    from onnx.external_data_helper import set_external_data

    with atomic_path(data) as temporary, temporary.open("wb") as stream:
        for tensor in weights:
            stream.write(b"\0" * (-stream.tell() % 4096))
            set_external_data(tensor, data.name, offset=stream.tell(), length=len(tensor.raw_data))
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")


def read_onnx(path: Path) -> Any:
    """The ModelProto of a file, with something in it and without weights that lie in other files."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except Exception as error:  # protobuf's own, which differs between its implementations
        raise CorruptFileError(f"{path} is not an ONNX file: {error}", "export it again") from error
    if not model.graph.input:
        raise CorruptFileError(f"{path} has no inputs: it is no ONNX model of a generator", "export it again")
    return model


def read_whole_onnx(path: Path) -> onnx.ModelProto:
    """The model with the weights that lie beside it. CorruptFileError for what cannot be read."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's, onnx's and the system's types share no base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptFileError(f"onnx cannot load {path}: {reason}", "check the path, or export it again") from error
