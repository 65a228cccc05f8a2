"""From a Generator to an ONNX file that runs everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import import_on_use

__all__ = ["export_onnx", "precision_report", "weights_sha256"]

if TYPE_CHECKING:
    from .exporter import export_onnx, weights_sha256
    from .quantization import precision_report
else:
    __getattr__, __dir__ = import_on_use(
        __name__, {"exporter": ("export_onnx", "weights_sha256"), "quantization": ("precision_report",)}
    )
