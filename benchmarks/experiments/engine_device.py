"""Try what TensorRT for RTX can do on the GPU of this machine, in a minute at most.

    python -m dcp_deploy.benchmarks.experiments.engine_device FOLDER

A small network with random weights is exported, unless FOLDER holds it already. Engines are built for this GPU, by name
and as "current", and for three GPUs that we serve. Each engine is loaded, run and compared with the readable generator.
Each attempt prints one line: its result, or TensorRT's reason why it failed. A failed attempt does not end the run.
FOLDER keeps the files and ``engine_device.json``.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import DcpDeployError, MissingCapabilityError
from ...export import build_engine, export_onnx, latents_of, load_runner
from ...export.runners.engine import EngineSession, runner_of
from ...export.tensorrt.engine import DEFAULTS, _build_rtx
from ...export.tensorrt.targets import import_flavour, present_gpu
from ...files import write_json
from ...generators import Generator, GeneratorConfig

NETWORK = GeneratorConfig(32, (64, 64, 64, 64, 32, 32, 32, 32))  # builds in seconds and has every kind of layer
SEEDS = range(5)
BATCHES = {"min": 1, "opt": 4, "max": 8}
TARGETS = ("sm80", "sm89", "sm120")  # Ampere, Ada, Blackwell


def attempts(folder: Path) -> list[dict[str, Any]]:
    """Build for this GPU, then build, load and run for every target; return a record of each attempt."""
    torch.manual_seed(0)
    generator = Generator(NETWORK).eval()
    onnx = folder / "small.onnx"
    if not onnx.is_file():
        export_onnx(generator, onnx, image="float")
    found = [
        _attempt(f"build for {present_gpu()}, this GPU", partial(_build, onnx, folder / "own.engine", "auto")),
        _attempt("build and run for CURRENT", partial(_run_current, onnx, folder / "current.engine", generator)),
    ]
    for target in TARGETS:
        engine = folder / f"{target}.engine"
        found.append(_attempt(f"build for {target}", partial(_build, onnx, engine, target)))
        if engine.is_file():
            found.append(_attempt(f"load and run {target}", partial(_run, engine, generator)))
            found.append(_attempt(f"load_runner {target}", lambda e=engine: load_runner(e).name))  # type: ignore[misc]
    return found


def _attempt(what: str, action: Callable[[], object]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        result = f"yes: {action()}"
    except DcpDeployError as error:
        result = f"no: {error.message} ({error.remedy})"
    except Exception as error:  # the library may raise any class; its message is the result
        result = f"no: {type(error).__name__}: {error}"
    seconds = round(time.perf_counter() - start, 2)
    print(f"{what}: {result} [{seconds} s]", flush=True)
    return {"attempt": what, "result": result, "seconds": seconds}


def _build(onnx: Path, engine: Path, target: str) -> str:
    built = build_engine(onnx, engine, target=target, flavour="tensorrt-rtx", batch=tuple(BATCHES.values()))  # type: ignore[arg-type]
    return f"{built.manifest['size_bytes']} bytes"


def _run_current(onnx: Path, engine: Path, generator: Generator) -> str:
    """Let TensorRT for RTX itself choose the target, which bypasses our list of targets."""
    engine.write_bytes(_build_rtx(onnx, onnx, ("current",), _profile(generator), DEFAULTS).data)
    return _run(engine, generator)


def _run(engine: Path, generator: Generator) -> str:
    """Run an engine without the manifest's check, which would reject another GPU's engine before TensorRT sees it."""
    trt = import_flavour("tensorrt-rtx")
    session = EngineSession(trt, engine.read_bytes(), torch.device("cuda"))
    if session.engine is None:
        raise MissingCapabilityError("TensorRT for RTX cannot deserialise the engine", "Read the reason in its log.")
    manifest = {"profile": _profile(generator), "config": generator.config.to_dict(), "precision": "fp32"}
    z = latents_of(SEEDS, generator.config.z_dim)
    images = runner_of(engine.name, manifest, session)(z, 0.7)
    exact = load_runner(generator)(z, 0.7)
    return f"it generates images; largest difference from the readable generator {np.abs(images - exact).max():.2e}"


def _profile(generator: Generator) -> dict[str, dict[str, list[int]]]:
    sizes = {"z": [generator.config.z_dim], "psi": []}
    return {name: {key: [n, *size] for key, n in BATCHES.items()} for name, size in sizes.items()}


def main() -> None:
    """Make all attempts and write their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"gpu": None, "python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        facts["gpu"] = f"{torch.cuda.get_device_name()} ({present_gpu()}), CUDA {torch.version.cuda}"
    imported = _attempt("import tensorrt_rtx", lambda: import_flavour("tensorrt-rtx").__version__)
    facts["tensorrt_rtx"] = imported["result"]
    print(facts, flush=True)
    write_json(folder / "engine_device.json", {**facts, "attempts": attempts(folder)})


if __name__ == "__main__":
    main()
