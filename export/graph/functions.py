"""Function bodies of our ONNX operators: each operator written in standard ONNX operators.

A node of domain "dcp_deploy" takes the place of each call of ``torch.ops.dcp_deploy.*``, and a model-local function of
the same name defines it. A runtime that has the kernels (TensorRT with our plugins) runs the node itself; all others
(ONNX Runtime, TensorRT for RTX) run the function instead. :mod:`.operators` lists the types, :mod:`.nodes` makes nodes.

x is float32, float16 or bfloat16, everything else float32. Arithmetic is float32 too, except for the FIR, which a body
computes in the type of x, or in float32 if that is bfloat16, for which ONNX Runtime has no convolutions.
:mod:`...kernels.reference` defines what each operator computes. TensorRT finds plugins by operator type and by
attributes that every node has for it.

The bodies are written for ONNX Runtime on a CPU, which runs one operator at a time: as few passes over the features as
possible. Measured there (version 1.32, one thread, x86 with AVX-512, median of interleaved runs): toRGB as a product of
styles x weight with the features takes half the time of scaling the features first (5 against 13 ms for 40 channels of
256 px). A depthwise convolution is the fastest FIR (43 ms for 40 channels to 256 px, transposed convolution included;
two separable ones 46, three average poolings 61, sums of slices twice as long). Two variants gained nothing: noise and
bias as one constant, and moving sums into a convolution (lrelu(c s + b) = s lrelu(c + b / s)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ...kernels.constants import FIR, LEAKY_SLOPE
from .operators import DOMAIN, VERSION, attributes_of, inputs_of, parts_of

if TYPE_CHECKING:
    import onnx

Colours = Literal["product", "convolution"]

_KERNEL = f"kernel_shape: ints = [{len(FIR)}, {len(FIR)}]"  # optional in ONNX, but converters such as onnx2tf need it

_COLOURS: dict[Colours, list[str]] = {  # computes image_0 [B, 3, H, W] from x, styles and weight
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
        "image_0 = Conv <kernel_shape: ints = [1, 1]> (scaled, kernel)",
    ],
}


def add_functions(model: onnx.ModelProto, colours: Colours = "product") -> None:
    """Add to ``model`` the function of every operator of ours that it uses; ``colours`` as in :func:`function`."""
    import onnx

    used = sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN})
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    wide = any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in model.graph.initializer)
    model.functions.extend(function(op_type, opset, colours, wide_fir=wide) for op_type in used)
    if used and not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=VERSION)


def function(op_type: str, opset: int, colours: Colours = "product", *, wide_fir: bool = False) -> onnx.FunctionProto:
    """Return an operator's body in standard operators of version ``opset``.

    ToRGB is a "product" of (styles x weight) with the features, or a "convolution" of the features times the styles.
    ``wide_fir``: the FIR is computed in float32, whatever the type of x.
    """
    import onnx

    family, parts = parts_of(op_type)
    lines = _rgb_body(parts, colours) if family == "ToRGB" else _epilogue_body(family, parts, wide_fir)
    attributes, inputs = ", ".join(attributes_of(op_type)), ", ".join(inputs_of(op_type))
    # TensorRT's parser casts to bytes only for outputs of the graph, which it finds by name, also inside a function.
    result = "image" if "Bytes" in parts else "y"
    head = f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n{op_type} <{attributes}> ({inputs}) => ({result})'
    return onnx.parser.parse_function(head + " {\n" + "\n".join(lines) + "\n}")


def _epilogue_body(family: str, parts: frozenset[str], wide_fir: bool) -> list[str]:
    """Return lines for the FIR or depth to space, then lrelu(x scale + noise + bias), the clamp and the next style."""
    lines = ["outer = Constant <value_ints: ints = [2, 3]> ()", "inner = Constant <value_ints: ints = [1, 2]> ()"]
    last, factor = "x", "scale"
    if family == "FirEpilogue":
        # The taps sum to 1 and the scale contains the gain of 4, so half precision cannot overflow in the FIR.
        source = "stored" if wide_fir else "x"
        lines += ["stored = Cast <to: int = 1> (x)"] if wide_fir else []
        lines += [
            f"tap = Constant <value = {_taps(1, gain=1.0)}> ()",
            "count = Shape (bias)",
            "ones = Constant <value_ints: ints = [1, 1, 1]> ()",
            "copies = Concat <axis: int = 0> (count, ones)",
            "taps_float = Expand (tap, copies)",
            f"taps = CastLike (taps_float, {source})",
            f"filtered = Conv <group: int = @channels, {_KERNEL}, pads: ints = [1, 1, 1, 1]> ({source}, taps)",
            "four = Constant <value = float {4.0}> ()",
            "scale_four = Mul (scale, four)",
        ]
        last, factor = "filtered", "scale_four"
    lines += [f"wide = Cast <to: int = 1> ({last})"]
    last = "wide"
    if "Shuffle" in parts:  # after the cast, because ONNX Runtime has no DepthToSpace for bfloat16
        lines += ['shuffled = DepthToSpace <blocksize: int = 2, mode: string = "CRD"> (wide)']
        last = "shuffled"
    lines += [f"factor = Unsqueeze ({factor}, outer)", f"scaled = Mul ({last}, factor)"]
    last = "scaled"
    if "Noise" in parts:
        lines += ["noisy = Add (scaled, noise)"]
        last = "noisy"
    lines += ["offset = Unsqueeze (bias, inner)", f"biased = Add ({last}, offset)"]
    lines += [f"result_0 = LeakyRelu <alpha: float = {LEAKY_SLOPE}> (biased)"]
    last = "result_0"
    if "Clamp" in parts:
        lines += _clip(last, "result_1")
        last = "result_1"
    if "Next" in parts:
        lines += ["following = Unsqueeze (next_scale, outer)", f"result_2 = Mul ({last}, following)"]
        last = "result_2"
    return [*lines, f"y = CastLike ({last}, x)"]


def _rgb_body(parts: frozenset[str], colours: Colours) -> list[str]:
    """Return lines for (styles weight) x + bias, the clamp, the up-sampled skip image, and the conversion to bytes."""
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
            f"larger = ConvTranspose <group: int = 3, {_KERNEL}, pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]>"
            " (skip, taps)",
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
    """Return the FIR as a tensor literal float[channels, 1, 4, 4]."""
    total = math.fsum(FIR) ** 2
    taps: Sequence[float] = [gain * a * b / total for a in FIR for b in FIR] * channels
    return f"float[{channels}, 1, 4, 4] {{{', '.join(map(repr, taps))}}}"
