"""From a Generator to what a service runs: fused form, ONNX, engines, runners, and the gate between them.

The names are imported on first use, so that a service can run what was exported without having torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Bisection",
    "Engine",
    "EngineOptions",
    "FormRunner",
    "FusedGenerator",
    "FusedSynthesis",
    "ParityReport",
    "Runner",
    "Tolerance",
    "build_engine",
    "check_engine",
    "classes_of",
    "export_onnx",
    "latents_of",
    "load_form",
    "load_pair",
    "load_runner",
    "precision_report",
    "read_manifest",
    "tolerance_for",
    "verify",
]

if TYPE_CHECKING:
    from .bisect import Bisection
    from .forms import FormRunner, load_form
    from .fused import FusedGenerator, FusedSynthesis
    from .manifest import Engine, check_engine, read_manifest
    from .onnx import export_onnx
    from .pairs import load_pair
    from .parity import ParityReport, verify
    from .quantization import precision_report
    from .runners import Runner, classes_of, latents_of, load_runner
    from .tensorrt import EngineOptions, build_engine
    from .tolerance import Tolerance, tolerance_for
else:
    _HOME = {
        "Bisection": "bisect",
        "FormRunner": "forms",
        "load_form": "forms",
        "load_pair": "pairs",
        "FusedGenerator": "fused",
        "FusedSynthesis": "fused",
        "Engine": "manifest",
        "check_engine": "manifest",
        "read_manifest": "manifest",
        "export_onnx": "onnx",
        "ParityReport": "parity",
        "verify": "parity",
        "precision_report": "quantization",
        "Runner": "runners",
        "classes_of": "runners",
        "latents_of": "runners",
        "load_runner": "runners",
        "EngineOptions": "tensorrt",
        "build_engine": "tensorrt",
        "Tolerance": "tolerance",
        "tolerance_for": "tolerance",
    }

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value  # the next access finds it without coming here
        return value

    def __dir__():
        return sorted({*globals(), *_HOME})
