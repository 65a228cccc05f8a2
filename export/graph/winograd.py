"""An exported StyleGAN2 with our CPU operators in place of its convolutions, for ONNX Runtime and OpenVINO.

    scaling, Conv or ConvTranspose, *Epilogue  ->  dcp_deploy.cpu.ModulatedConv(x, style, weight, scale, bias, [noise])
    ToRGB*                                     ->  dcp_deploy.cpu.ToRGB, ToRGBBytes(x, styles, weight, bias, [skip])

The network computes the same function. A 3x3 convolution uses Winograd's filters: a quarter of the multiplications, or
9 of 16 in an up-sampling layer. Features are channels last from the constant input on, and memory is read and written
only between layers. The runtime still computes styles, demodulation and the mapping network. See ``kernels/cpu``.

The graph is changed in memory when a session opens, because the operators are compiled for this machine and do not
exist on another. :func:`write_winograd` writes it for ONNX Runtime in other languages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...files import atomic_path, write_bytes
from ...kernels.constants import FIR
from ...kernels.cpu.library import Floats, cpu_operators
from .file import read_whole_onnx
from .operators import DOMAIN, inputs_of, parts_of

if TYPE_CHECKING:
    import onnx

CPU_DOMAIN = "dcp_deploy.cpu"
CPU_VERSION = 1


@dataclass(frozen=True)
class WinogradFiles:
    """The two files that ONNX Runtime needs to run a generator with our operators."""

    model: Path
    library: Path


def write_winograd(path: str | os.PathLike[str], folder: str | os.PathLike[str], *, threads: int = 0) -> WinogradFiles:
    """Write an exported graph with our operators and their library, for ONNX Runtime without dcp-deploy.

    ``folder`` gets NAME.winograd.onnx and dcp_deploy_cpu.so. A session loads the latter by ``RegisterCustomOpsLibrary``
    (``register_custom_ops_library`` in Python). Both run on this processor and on any with the same instructions.
    ``threads`` is the number of threads of a call, 0 for all cores; ONNX Runtime's own setting does not apply.

    Raises CorruptFileError for a file that is not ONNX, UsageError like :func:`with_cpu_operators`,
    MissingCapabilityError without a C++ compiler.
    """
    source, folder = Path(path), Path(folder)
    operators = cpu_operators()
    model = with_cpu_operators(read_whole_onnx(source), lanes=operators.lanes, threads=threads)
    files = WinogradFiles(folder / f"{source.stem}.winograd.onnx", folder / "dcp_deploy_cpu.so")
    write_bytes(files.model, model.SerializeToString(deterministic=True))
    with atomic_path(files.library) as temporary:
        shutil.copyfile(operators.library, temporary)
    return files


def with_cpu_operators(model: onnx.ModelProto, *, lanes: int, threads: int = 0) -> onnx.ModelProto:
    """Put our operators into ``model`` in place and return it.

    ``lanes`` is the number of floats in a vector (:class:`~...kernels.cpu.library.CPUOperators`). Raises UsageError for
    a network without such layers (a StyleGAN3), or if its convolutions are not stored in float32.
    """
    import onnx

    makers = {value: node for node in model.graph.node for value in node.output}
    graph = _Graph(makers, {tensor.name: tensor for tensor in model.graph.initializer}, {})
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
        elif node.op_type.startswith("ToRGB"):
            op_type = "ToRGBBytes" if "Bytes" in parts_of(node.op_type)[1] else "ToRGB"
            nodes.append(_node(op_type, node, list(node.input), threads))
        else:
            nodes.append(_modulated_conv(graph, node, lanes, threads))
    if not graph.made:
        raise UsageError(
            "the file has none of StyleGAN2's layers: it is a StyleGAN3, or was exported with --inline",
            "Use backend onnxruntime or openvino, or export a StyleGAN2 without --inline.",
        )
    del model.graph.node[:], model.graph.value_info[:], model.functions[:]
    model.graph.node.extend(_needed(nodes, {value.name for value in model.graph.output}))
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    held |= {name: onnx.numpy_helper.from_array(value, name) for name, value in graph.made.items()}
    read = {name for node in model.graph.node for name in node.input}
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensor for name, tensor in held.items() if name in read)
    model.opset_import.add(domain=CPU_DOMAIN, version=CPU_VERSION)
    return model


@dataclass(frozen=True)
class _Graph:
    """The node that makes each value, the constants, and new constants for our operators, by name."""

    makers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]
    made: dict[str, Floats]


def _modulated_conv(graph: _Graph, epilogue: onnx.NodeProto, lanes: int, threads: int) -> onnx.NodeProto:
    """Return one node for an epilogue and everything before it, back to the features of the layer before."""
    family, parts = parts_of(epilogue.op_type)
    values = dict(zip(inputs_of(epilogue.op_type), epilogue.input, strict=True))
    convolution = graph.makers[values["x"]]
    weight = _weight(graph, convolution, family, parts)
    x, style = _features(graph, convolution.input[0], lanes)
    noise = [_noise(graph, values["noise"])] if "Noise" in parts else []
    inputs = [x, style, weight, values["scale"], values["bias"], *noise]
    return _node("ModulatedConv", epilogue, inputs, threads, up=int(family == "FirEpilogue" or "Shuffle" in parts))


def _weight(graph: _Graph, convolution: onnx.NodeProto, family: str, parts: frozenset[str]) -> str:
    """Make the filters [outputs, inputs, 3, 3] of a convolution and return their name."""
    import onnx

    # In bf16 files a cast comes between a convolution and its epilogue, in int8 files the constants are integers.
    held = graph.constants.get(convolution.input[1]) if convolution.op_type in ("Conv", "ConvTranspose") else None
    if held is None or held.data_type != onnx.TensorProto.FLOAT:
        raise UsageError(
            f"{convolution.name} is not stored in float32, which Winograd's products need", "Export --precision fp32."
        )
    weight = onnx.numpy_helper.to_array(held)
    if family == "FirEpilogue":  # of a transposed convolution
        weight = weight.transpose(1, 0, 2, 3)
    elif "Shuffle" in parts:
        weight = _unfolded(weight)
    made = f"{convolution.name}.filters"  # a new name, because the constant may have other readers
    graph.made[made] = np.ascontiguousarray(weight, np.float32)
    return made


def _unfolded(weight: Floats) -> NDArray[np.float64]:
    """Recover the filters [Co, Ci, 3, 3] that :func:`~..fused.stylegan2.polyphase_weight` folded the FIR into.

    Together the phases are the filter convolved with the FIR: three taps become six along each axis. Least squares
    recover the filter to the last bits of float32.
    """
    outputs, inputs = len(weight) // 4, weight.shape[1]
    phases = weight.reshape(outputs, 2, 2, inputs, 3, 3).astype(np.float64)
    # Tap a of phase p is number 4 + p - 2 a of the six.
    full = phases[..., ::-1, ::-1].transpose(0, 3, 4, 1, 5, 2).reshape(outputs, inputs, 6, 6)
    taps = np.asarray(FIR) / sum(FIR) * 2.0
    fold = np.stack([np.convolve(row, taps) for row in np.eye(3)], axis=1)  # [6, 3]
    back = np.linalg.pinv(fold)
    filters: NDArray[np.float64] = np.einsum("ai,ocij,bj->ocab", back, full, back)
    return filters


def _features(graph: _Graph, value: str, lanes: int) -> tuple[str, str]:
    """Return what a convolution reads as two values: the features of the layer before, and the style that scales them.

    Either the epilogue before has multiplied by that style, or a Mul before the convolution does.
    """
    maker = graph.makers[value]
    if maker.domain == DOMAIN:
        return value, dict(zip(inputs_of(maker.op_type), maker.input, strict=True))["next_scale"]
    features, factor = maker.input  # Mul
    style = graph.makers[factor].input[0]  # Unsqueeze
    source = graph.makers.get(features)
    if source is None or source.domain != DOMAIN:
        features = _constant_input(graph, features if source is None else source.input[0], lanes)
    return features, style


def _constant_input(graph: _Graph, name: str, lanes: int) -> str:
    """Make the constant [1, C, 4, 4] with channels last and rounded up to whole vectors, and return its name."""
    import onnx

    features = onnx.numpy_helper.to_array(graph.constants[name]).transpose(0, 2, 3, 1)
    added = -features.shape[-1] % lanes
    made = f"{name}.channels_last"
    graph.made[made] = np.ascontiguousarray(np.pad(features, [(0, 0)] * 3 + [(0, added)]))
    return made


def _noise(graph: _Graph, name: str) -> str:
    """Return the name of the noise: a constant map becomes [1, 1, H, W], an input is [B, 1, H, W] already."""
    import onnx

    if name not in graph.constants:
        return name
    made = f"{name}.map"
    noise = onnx.numpy_helper.to_array(graph.constants[name])
    graph.made[made] = noise.reshape(1, 1, *noise.shape[-2:])
    return made


def _node(op_type: str, of: onnx.NodeProto, inputs: list[str], threads: int, **own: Any) -> onnx.NodeProto:
    """Make one of our operators with the name, outputs and clamp of the node ``of``."""
    import onnx

    clamp = next((float(attribute.f) for attribute in of.attribute if attribute.name == "clamp"), 0.0)
    return onnx.helper.make_node(
        op_type, inputs, list(of.output), name=of.name, domain=CPU_DOMAIN, clamp=clamp, threads=threads, **own
    )


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs depend on, in their order."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]
