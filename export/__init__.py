"""From a Generator to what a service runs: fused form, ONNX, engines, runners, and the gate between them."""

from __future__ import annotations

from .bisect import Bisection
from .forms import FormRunner, load_form
from .fused import FusedGenerator, FusedSynthesis
from .manifest import Engine, check_engine, read_manifest
from .onnx import export_onnx
from .parity import ParityReport, verify
from .quantization import precision_report
from .runners import Runner, classes_of, latents_of, load_runner
from .tensorrt import EngineOptions, build_engine
from .tolerance import Tolerance, tolerance_for

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
    "load_runner",
    "precision_report",
    "read_manifest",
    "tolerance_for",
    "verify",
]
