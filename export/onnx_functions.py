"""The epilogues of the fused generator as ONNX operators of our own, each with its meaning in standard operators.

A node of domain "dcp_deploy" stands where torch calls ``torch.ops.dcp_deploy.*``, and a model-local function of that
name says what it computes. Who has the kernels (TensorRT with our plugins) takes the node as it is; everyone else (ONNX
Runtime, TensorRT for RTX) puts the function in its place. Every combination of optional inputs is an operator type of
its own, so that a node has the inputs it uses and a body has the passes it needs:

    ModConvEpilogue[Shuffle][Noise][Next][Clamp](x, scale, [noise], bias, [next_scale])
    FirEpilogue[Noise][Next][Clamp](x, scale, [noise], bias, [next_scale])
    ToRGB[Skip][Clamp][Bytes](x, styles, weight, bias, [skip])

x is float32, float16 or bfloat16, everything else float32, and so is the arithmetic (but for the FIR, which a body does
in the type of x). What each computes is said in :mod:`..kernels.reference`. TensorRT finds plugins by operator type and
by the attributes that every node carries for it.

The bodies are written for ONNX Runtime on a CPU, which runs an operator at a time: as few passes over the features as
possible. Measured there (version 1.32, one thread, x86 with AVX-512, median of interleaved runs): toRGB as a product of
styles x weight with the features takes half the time of scaling the features first (5 against 13 ms for 40 channels of
256 px), and a depthwise convolution is as fast a FIR as any (43 ms for 40 channels to 256 px, transposed convolution
included; two separable ones 46, three average poolings 61, sums of slices twice as long). Noise and bias as one
constant, and sums that a convolution could take over (lrelu(c s + b) = s lrelu(c + b / s)), gained nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..kernels import operators  # noqa: F401 - registers torch.ops.dcp_deploy
from ..kernels.reference import FIR, LEAKY_SLOPE

if TYPE_CHECKING:
    import onnx

OPSET = 18  # the exporter's own; TensorRT 10 and 11, TensorRT-RTX and ONNX Runtime from 1.14 read it

DOMAIN = "dcp_deploy"
VERSION = 1
PLUGIN: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}

_OPTIONAL = {
    "ModConvEpilogue": ("Shuffle", "Noise", "Next", "Clamp"),
    "FirEpilogue": ("Noise", "Next", "Clamp"),
    "ToRGB": ("Skip", "Clamp", "Bytes"),
}


def operator_types() -> list[str]:
    """Every operator type there is: 16 of ModConvEpilogue, 8 of FirEpilogue, 8 of ToRGB."""
    return [
        family + "".join(part for bit, part in enumerate(parts) if number >> bit & 1)
        for family, parts in _OPTIONAL.items()
        for number in range(2 ** len(parts))
    ]


def parts_of(op_type: str) -> tuple[str, frozenset[str]]:
    """("FirEpilogue", {"Noise", "Clamp"}) of "FirEpilogueNoiseClamp". ValueError for a type that is not ours."""
    if op_type not in operator_types():
        raise ValueError(f"{op_type} is no operator of {DOMAIN}")
    family = next(family for family in _OPTIONAL if op_type.startswith(family))
    return family, frozenset(part for part in _OPTIONAL[family] if part in op_type[len(family) :])


def inputs_of(op_type: str) -> list[str]:
    """The names of an operator's inputs, in order."""
    family, parts = parts_of(op_type)
    if family == "ToRGB":
        return ["x", "styles", "weight", "bias", *(["skip"] if "Skip" in parts else [])]
    noise, following = (["noise"] if "Noise" in parts else []), (["next_scale"] if "Next" in parts else [])
    return ["x", "scale", *noise, "bias", *following]


def attributes_of(op_type: str) -> list[str]:
    """The names of an operator's attributes: its own, then those that TensorRT reads.

    ``channels`` of FirEpilogue is what the depthwise convolution of its body needs to be told; the kernel sees it.
    """
    family, parts = parts_of(op_type)
    own = (["clamp"] if "Clamp" in parts else []) + (["channels"] if family == "FirEpilogue" else [])
    return [*own, *PLUGIN]


Colours = Literal["product", "convolution"]

_COLOURS: dict[Colours, list[str]] = {  # image_0 [B, 3, H, W] of x, styles and weight
    "product": [
        "outer = Constant <value_ints: ints = [1]> ()",
        "wide = Cast <to: int = 1> (x)",
        "flat = Constant <value_ints: ints = [0, 0, -1]> ()",
        "pixels = Reshape (wide, flat)",
        "rows = Unsqueeze (styles, outer)",
        "colours = Mul (rows, weight)",
        "image_flat = MatMul (colours, pixels)",
        "same = Constant <value_ints: ints = [0, 0]> ()",
        "size = Shape <start: int = 2, end: int = 4> (x)",
        "full = Concat <axis: int = 0> (same, size)",
        "image_0 = Reshape (image_flat, full)",
    ],
    "convolution": [
        "outer = Constant <value_ints: ints = [2, 3]> ()",
        "wide = Cast <to: int = 1> (x)",
        "factor = Unsqueeze (styles, outer)",
        "scaled = Mul (wide, factor)",
        "kernel = Unsqueeze (weight, outer)",
        "image_0 = Conv (scaled, kernel)",
    ],
}

# ---- nodes: what the exporter puts in place of a torch operator ----


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
    op_type = family + "".join(part for part in _OPTIONAL[family] if parts[part])
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


# ---- functions: what a node means ----


def add_functions(model: onnx.ModelProto, colours: Colours = "product") -> None:
    """Append the function of every operator of ours that ``model`` uses, and import our domain.

    ``colours``: how ToRGB is written, see :func:`function`.
    """
    used = sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN})
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    model.functions.extend(function(op_type, opset, colours) for op_type in used)
    if used and not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=VERSION)


def function(op_type: str, opset: int, colours: Colours = "product") -> onnx.FunctionProto:
    """The body of an operator in standard operators of version ``opset``.

    ToRGB is a "product" of (styles x weight) with the features, or a "convolution" of the features times the styles.
    """
    import onnx

    family, parts = parts_of(op_type)
    lines = _rgb_body(parts, colours) if family == "ToRGB" else _epilogue_body(family, parts)
    attributes, inputs = ", ".join(attributes_of(op_type)), ", ".join(inputs_of(op_type))
    # TensorRT's parser makes bytes of the graph's outputs only, which it knows by their name, in a function too.
    result = "image" if "Bytes" in parts else "y"
    head = f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n{op_type} <{attributes}> ({inputs}) => ({result})'
    return onnx.parser.parse_function(head + " {\n" + "\n".join(lines) + "\n}")


def _epilogue_body(family: str, parts: frozenset[str]) -> list[str]:
    """lrelu(x scale + noise + bias), clamped, times the next style; before it the FIR or depth to space, as stored."""
    lines = ["outer = Constant <value_ints: ints = [2, 3]> ()", "inner = Constant <value_ints: ints = [1, 2]> ()"]
    x, factor = "x", "scale"
    if family == "FirEpilogue":
        # The taps sum to 1 and the scale has the gain of 4: in half precision the result is no larger than the input.
        lines += [
            f"tap = Constant <value = {_taps(1, gain=1.0)}> ()",
            "count = Shape (bias)",
            "ones = Constant <value_ints: ints = [1, 1, 1]> ()",
            "copies = Concat <axis: int = 0> (count, ones)",
            "taps_float = Expand (tap, copies)",
            "taps = CastLike (taps_float, x)",
            "filtered = Conv <group: int = @channels, pads: ints = [1, 1, 1, 1]> (x, taps)",
            "four = Constant <value = float {4.0}> ()",
            "scale_four = Mul (scale, four)",
        ]
        x, factor = "filtered", "scale_four"
    lines += [f"wide = Cast <to: int = 1> ({x})"]
    wide = "wide"
    if "Shuffle" in parts:  # after the cast, for ONNX Runtime moves no bfloat16
        lines += ['shuffled = DepthToSpace <blocksize: int = 2, mode: string = "CRD"> (wide)']
        wide = "shuffled"
    lines += [
        f"factor = Unsqueeze ({factor}, outer)",
        f"scaled = Mul ({wide}, factor)",
        *(["noisy = Add (scaled, noise)"] if "Noise" in parts else []),
        "offset = Unsqueeze (bias, inner)",
        f"biased = Add ({'noisy' if 'Noise' in parts else 'scaled'}, offset)",
        f"result_0 = LeakyRelu <alpha: float = {LEAKY_SLOPE}> (biased)",
    ]
    if "Clamp" in parts:
        lines += [*_clip("result_0", "result_1")]
    if "Next" in parts:
        before = "result_1" if "Clamp" in parts else "result_0"
        lines += ["following = Unsqueeze (next_scale, outer)", f"result_2 = Mul ({before}, following)"]
    last = "result_2" if "Next" in parts else "result_1" if "Clamp" in parts else "result_0"
    return [*lines, f"y = CastLike ({last}, x)"]


def _rgb_body(parts: frozenset[str], colours: Colours) -> list[str]:
    """(styles weight) x + bias, clamped, plus the skip image at twice its size; as bytes, channels last."""
    lines = [
        *_COLOURS[colours],
        "inner = Constant <value_ints: ints = [1, 2]> ()",
        "offset = Unsqueeze (bias, inner)",
        "image_1 = Add (image_0, offset)",
    ]
    image = "image_1"
    if "Clamp" in parts:
        lines += _clip(image, "image_2")
        image = "image_2"
    if "Skip" in parts:
        lines += [
            f"taps = Constant <value = {_taps(3, gain=4.0)}> ()",
            "larger = ConvTranspose <group: int = 3, strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]> (skip, taps)",
            f"image_3 = Add ({image}, larger)",
        ]
        image = "image_3"
    if "Bytes" not in parts:
        return [*lines, f"y = Identity ({image})"]
    return [
        *lines,
        "steps = Constant <value = float {127.5}> ()",
        "middle = Constant <value = float {128.0}> ()",
        "black = Constant <value = float {0.0}> ()",
        "white = Constant <value = float {255.0}> ()",
        f"stretched = Mul ({image}, steps)",
        "shifted = Add (stretched, middle)",
        "shown = Clip (shifted, black, white)",
        "last = Transpose <perm: ints = [0, 2, 3, 1]> (shown)",
        "image = Cast <to: int = 2> (last)",
    ]


def _clip(before: str, after: str) -> list[str]:
    return [
        "most = Constant <value_float: float = @clamp> ()",
        "least = Neg (most)",
        f"{after} = Clip ({before}, least, most)",
    ]


def _taps(channels: int, gain: float) -> str:
    """The FIR as a tensor literal float[channels, 1, 4, 4]."""
    total = math.fsum(FIR) ** 2
    taps: Sequence[float] = [gain * a * b / total for a in FIR for b in FIR] * channels
    return f"float[{channels}, 1, 4, 4] {{{', '.join(map(repr, taps))}}}"
