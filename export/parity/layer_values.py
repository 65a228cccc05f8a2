"""The outputs of all layers of a generator, with the same names for the readable, the fused and the exported one.

In the order of computation: "mapping" (w before truncation), "styles.<layer>" for every layer, then the layers, and
"image". A StyleGAN2's "b8.torgb" is the image so far at that resolution, the sum of all blocks up to it; the last one
is "image". In an ONNX file nodes are named after their modules, so a module's output is that of its last node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...errors import InputError, UsageError
from ...generators import Generator, GeneratorConfig
from ...generators.ops import upsample_image
from ..fused.generator import FusedGenerator
from ..fused.stylegan2 import FusedConv
from ..fused.styles import styled_layers
from ..runners.runner import Array, Runner, feeds_of
from ..runners.sessions import onnx_session

if TYPE_CHECKING:
    import onnx

MAPPING, IMAGE = "mapping", "image"


@dataclass(frozen=True)
class LayerValue:
    """A layer's output, float32, batch first; ``styled`` if multiplied by the next convolution's directions."""

    values: npt.NDArray[np.float32]
    styled: bool = False


def layer_values(runner: Runner, z: Array, psi: Array, c: Array | None) -> dict[str, LayerValue]:
    """Return every value of one batch (z [B, z_dim], psi [B], c [B, c_dim] or None), in the order of computation.

    Raises UsageError for a runner that does not show its layers: a TensorRT engine, or one without a ``source``.
    """
    source = runner.source
    if isinstance(source, Path):
        return _onnx_values(source, runner, z, psi, c)
    if source is None:
        raise UsageError(f"{runner.name} ({runner.backend}) does not show its layers", "Compare its ONNX file instead.")
    device = next(source.buffers()).device
    inputs = {"z": z, "psi": psi, "c": c}
    tensors = {name: torch.from_numpy(rows).to(device) for name, rows in inputs.items() if rows is not None}
    record = _Record(source)
    with torch.inference_mode(), ExitStack() as stack:
        for module, keep in record.hooks():
            stack.callback(module.register_forward_hook(keep).remove)
        record.found[IMAGE] = source(**tensors)
    return {
        name: LayerValue(record.found[name].float().cpu().numpy(), name in record.styled)
        for name in value_names(source.config)
        if name in record.found
    }


def value_names(config: GeneratorConfig) -> list[str]:
    """Return the names of all values, in the order of computation."""
    styled = [layer for layer, _ in styled_layers(config)]
    return [MAPPING, *(f"styles.{layer}" for layer in styled), *styled[:-1], IMAGE]


# ---- torch ----


class _Record:
    """Forward hooks on the modules of a readable or fused network that keep their outputs."""

    def __init__(self, network: Generator | FusedGenerator) -> None:
        self.network, self.config = network, network.config
        self.found: dict[str, Tensor] = {}
        self.styled: set[str] = set()

    def hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        """Return each module with the hook that keeps its output."""
        return self._readable_hooks() if isinstance(self.network, Generator) else self._fused_hooks()

    def _keeper(self, name: str, part: Callable[[Any], Tensor] = lambda output: output) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.found[name] = part(output)
            if isinstance(module, FusedConv) and inputs[2:] not in ((), (None,)):  # the next layer's styles
                self.styled.add(name)

        return keep

    def _readable_hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        network = self.network
        yield network.get_submodule(f"mapping.fc{self.config.mapping_layers - 1}"), self._keeper(MAPPING)
        for layer, torgb in styled_layers(self.config):
            module = network.get_submodule(f"synthesis.{layer}")
            affine = module.get_submodule("affine")
            gain = affine.get_parameter("bias").numel() ** -0.5 if torgb else 1.0
            yield affine, self._keeper(f"styles.{layer}", partial(torch.mul, other=gain))
            yield module, self._keeper(layer, self._colours) if layer.endswith(".torgb") else self._keeper(layer)

    def _colours(self, output: Tensor) -> Tensor:
        """Add a block's toRGB output to the image so far, as the synthesis does."""
        before = [value for name, value in self.found.items() if name.endswith(".torgb") and "styles" not in name]
        return upsample_image(before[-1]) + output if before else output

    def _fused_hooks(self) -> Iterator[tuple[nn.Module, Any]]:
        network = self.network

        def keep_styles(module: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
            for (layer, _), styles in zip(styled_layers(self.config), output, strict=True):
                self.found[f"styles.{layer}"] = styles

        yield network.get_submodule("mapping"), self._keeper(MAPPING)
        yield network.get_submodule("styles"), keep_styles
        for layer, torgb in list(styled_layers(self.config))[:-1]:
            block = layer.removesuffix(".torgb")
            module = network.get_submodule(f"synthesis.{block}")
            yield module, self._keeper(layer, itemgetter(1)) if torgb else self._keeper(layer)


# ---- ONNX ----


def _onnx_values(path: Path, runner: Runner, z: Array, psi: Array, c: Array | None) -> dict[str, LayerValue]:
    import onnx

    model = onnx.load(path, load_external_data=False)
    config = _config(path, runner)
    places = _places(model, config)
    known = {value.name for value in model.graph.output}
    for name, (value, _) in places.items():
        if value not in known:  # half-precision features become float32
            model.graph.node.append(onnx.helper.make_node("Cast", [value], [f"look {name}"], to=onnx.TensorProto.FLOAT))
            output = onnx.helper.make_tensor_value_info(f"look {name}", onnx.TensorProto.FLOAT, None)
            model.graph.output.append(output)
    session = onnx_session(path, model.SerializeToString(), runner.backend, None)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, feeds_of(z, psi, c)), strict=True))
    values = {name: LayerValue(found[f"look {name}"], styled) for name, (value, styled) in places.items()}
    values[IMAGE] = LayerValue(found["image"])
    return values


def _config(path: Path, runner: Runner) -> GeneratorConfig:
    try:
        return GeneratorConfig.from_dict(json.loads(runner.facts["config"]))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} has no metadata about its network", "Make it with: dcp-deploy export") from error


def _places(model: onnx.ModelProto, config: GeneratorConfig) -> dict[str, tuple[str, bool]]:
    """Return for every value but the image its name in the graph, and whether it is styled."""
    made: dict[str, tuple[str, bool]] = {}  # by layer: the last node's output, and whether a node multiplies by a style
    layers = [layer for layer, _ in styled_layers(config)]
    places: dict[str, tuple[str, bool]] = {}
    for node in model.graph.node:
        module = node.name.rpartition("/")[0]
        if node.op_type == "Split" and node.input[0].startswith("styles") and len(node.output) == len(layers):
            places.update({f"styles.{layer}": (value, False) for layer, value in zip(layers, node.output, strict=True)})
        if module and node.output:
            owner = _owner(module, layers)
            # An up-sampling layer's result is multiplied by the styles of the one that follows.
            made[owner] = (node.output[0], owner.endswith(".conv0"))
    places.update(made)
    return {name: places[name] for name in value_names(config)[:-1] if name in places and places[name][0] != "image"}


def _owner(module: str, layers: list[str]) -> str:
    """Return the layer of a module: "L3" for "synthesis.L3.conv", and the torgb for a block's own nodes."""
    parts = module.removeprefix("synthesis.").split(".")
    names = [".".join(parts[:size]) for size in (1, 2)]
    for name in [*names, f"{parts[0]}.torgb"]:
        if name in layers or name == MAPPING:
            return name
    return module
