"""dcp-deploy: from a StyleGAN teacher to a measured, deployable student.

The names below are the library. They are imported on first use, so that ``import dcp_deploy`` and
``dcp-deploy --help`` do not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from .lazy import import_on_use
from .version import __version__

__all__ = [
    "RECIPES",
    "BuildConfig",
    "ChannelScores",
    "DistillConfig",
    "Generator",
    "GeneratorConfig",
    "LossFunction",
    "ScoreFunction",
    "__version__",
    "benchmark",
    "build",
    "build_engine",
    "compare",
    "count_macs",
    "count_parameters",
    "distill",
    "errors",
    "evaluate",
    "export_onnx",
    "fused",
    "load_generator",
    "load_runner",
    "load_synthesis",
    "open_images",
    "plan",
    "prune",
    "run_launched",
    "save_generator",
    "score",
    "sweep",
    "verify",
]

if TYPE_CHECKING:
    from .benchmarks import benchmark
    from .checkpoints import load_generator, save_generator
    from .compression import RECIPES, ChannelScores, DistillConfig, distill, plan, prune, score
    from .config import BuildConfig
    from .datasets.images import open_images
    from .distributed.launched import run_launched
    from .export import build_engine, export_onnx, load_runner, load_synthesis, verify
    from .export.fused.generator import fused
    from .extensions.signatures import LossFunction, ScoreFunction
    from .generators import Generator, GeneratorConfig, count_macs, count_parameters
    from .metrics import evaluate
    from .pipeline.builder import build
    from .pipeline.sweeping import sweep
    from .report.comparing import compare
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "benchmarks": ("benchmark",),
            "checkpoints": ("load_generator", "save_generator"),
            "compression": ("RECIPES", "ChannelScores", "DistillConfig", "distill", "plan", "prune", "score"),
            "config": ("BuildConfig",),
            "datasets.images": ("open_images",),
            "distributed.launched": ("run_launched",),
            "export": ("build_engine", "export_onnx", "load_runner", "load_synthesis", "verify"),
            "export.fused.generator": ("fused",),
            "extensions.signatures": ("LossFunction", "ScoreFunction"),
            "generators": ("Generator", "GeneratorConfig", "count_macs", "count_parameters"),
            "metrics": ("evaluate",),
            "pipeline.builder": ("build",),
            "pipeline.sweeping": ("sweep",),
            "report.comparing": ("compare",),
        },
    )
