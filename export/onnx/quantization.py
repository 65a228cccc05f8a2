"""int8 in the graph: QuantizeLinear and DequantizeLinear around the convolutions that stay accurate enough.

Weights have one scale per output channel and are rounded so that the output changes least (:mod:`.rounding`). A
convolution's input and output have one scale each, from the largest magnitude over random latents
(:func:`~.precision.measure_ranges`). All scales are symmetric with zero points 0, as TensorRT requires. The sensitivity
of each layer is measured with that layer alone in int8, at the largest psi, where errors are largest. Then layers
return to float32, one after another, until the gate passes (:mod:`.trials`): first the layer that adds most to the mean
square error per multiplication that int8 saves. At the end each of them is tried in int8 once more.

The scale is the largest magnitude and not a percentile. For the demo's teacher with all layers int8, onnxruntime's
calibrators gave for the worst of 32 images 32.8 dB by the maximum and by entropy (which chose the maximum), 29.8 dB by
the 99.99th percentile and 25.2 dB by the 99.9th, though the average image gains up to 2 dB: rare values of a feature
are details of an image.

Only ``Conv`` nodes can be int8. ONNX Runtime has no int8 transposed convolution, and TensorRT for RTX 1.7 keeps its
weights in float. So an up-sampling layer in int8 needs the polyphase method, which is not faster on a CPU: the demo's
teacher takes 13.1 ms in float32, 8.4 ms with conv1 of every block in int8 and conv0 transposed in float32, 8.9 ms with
everything in int8 and polyphase (onnxruntime 1.32, one thread of a Xeon with AMX, batch 1, medians of interleaved
calls).

Outputs are quantised too, which costs 1 to 2 dB: otherwise ONNX Runtime uses no integer convolutions and is slower than
in float32.

All other large weights are stored in int8 or float16 and computed in float32 (:mod:`..graph.stored`), which keeps the
file small and hardly changes an image. If it takes more than half of a limit of the gate, the layers with the largest
errors stay float32.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ParityError
from ...progress import Progress, shifted
from ..graph.stored import layer_of, layer_storage, step_sizes, storable, store
from ..parity.tolerance import Tolerance
from .precision import CALIBRATION_PSIS, LayerRange, RangeTable
from .rounding import IntegerKernel
from .trials import Trials, Verdict, leave_out

if TYPE_CHECKING:
    import onnx

SMALL_SHARE = 0.4  # of the bytes in float32; for a larger int8 file the report names what takes them
SENSITIVITY_SEED = 2_000_000  # far from the seeds of the calibration and of a user's gate
STORED_SEEDS = 4
"""Images that rank the layers to be stored small. Rounded weights change all images alike."""


@dataclass(frozen=True)
class Sensitivity:
    """PSNR of the worst image at the largest psi in dB, with only this layer in int8. A small one means sensitive."""

    layer: str
    psnr_db: float


@dataclass(frozen=True)
class Int8Plan:
    """Which layers are int8, and why the others are not. ``str()`` is a printable table.

    ``sensitivity`` lists every layer that could be int8, the one with most error for what it saves first.
    """

    sensitivity: tuple[Sensitivity, ...]
    left_out: tuple[str, ...]
    psnr_db: float | None
    """PSNR of the whole file against float32; None when the images are identical."""
    stored_float32: tuple[str, ...] = ()
    """Layers whose weights could be stored in int8 or float16, but then differ too much."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the layers in int8, in the order of ``sensitivity``."""
        return tuple(row.layer for row in self.sensitivity if row.layer not in self.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Int8Plan:
        """Read the result of :meth:`to_dict`."""
        sensitivity = tuple(Sensitivity(**row) for row in values["sensitivity"])
        stored = tuple(values.get("stored_float32", ()))  # absent in files of 0.1
        return cls(sensitivity, tuple(values["left_out"]), values["psnr_db"], stored)

    def __str__(self) -> str:
        lines = [f"{'layer':<14}{'alone in int8':>14}"]
        for row in self.sensitivity:
            kept = "  computed in float32" if row.layer in self.left_out else ""
            lines.append(f"{row.layer:<14}{row.psnr_db:>11.1f} dB{kept}")
        together = "identical" if self.psnr_db is None else f"{self.psnr_db:.1f} dB"
        return "\n".join([*lines, f"{len(self.layers)} layers in int8 together: {together}"])


def plan_int8(
    model: onnx.ModelProto,
    ranges: RangeTable,
    kernels: Mapping[str, IntegerKernel],
    tolerance: Tolerance,
    *,
    latents: int = 8,
    psis: Sequence[float] = CALIBRATION_PSIS,
    seed: int = SENSITIVITY_SEED,
    progress: Progress | None = None,
) -> Int8Plan:
    """Find the layers of ``kernels`` that can be int8 in ``model`` (float32; z and psi in) within ``tolerance``.

    The gate compares ``latents`` seeds at every psi; sensitivities are measured at the largest psi only. The limits are
    a tenth (1 dB) tighter, since a user's gate compares more images and finds a worse one. ``progress`` counts trials
    and skips those that turn out not to be needed. Raises ParityError if not a single layer can be int8.
    """
    layers, small = list(kernels), list(storable(model))
    total = len(small) + 3 * len(layers)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(model, Path(folder), latents, psis, seed)

        def stored_alone(layer: str) -> float:
            return trials.least_psnr(_stored(model, kernels, set(small) - {layer}), STORED_SEEDS)

        def compare_stored(kept: Collection[str]) -> Verdict:
            return trials.judge(_stored(model, kernels, kept), _tighter(tolerance, 0.5, 6.0))

        stored_float32 = _kept_whole(small, stored_alone, compare_stored, shifted(progress, 0, total))
        alone = {}
        for layer in layers:
            alone[layer] = trials.least_psnr(quantize(model, ranges, kernels, [layer]))
            if progress:
                progress(len(small) + len(alone), total)
        places = {row.layer: row.places for row in ranges.layers}
        cost = {layer: 10 ** (-alone[layer] / 10) / (kernels[layer].integers.size * places[layer]) for layer in layers}
        sensitivity = tuple(Sensitivity(layer, alone[layer]) for layer in sorted(layers, key=cost.__getitem__)[::-1])

        def compare(left_out: Collection[str]) -> Verdict:
            chosen = quantize(model, ranges, kernels, [layer for layer in layers if layer not in left_out])
            return trials.judge(_stored(chosen, kernels, stored_float32), _tighter(tolerance, 0.9, 1.0))

        order = [row.layer for row in sensitivity]
        found = leave_out(order, compare, progress=shifted(progress, len(small) + len(layers), total))
    if found is None:
        best = max(sensitivity, key=lambda row: row.psnr_db)
        raise ParityError(
            f"no layer of this generator can be int8: {best.layer} alone gives {best.psnr_db:.1f} dB",
            "Export it in fp16, or state a wider tolerance.",
        )
    left_out, verdict = found
    if progress:
        progress(total, total)
    return Int8Plan(sensitivity, left_out, verdict.psnr_db, stored_float32)


def int8_model(
    model: onnx.ModelProto, ranges: RangeTable, kernels: Mapping[str, IntegerKernel], plan: Int8Plan
) -> onnx.ModelProto:
    """Return a copy of ``model`` with the layers of ``plan`` in int8, and all other weights stored as it says."""
    return _stored(quantize(model, ranges, kernels, plan.layers), kernels, plan.stored_float32)


def _stored(model: onnx.ModelProto, kernels: Mapping[str, IntegerKernel], kept: Collection[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` with small weights in all layers except ``kept``."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and layer_of(node.name) in kernels]
    rounded = {node.input[1]: kernels[layer_of(node.name)].integers for node in convolutions}
    store(result, [layer for layer in storable(model) if layer not in kept], rounded)
    return result


def _kept_whole(
    layers: Sequence[str],
    alone: Callable[[str], float],
    compare: Callable[[Collection[str]], Verdict],
    progress: Progress | None,
) -> tuple[str, ...]:
    """Return the layers whose weights have to stay float32, the ones with the largest errors alone; mostly none.

    ``alone`` returns the PSNR with only this layer stored small. ``progress`` counts the layers that it measured.
    """
    if not layers or compare(()).passed:
        return ()
    found: dict[str, float] = {}
    for layer in layers:
        found[layer] = alone(layer)
        if progress:
            progress(len(found), len(layers))
    kept = leave_out(sorted(layers, key=found.__getitem__), compare, least=1)
    return tuple(layers) if kept is None else kept[0]


def quantize(
    model: onnx.ModelProto, ranges: RangeTable, kernels: Mapping[str, IntegerKernel], layers: Collection[str]
) -> onnx.ModelProto:
    """Return a copy of ``model`` with the convolutions of ``layers`` in int8. Equal arguments give equal bytes."""
    import onnx

    table = {row.layer: row for row in ranges.layers}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        layer = layer_of(node.name)
        if node.op_type != "Conv" or layer not in layers:
            nodes.append(node)
            continue
        weight = weights.pop(node.input[1])
        replacement, constants = _quantized(node, kernels[layer], table[layer])
        nodes += replacement
        graph.initializer.remove(weight)
        graph.initializer.extend(constants)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return result


def precision_report(path: str | os.PathLike[str]) -> str:
    """Return a printable report of what was measured and chosen for an exported file; "" for float32."""
    import onnx

    facts = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    parts = []
    if "ranges" in facts:
        parts.append(str(RangeTable.from_dict(json.loads(facts["ranges"]))))
    if "islands" in facts:
        kept = [f"{layer} stays float32: {reason}" for layer, reason in json.loads(facts["islands"]).items()]
        parts.append("\n".join(kept) or f"every convolution is stored in {facts['precision']}")
    if "int8" in facts:
        parts += [str(Int8Plan.from_dict(json.loads(facts["int8"]))), size_report(path)]
    return "\n\n".join(parts)


def size_report(path: str | os.PathLike[str]) -> str:
    """Return how large an int8 file is beside float32, and if that is much, which layers are stored in more bits."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    rows = layer_storage(model)
    whole = 4 * sum(math.prod(tensor.dims) for tensor in model.graph.initializer if not _added(tensor.name))
    size = sum(row.bytes for row in rows)
    share = size / whole
    words = f"weights take {size / 1e6:.2f} MB, {share:.2f} of the {whole / 1e6:.2f} MB in float32"
    if share <= SMALL_SHARE:
        return words
    wide = [(row.layer, kind, count) for row in rows for kind, count in row.types.items() if kind != "int8"]
    wide.sort(key=lambda row: -row[2])
    lines = [f"{layer:<14}{kind:>14}{count / 1e6:>10.3f} MB" for layer, kind, count in wide if count >= whole / 100]
    return "\n".join([f"{words}, because these are not int8:", *lines])


def _added(name: str) -> bool:
    """Return whether a constant exists only because others are in int8."""
    return name.endswith((".scale", ".zero_point"))


# ---- one convolution ----


def _quantized(
    node: onnx.NodeProto, kernel: IntegerKernel, row: LayerRange
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes and constants for the convolution ``node`` with its input, weight and output rounded to int8."""
    import onnx

    names = [f"{node.input[1]}.int8", f"{node.input[1]}.scale", f"{node.input[1]}.zero_point"]
    arrays = [kernel.integers, kernel.steps, np.zeros(len(kernel.steps), np.int8)]
    stored = [onnx.numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
    weight = _node("DequantizeLinear", names, f"{node.input[1]}/DequantizeLinear", axis=0)
    rounded, result = f"{node.name}.input/DequantizeLinear", f"{node.name}.output"
    before, before_constants = _through_int8(f"{node.name}.input", node.input[0], rounded, row.input)
    after, after_constants = _through_int8(result, result, node.output[0], row.output)
    conv = onnx.NodeProto()
    conv.CopyFrom(node)
    conv.input[:2] = [rounded, weight.output[0]]
    conv.output[0] = result
    return [*before, weight, conv, *after], [*stored, *before_constants, *after_constants]


def _through_int8(
    name: str, source: str, target: str, peak: float
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Round ``source`` to int8 and back into ``target``."""
    import onnx

    scale, zero = f"{name}.scale", f"{name}.zero_point"
    constants = [
        onnx.numpy_helper.from_array(step_sizes(np.array(peak)), scale),
        onnx.numpy_helper.from_array(np.zeros((), np.int8), zero),
    ]
    down = _node("QuantizeLinear", [source, scale, zero], f"{name}/QuantizeLinear")
    up = _node("DequantizeLinear", [down.output[0], scale, zero], f"{name}/DequantizeLinear")
    up.output[0] = target
    return [down, up], constants


def _node(kind: str, inputs: list[str], name: str, **attributes: Any) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node(kind, inputs, [name], name=name, **attributes)


def _tighter(tolerance: Tolerance, share: float, decibels: float) -> Tolerance:
    """Return limits of ``share`` of every difference, and of ``decibels`` more for PSNR."""
    less = {
        name: value * share
        for name in ("max_abs", "p999_abs", "mean_abs", "differing")
        if (value := getattr(tolerance, name)) is not None
    }
    psnr, ssim = tolerance.psnr_db, tolerance.ssim
    return replace(
        tolerance,
        **less,
        psnr_db=None if psnr is None else psnr + decibels,
        ssim=None if ssim is None else 1 - share * (1 - ssim),
    )
