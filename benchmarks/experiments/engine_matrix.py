"""Sizes, build times and memory of full-size engines.

Run ``python -m dcp_deploy.benchmarks.experiments.engine_matrix FOLDER``.

Networks with random weights, 256 and 1024 px, teacher and 70 % student, are exported and built by the command line, as
users do it, one process for each step, ahead of time for two generations of GPUs. A cell that was measured is not
measured again, so a run that was stopped goes on. FOLDER keeps ``engine_matrix.json``; the table is printed.
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
from ..results import markdown_row

RESOLUTIONS = (256, 1024)
MODELS = ("teacher", "student")
PRECISIONS = ("fp32", "fp16")
TARGETS = "sm89,sm120"
RECORD = "engine_matrix.json"
KEPT, ALIGN = 0.3, 8  # of a 70 % student's channels, in whole multiples


def network_config(resolution: int, model: str) -> GeneratorConfig:
    """StyleGAN2's published widths; for the student 30 % of them, to the nearest multiple of eight."""
    teacher = GeneratorConfig.stylegan2(resolution, num_fp16_res=0)
    if model == "teacher":
        return teacher
    widths = tuple(max(ALIGN, ALIGN * round(KEPT * width / ALIGN)) for width in teacher.widths)
    return replace(teacher, widths=widths)


def measure(folder: Path, resolution: int, model: str, precision: str) -> dict[str, Any]:
    """Export and build one network. Raises DcpDeployError with what the command said when it fails."""
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
    """Wall seconds and peak resident memory, in GiB, of ``dcp-deploy`` with these arguments."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dcp_deploy", *arguments, "--quiet"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    with process.stderr as stream:
        said = stream.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise DcpDeployError(f"dcp-deploy {' '.join(arguments)} ended with {process.returncode}: {said}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(used.ru_maxrss / 2**20, 2)}


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown, one row for each cell."""
    heads = ("network", "precision", "ONNX MB", "export s", "export GiB", "engine MB", "build s", "engine GiB")
    lines = [markdown_row(heads), "|---|---|" + "---:|" * (len(heads) - 2)]
    for cell in cells:
        row = (
            f"{cell['resolution']} px {cell['model']}",
            cell["precision"],
            f"{cell['onnx_bytes'] / 1e6:.1f}",
            f"{cell['export']['seconds']:.0f}",
            f"{cell['export']['peak_gib']:.1f}",
            f"{cell['engine_bytes'] / 1e6:.1f}",
            f"{cell['engine']['build_seconds']:.1f}",
            f"{cell['engine']['peak_gib']:.1f}",
        )
        lines.append(markdown_row(row))
    return "\n".join(lines)


def main() -> None:
    """Measure every cell that is not in the record yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="keeps the record; its subfolder work is emptied")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=PRECISIONS)
    options = parser.parse_args()
    record = options.folder / RECORD
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
