"""How the ONNX exporter translates our torch operators: each call becomes one node of domain "dcp_deploy"."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...kernels import operators, reference  # noqa: F401 - operators registers torch.ops.dcp_deploy
from .operators import DOMAIN, OPTIONAL_PARTS, PLUGIN, VERSION, attributes_of, inputs_of, parts_of

if TYPE_CHECKING:
    import onnx

MEANINGS: dict[str, Callable[..., Any]] = {
    "ModConvEpilogue": reference.modconv_epilogue,
    "FirEpilogue": reference.fir_epilogue,
    "ToRGB": reference.to_rgb,
}
PART_ARGUMENTS = {
    "Shuffle": "depth_to_space", "Noise": "noise", "Next": "next_scale", "Clamp": "clamp", "Skip": "skip",
    "Bytes": "as_bytes",
}  # fmt: skip
"""The argument of the torch operator that each optional part of an ONNX operator's name stands for."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export``."""
    return {
        getattr(torch.ops.dcp_deploy, meaning.__name__).default: _translation(family, inspect.signature(meaning))
        for family, meaning in MEANINGS.items()
    }


def _translation(family: str, signature: inspect.Signature) -> Callable[..., Any]:
    def node(*positional: Any, **named: Any) -> Any:
        from onnxscript.values import Op, Opset

        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        values = bound.arguments
        off = (None, False)  # compared by identity: a clamp of 0.0 is a clamp
        given = {name for name, value in values.items() if not any(value is absent for absent in off)}
        op_type = family + "".join(part for part in OPTIONAL_PARTS[family] if PART_ARGUMENTS[part] in given)
        attributes = {"channels": int(values["bias"].shape[0]), **values, **PLUGIN}
        operator = Op(Opset(DOMAIN, VERSION), op_type, op_schema(op_type))
        return operator(
            *(values[name] for name in inputs_of(op_type)),
            **{name: attributes[name] for name in attributes_of(op_type)},
        )

    node.__signature__ = signature  # type: ignore[attr-defined]  # the exporter reads it
    return node


def op_schema(op_type: str) -> onnx.defs.OpSchema:
    """Return the signature of an operator, which the exporter needs to make a node of it."""
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
