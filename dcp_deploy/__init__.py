"""dcp-deploy: from a StyleGAN teacher to a measured, deployable student.

The names below are the library. They are imported on first use, so ``import dcp_deploy`` and ``dcp-deploy --help`` do
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors

__version__ = "0.1.0"

__all__ = [
    "BuildConfig",
    "Generator",
    "GeneratorConfig",
    "__version__",
    "benchmark",
    "build",
    "build_engine",
    "count_macs",
    "count_parameters",
    "distill",
    "errors",
    "evaluate",
    "export_onnx",
    "load_generator",
    "load_runner",
    "open_images",
    "plan",
    "prune",
    "save_generator",
    "score",
    "verify",
]

if TYPE_CHECKING:
    from .benchmarks import benchmark
    from .checkpoints import load_generator, save_generator
    from .compression import distill, plan, prune, score
    from .config import BuildConfig
    from .datasets.images import open_images
    from .export import build_engine, export_onnx, load_runner, verify
    from .generators import Generator, GeneratorConfig, count_macs, count_parameters
    from .metrics import evaluate
    from .pipeline import build
else:
    _HOME = {
        "benchmark": "benchmarks",
        "load_generator": "checkpoints",
        "save_generator": "checkpoints",
        "distill": "compression",
        "plan": "compression",
        "prune": "compression",
        "score": "compression",
        "BuildConfig": "config",
        "open_images": "datasets.images",
        "build_engine": "export",
        "export_onnx": "export",
        "load_runner": "export",
        "verify": "export",
        "Generator": "generators",
        "GeneratorConfig": "generators",
        "count_macs": "generators",
        "count_parameters": "generators",
        "evaluate": "metrics",
        "build": "pipeline",
    }

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value  # the next access finds it without coming here
        return value

    def __dir__():
        return sorted({*globals(), *_HOME})
