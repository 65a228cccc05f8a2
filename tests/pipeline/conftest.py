"""Helpers that several tests of the pipeline share."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from dcp_deploy.progress import Reporter


class Listener(Reporter):
    """Keeps every message."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)


def grey_mask(path: Path) -> Path:
    """Write a segmentation model of three classes, whose scores are the image's own channels."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ("B", 3, "H", "W"))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ("B", 3, "H", "W"))
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["out"])], "mask", [image], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
