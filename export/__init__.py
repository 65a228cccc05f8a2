"""From a Generator to what a service runs: fused form, ONNX, engines, runners, and the gate between them.

The names are imported on first use, so that a service can run what was exported without having torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import import_on_use

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
    "WinogradFiles",
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
    "write_winograd",
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
    from .winograd import WinogradFiles, write_winograd
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "bisect": ("Bisection",),
            "forms": ("FormRunner", "load_form"),
            "fused": ("FusedGenerator", "FusedSynthesis"),
            "manifest": ("Engine", "check_engine", "read_manifest"),
            "onnx": ("export_onnx",),
            "pairs": ("load_pair",),
            "parity": ("ParityReport", "verify"),
            "quantization": ("precision_report",),
            "runners": ("Runner", "classes_of", "latents_of", "load_runner"),
            "tensorrt": ("EngineOptions", "build_engine"),
            "tolerance": ("Tolerance", "tolerance_for"),
            "winograd": ("WinogradFiles", "write_winograd"),
        },
    )
