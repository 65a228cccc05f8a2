"""The ONNX files for editing: z to the latents ``ws``, ``ws`` moved along directions to an image, and both in one.

    z, psi (and c) -> mapping -> ws,   ws + strengths · directions -> synthesis -> image

A service may keep ``ws`` between the two, to generate it again with other strengths, or get it from a photograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...checkpoints.directions import Direction
from ...generators import Generator
from ..graph.file import write_model
from .exporter import describe, graph_of

STRENGTHS = "strengths"


def export_mapping(generator: Generator, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the readable generator's mapping with its truncation as ONNX: z, psi (and c) to ``ws``, all float32.

    z is [batch, z_dim], psi [batch], c of a class-conditional generator [batch, c_dim], ws [batch, num_ws, w_dim].
    ``metadata`` is added to the file's own.
    """
    import onnx

    config = generator.config
    samples = {"z": torch.randn(2, config.z_dim), "psi": torch.full((2,), 0.7)}
    if config.c_dim:
        samples["c"] = torch.eye(config.c_dim)[torch.arange(2) % config.c_dim]
    model = graph_of(_Codes(generator).eval(), samples, "ws")
    facts = {**describe(generator), "inputs": "z", "output": "ws", **(metadata or {})}
    onnx.helper.set_model_props(model, dict(sorted(facts.items())))
    write_model(model, path)
    return path


class _Codes(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.mapping = generator.mapping

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.mapping(z, c, psi=psi))


def offsets_of(directions: Mapping[str, Direction], num_ws: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return how far strength 1 of each direction moves each slot: float32 [K, num_ws, w_dim], sigma x vector."""
    width = next(iter(directions.values())).vector.shape[-1]
    still = torch.zeros(1, num_ws, width)
    return torch.cat([one.move(still, 1.0) for one in directions.values()]).numpy()


def export_editor(synthesis: Path, directions: Mapping[str, Direction], path: Path) -> Path:
    """Add a second input, ``strengths`` [batch, K], to the file ``synthesis`` (``ws`` to ``image``) and write ``path``.

    The strengths are standard deviations by which ws moves along each direction, in their order; 0 moves nothing.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(synthesis)
    graph = model.graph
    (ws,) = graph.input
    batch, num_ws, w_dim = ws.type.tensor_type.shape.dim
    offsets = offsets_of(directions, num_ws.dim_value).reshape(len(directions), -1)
    for node in graph.node:
        node.input[:] = ["edit.ws" if name == ws.name else name for name in node.input]
    graph.input.append(helper.make_tensor_value_info(STRENGTHS, TensorProto.FLOAT, [batch.dim_param, len(directions)]))
    graph.initializer.append(numpy_helper.from_array(offsets, "edit.offsets"))
    shape = np.array([-1, num_ws.dim_value, w_dim.dim_value], np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, "edit.shape"))
    steps = [
        helper.make_node("MatMul", [STRENGTHS, "edit.offsets"], ["edit.flat"], "edit/MatMul"),
        helper.make_node("Reshape", ["edit.flat", "edit.shape"], ["edit.moves"], "edit/Reshape"),
        helper.make_node("Add", [ws.name, "edit.moves"], ["edit.ws"], "edit/Add"),
    ]
    for place, node in enumerate(steps):
        graph.node.insert(place, node)
    props = {prop.key: prop.value for prop in model.metadata_props}
    helper.set_model_props(model, {**props, "directions": ", ".join(directions)})
    write_model(model, path)
    return path


def join_editor(mapping: Path, editor: Path, path: Path) -> Path:
    """Write both files as one: z, psi (and c) and ``strengths`` to ``image``. Neither may have functions."""
    import onnx
    from onnx import compose, helper

    first, second = onnx.load(mapping), onnx.load(editor)
    facts = {entry.key: entry.value for entry in second.metadata_props} | {"inputs": "z"}
    for model in (first, second):
        del model.metadata_props[:]
    first = compose.add_prefix(first, "mapping/", rename_inputs=False, rename_outputs=False)
    joined = compose.merge_models(first, second, io_map=[("ws", "ws")])
    joined.producer_name, joined.producer_version = second.producer_name, second.producer_version
    helper.set_model_props(joined, facts)
    write_model(joined, path)
    return path
