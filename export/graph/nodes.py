"""What the exporter puts in place of a torch operator: one node of ours for each call of ``torch.ops.dcp_deploy.*``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...kernels import operators  # noqa: F401 - registers torch.ops.dcp_deploy
from .operators import DOMAIN, OPTIONAL_PARTS, PLUGIN, VERSION, attributes_of, inputs_of, parts_of

if TYPE_CHECKING:
    import onnx


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ``custom_translation_table`` of ``torch.onnx.export``."""
    return {
        torch.ops.dcp_deploy.modconv_epilogue.default: _modconv_node,
        torch.ops.dcp_deploy.fir_epilogue.default: _fir_node,
        torch.ops.dcp_deploy.to_rgb.default: _rgb_node,
    }


def _modconv_node(
    x: Any,
    scale: Any,
    noise: Any,
    bias: Any,
    next_scale: Any = None,
    clamp: float | None = None,
    depth_to_space: bool = False,
) -> Any:
    inputs = {"x": x, "scale": scale, "noise": noise, "bias": bias, "next_scale": next_scale}
    parts = {"Shuffle": depth_to_space, "Noise": noise is not None, "Next": next_scale is not None}
    return _node("ModConvEpilogue", parts, inputs, clamp)


def _fir_node(x: Any, scale: Any, noise: Any, bias: Any, next_scale: Any = None, clamp: float | None = None) -> Any:
    inputs = {"x": x, "scale": scale, "noise": noise, "bias": bias, "next_scale": next_scale}
    parts = {"Noise": noise is not None, "Next": next_scale is not None}
    return _node("FirEpilogue", parts, inputs, clamp, channels=int(bias.shape[0]))


def _rgb_node(
    x: Any,
    styles: Any,
    weight: Any,
    bias: Any,
    skip: Any = None,
    clamp: float | None = None,
    as_bytes: bool = False,
) -> Any:
    inputs = {"x": x, "styles": styles, "weight": weight, "bias": bias, "skip": skip}
    return _node("ToRGB", {"Skip": skip is not None, "Bytes": as_bytes}, inputs, clamp)


def _node(family: str, parts: dict[str, bool], inputs: dict[str, Any], clamp: float | None, **own: int) -> Any:
    from onnxscript.values import Op, Opset

    parts = {**parts, "Clamp": clamp is not None}
    op_type = family + "".join(part for part in OPTIONAL_PARTS[family] if parts[part])
    attributes: dict[str, Any] = {**own, **PLUGIN, **({} if clamp is None else {"clamp": float(clamp)})}
    operator = Op(Opset(DOMAIN, VERSION), op_type, op_schema(op_type))
    return operator(
        *(inputs[name] for name in inputs_of(op_type)), **{name: attributes[name] for name in attributes_of(op_type)}
    )


def op_schema(op_type: str) -> onnx.defs.OpSchema:
    """The signature of an operator, which the exporter needs to make a node of it."""
    from onnx.defs import OpSchema

    kinds = {"channels": OpSchema.AttrType.INT, "aot": OpSchema.AttrType.INT, "clamp": OpSchema.AttrType.FLOAT}
    family, parts = parts_of(op_type)
    result = "T" if family != "ToRGB" else "tensor(uint8)" if "Bytes" in parts else "tensor(float)"
    return OpSchema(
        op_type,
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter(name, "T" if name == "x" else "tensor(float)") for name in inputs_of(op_type)],
        outputs=[OpSchema.FormalParameter("y", result)],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "stored features")],
        attributes=[
            OpSchema.Attribute(name, kinds.get(name, OpSchema.AttrType.STRING), required=True)
            for name in attributes_of(op_type)
        ],
    )
