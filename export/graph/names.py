"""Readable names in a graph of torch's exporter, the same on every machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def module_names(model: onnx.ModelProto) -> list[str]:
    """Return each node's innermost module: b4.conv1, where the exporter recorded ['', 'b4', 'b4.conv1', 'conv2d']."""
    names = []
    for node in model.graph.node:
        scopes = [prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        names.append(re.findall(r"'([^']*)'", scopes[0])[-2] if scopes else "")
    return names


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata: stack traces with paths of this machine, the torch graph, its signature."""
    holders: list[Any] = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    for holder in [*holders, *model.graph.initializer]:
        del holder.metadata_props[:]
    del model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""


def rename(model: onnx.ModelProto, modules: Sequence[str]) -> None:
    """Name nodes after the module that made them (``synthesis.b64.conv0/Conv``) and values after their node.

    Weights already have the name of their module. A constant that the exporter made up is named after its reader, or
    numbered if it has several.
    """
    graph = model.graph
    kept = {value.name for value in [*graph.input, *graph.output]}
    # Buffers of our modules have a dot in their names ("synthesis.b4.conv1.bias"), made-up constants ("val_12") do not.
    made_up = {tensor.name for tensor in graph.initializer if "." not in tensor.name}
    readers = Counter(value for node in graph.node for value in node.input)
    taken: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node, module in zip(graph.node, modules, strict=True):
        name = f"{module}/{node.op_type}".lstrip("/")
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        for index, value in enumerate(node.input):
            if value in made_up and value not in renamed:
                taken["constant"] += readers[value] > 1
                renamed[value] = f"{node.name}.input{index}" if readers[value] == 1 else f"constant_{taken['constant']}"
        for index, value in enumerate(node.output):
            if value not in kept:
                renamed[value] = node.name if len(node.output) == 1 else f"{node.name}.{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        node.attribute.sort(key=lambda attribute: attribute.name)  # the exporter's order varies from run to run
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
