"""Measure sizes, build times and memory of full-size engines.

    python -m dcp_deploy.benchmarks.experiments.engine_matrix FOLDER

Networks with random weights, 256 and 1024 px, teacher and 70 % student, are exported and built by the command line, one
process per step, ahead of time for two generations of GPUs. FOLDER keeps ``engine_matrix.json``; cells in it are not
measured again, so a stopped run can continue. The table is printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ...checkpoints import save_generator
from ...errors import DcpDeployError
from ...files import read_json, write_json
from ...generators import Generator, GeneratorConfig
from ..results import markdown_table

RESOLUTIONS = (256, 1024)
MODELS = ("teacher", "student")
PRECISIONS = ("fp32", "fp16")
TARGETS = "sm89,sm120"


def network_config(resolution: int, model: str) -> GeneratorConfig:
    """Return StyleGAN2 with its published widths; for the student 30 % of them, to the nearest multiple of eight."""
    teacher = GeneratorConfig.stylegan2(resolution, num_fp16_res=0)
    if model == "teacher":
        return teacher
    return replace(teacher, widths=tuple(max(8, 8 * round(0.3 * width / 8)) for width in teacher.widths))


def measure(folder: Path, resolution: int, model: str, precision: str) -> dict[str, Any]:
    """Export and build one network. Raises DcpDeployError with the output of a command that fails."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, onnx, engine = (work / f"x.{suffix}" for suffix in ("safetensors", "onnx", "engine"))
    torch.manual_seed(0)
    save_generator(Generator(network_config(resolution, model)), checkpoint)
    chosen = [] if precision == "fp32" else ["--precision", precision]
    exported = _run(["export", str(checkpoint), "--out", str(onnx), *chosen])
    built = _run(["engine", str(onnx), "--target", TARGETS, "--out", str(engine)])
    manifest = read_json(engine.with_suffix(".json"))
    sizes = {file.suffix: sum(part.stat().st_size for part in work.glob(f"{file.name}*")) for file in (onnx, engine)}
    shutil.rmtree(work)
    return {
        "resolution": resolution,
        "model": model,
        "precision": precision,
        "weights": manifest["precision"],
        "flavour": f"{manifest['flavour']} {manifest['flavour_version']}",
        "onnx_bytes": sizes[".onnx"],
        "engine_bytes": sizes[".engine"],
        "export": exported,
        "engine": {**built, "build_seconds": manifest["build_seconds"]},
    }


def _run(arguments: Sequence[str]) -> dict[str, float]:
    """Run ``dcp-deploy`` with these arguments; return its wall seconds and peak resident memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dcp_deploy", *arguments, "--quiet"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    with process.stderr as stream:
        errors = stream.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise DcpDeployError(f"dcp-deploy {' '.join(arguments)} ended with {process.returncode}: {errors}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(used.ru_maxrss / 2**20, 2)}


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with a row per cell."""
    headings = ("network", "precision", "ONNX MB", "export s", "export GiB", "engine MB", "build s", "engine GiB")
    rows = [
        (
            f"{cell['resolution']} px {cell['model']}",
            cell["precision"],
            f"{cell['onnx_bytes'] / 1e6:.1f}",
            f"{cell['export']['seconds']:.0f}",
            f"{cell['export']['peak_gib']:.1f}",
            f"{cell['engine_bytes'] / 1e6:.1f}",
            f"{cell['engine']['build_seconds']:.1f}",
            f"{cell['engine']['peak_gib']:.1f}",
        )
        for cell in cells
    ]
    return "\n".join(markdown_table(headings, rows, "|---|---|" + "---:|" * (len(headings) - 2)))


def main() -> None:
    """Measure every cell that is not in the record, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="keeps the record; its subfolder work is emptied")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=PRECISIONS)
    options = parser.parse_args()
    record = options.folder / "engine_matrix.json"
    done = read_json(record) if record.is_file() else {}
    for resolution, model, precision in product(RESOLUTIONS, MODELS, options.precision):
        key = f"{resolution} {model} {precision}"
        if key not in done:
            done[key] = measure(options.folder, resolution, model, precision)
            write_json(record, done)
            print(key, done[key], file=sys.stderr)
    print(table(list(done.values())))


if __name__ == "__main__":
    main()
