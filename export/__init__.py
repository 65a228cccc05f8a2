"""From a Generator to files that a service runs: fused generator, ONNX, engines, runners, and the parity gate.

The names are imported on first use, so that a service can run an exported file without torch.
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
    "SynthesisRunner",
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
    "load_synthesis",
    "precision_report",
    "read_manifest",
    "tolerance_for",
    "verify",
    "write_winograd",
]

if TYPE_CHECKING:
    from .fused.generator import FusedGenerator, FusedSynthesis
    from .graph.winograd import WinogradFiles, write_winograd
    from .onnx.exporter import export_onnx
    from .onnx.quantization import precision_report
    from .parity.artifacts import load_pair
    from .parity.bisect import Bisection
    from .parity.gate import ParityReport, verify
    from .parity.tolerance import Tolerance, tolerance_for
    from .runners.forms import FormRunner, load_form
    from .runners.loading import load_runner
    from .runners.runner import Runner, classes_of, latents_of
    from .runners.synthesis import SynthesisRunner, load_synthesis
    from .tensorrt.engine import EngineOptions, build_engine
    from .tensorrt.manifest import Engine, check_engine, read_manifest
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "fused.generator": ("FusedGenerator", "FusedSynthesis"),
            "graph.winograd": ("WinogradFiles", "write_winograd"),
            "onnx.exporter": ("export_onnx",),
            "onnx.quantization": ("precision_report",),
            "parity.artifacts": ("load_pair",),
            "parity.bisect": ("Bisection",),
            "parity.gate": ("ParityReport", "verify"),
            "parity.tolerance": ("Tolerance", "tolerance_for"),
            "runners.forms": ("FormRunner", "load_form"),
            "runners.loading": ("load_runner",),
            "runners.runner": ("Runner", "classes_of", "latents_of"),
            "runners.synthesis": ("SynthesisRunner", "load_synthesis"),
            "tensorrt.engine": ("EngineOptions", "build_engine"),
            "tensorrt.manifest": ("Engine", "check_engine", "read_manifest"),
        },
    )
