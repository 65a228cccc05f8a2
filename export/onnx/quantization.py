"""int8 in the graph: QuantizeLinear and DequantizeLinear around the convolutions that stay accurate enough.

Weights have one scale per output channel and are rounded so that the output changes least (:mod:`.rounding`). A
convolution's input and output have one scale each, from the largest magnitude over random latents
(:func:`~.precision.measure_ranges`). All scales are symmetric with zero points 0, as TensorRT requires. The sensitivity
of each layer is measured with that layer alone in int8. Then layers return to float32, one after another, until the
gate passes: first the layer that adds most to the mean square error per multiplication that int8 saves. At the end
each of them is tried in int8 once more.

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
from ...progress import Progress
from ..parity.gate import ParityReport, verify
from ..parity.tolerance import Tolerance
from ..runners.loading import load_runner
from ..runners.runner import Array, Runner, classes_of, latents_of
from .precision import CALIBRATION_PSIS, LayerRange, RangeTable
from .rounding import IntegerKernel, step_sizes

if TYPE_CHECKING:
    import onnx

SENSITIVITY_SEED = 2_000_000  # far from the seeds of the calibration and of a user's gate


@dataclass(frozen=True)
class Sensitivity:
    """PSNR of the worst image in dB, with only this layer in int8. A smaller value means a more sensitive layer."""

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
        return cls(sensitivity, tuple(values["left_out"]), values["psnr_db"])

    def __str__(self) -> str:
        lines = [f"{'layer':<14}{'alone in int8':>14}"]
        for row in self.sensitivity:
            kept = "  stays float32" if row.layer in self.left_out else ""
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

    Sensitivities and gate use ``latents`` seeds at every psi. The limits are a tenth (1 dB) tighter, since a user's
    gate compares more images and finds a worse one. ``progress`` counts layers. Raises
    ParityError if not a single layer can be int8.
    """
    layers = list(kernels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        exact = _remembering(_runner(model, path))
        pairs = [(seed + index, psi) for index in range(latents) for psi in psis]
        alone = {}
        for layer in layers:
            alone[layer] = _worst_psnr(exact, _runner(quantize(model, ranges, kernels, [layer]), path), pairs)
            if progress:
                progress(len(alone), len(layers))
        places = {row.layer: row.places for row in ranges.layers}
        cost = {layer: 10 ** (-alone[layer] / 10) / (kernels[layer].integers.size * places[layer]) for layer in layers}
        sensitivity = tuple(Sensitivity(layer, alone[layer]) for layer in sorted(layers, key=cost.__getitem__)[::-1])

        def compare(left_out: Collection[str]) -> ParityReport:
            chosen = [layer for layer in layers if layer not in left_out]
            trial = _runner(quantize(model, ranges, kernels, chosen), path)
            return verify(exact, trial, latents=latents, psis=psis, seed=seed, tolerance=_tighter(tolerance))

        found = leave_out([row.layer for row in sensitivity], compare)
    if found is None:
        best = max(sensitivity, key=lambda row: row.psnr_db)
        raise ParityError(
            f"no layer of this generator can be int8: {best.layer} alone gives {best.psnr_db:.1f} dB",
            "Export it in fp16, or state a wider tolerance.",
        )
    left_out, report = found
    return Int8Plan(sensitivity, left_out, report.psnr_db)


def leave_out(
    order: Sequence[str], compare: Callable[[Collection[str]], ParityReport]
) -> tuple[tuple[str, ...], ParityReport] | None:
    """Return the layers that stay float32, and the report of ``compare`` without them.

    They are taken from the front of ``order`` until the report passes. Then each one before the last is removed again
    if the report still passes. Returns None if it fails even with a single layer in int8.
    """
    for count in range(len(order)):
        left_out = tuple(order[:count])
        report = compare(left_out)
        if report.passed:
            break
    else:
        return None
    for layer in left_out[-2::-1]:  # backwards, because the last one saves most
        fewer = tuple(kept for kept in left_out if kept != layer)
        again = compare(fewer)
        if again.passed:
            left_out, report = fewer, again
    return left_out, report


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
        layer = _layer(node.name)
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
        parts.append(str(Int8Plan.from_dict(json.loads(facts["int8"]))))
    return "\n\n".join(parts)


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


def _layer(name: str) -> str:
    """Map "synthesis.b8.conv1/Conv" and "synthesis.L3.conv/Conv" to layers of :func:`~.precision.convolutions`."""
    return name.partition("/")[0].removeprefix("synthesis.").removesuffix(".conv")


# ---- trials ----


def _runner(model: onnx.ModelProto, path: Path) -> Runner:
    path.write_bytes(model.SerializeToString())
    return load_runner(path)


def _remembering(runner: Runner) -> Runner:
    """Return the runner with a cache of its images, because the gate compares many trials with one reference."""
    kept: dict[bytes, Array] = {}

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        key = z.tobytes() + psi.tobytes()  # classes follow from the seed
        if key not in kept:
            kept[key] = runner.draw(z, psi, c)
        return kept[key]

    return replace(runner, draw=draw)


def _worst_psnr(exact: Runner, rounded: Runner, pairs: Sequence[tuple[int, float]]) -> float:
    """Return the PSNR of the worst image in dB over the range of the images: [-1, 1], or 0 to 255."""
    peak, floor = (255.0, 0.0) if exact.image == "uint8" else (1.0, -1.0)
    worst = 1e-12
    for seed, psi in pairs:
        inputs = (latents_of([seed], exact.z_dim), psi, classes_of([seed], exact.c_dim))
        a, b = (np.clip(runner(*inputs).astype(np.float64), floor, peak) for runner in (exact, rounded))
        worst = max(worst, float(np.square(a - b).mean()))
    return 10 * math.log10((peak - floor) ** 2 / worst)


def _tighter(tolerance: Tolerance) -> Tolerance:
    """Return limits a tenth smaller for every difference, one decibel higher for PSNR."""
    less = {
        name: value * 0.9
        for name in ("max_abs", "p999_abs", "mean_abs", "differing")
        if (value := getattr(tolerance, name)) is not None
    }
    psnr, ssim = tolerance.psnr_db, tolerance.ssim
    return replace(
        tolerance,
        **less,
        psnr_db=None if psnr is None else psnr + 1.0,
        ssim=None if ssim is None else 1 - 0.9 * (1 - ssim),
    )
