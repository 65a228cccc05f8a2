"""Put exported files through converters of others: ``python -m tests.converters``, or ``make converters``.

onnxsim, onnxslim, and onnx2tf with the interpreter of LiteRT each take float32 files without functions. What they make
runs in ONNX Runtime or LiteRT, and the parity gate compares the images with those of the networks in PyTorch. The tools
get environments of their own below build/converters, because they pin packages that we use in other versions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dcp_deploy import export_onnx
from dcp_deploy.export import Runner, load_runner, tolerance_for, verify
from dcp_deploy.generators import Generator

from .export.conftest import random_generator
from .pythons import ROOT, environment
from .runtimes import LATENTS, PSIS, inputs_for, kept, networks

PLACE = ROOT / "build" / "converters"
FORMS: dict[str, dict[str, Any]] = {"inlined": {"inline": True}, "batch 1": {"batch": 1}}
TOOLS = {"onnxsim": ("onnxsim",), "onnxslim": ("onnxslim",), "onnx2tf": ("onnx2tf", "ai-edge-litert")}
# It has a block of 8 channels at 8 x 8. Wherever these numbers are equal, onnx2tf generates other images.
KNOWN_TO_DIFFER = {("conditional", "onnx2tf")}
IMAGES_OF_LITERT = ROOT / "tests" / "converters_litert.py"
NHWC, NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def version_in(programs: Path, package: str) -> str:
    """Return the installed version of a package."""
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return subprocess.run([programs / "python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def in_onnxruntime(file: Path, inputs: Path) -> np.ndarray:
    """Return the images of a file, one call for each row."""
    runner, values = load_runner(file, backend="onnxruntime"), dict(np.load(inputs))
    rows = [{name: array[row : row + 1] for name, array in values.items()} for row in range(len(values["z"]))]
    return np.concatenate([runner.draw(row["z"], row["psi"], row.get("c")) for row in rows])


def simplified(programs: Path, tool: str, file: Path, inputs: Path, out: Path) -> np.ndarray:
    """Return the images of ONNX Runtime from what onnxsim or onnxslim makes of a file."""
    called(programs / tool, file, out / "made.onnx")
    return in_onnxruntime(out / "made.onnx", inputs)


def in_litert(programs: Path, tool: str, file: Path, inputs: Path, out: Path) -> np.ndarray:
    """Return the images of LiteRT from what onnx2tf makes of a file with a fixed batch.

    onnx2tf overwrites its input, so it gets a copy.
    """
    copy, layouts = out / "copy.onnx", out / "layouts.json"
    shutil.copyfile(file, copy)
    layouts.write_text(json.dumps(image_layouts(onnx.load(file))), encoding="utf-8")
    called(programs / tool, "-i", copy, "-o", out / "tf", "-prf", layouts, "-n")
    called(programs / "python", IMAGES_OF_LITERT, out / "tf" / "copy_float32.tflite", inputs, out / "images.npy")
    return np.load(out / "images.npy")  # type: ignore[no-any-return]


def image_layouts(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the replacements that onnx2tf needs for the up-sampling of the image so far.

    toRGB is a matrix product that is reshaped to [1, 3, H, W]. onnx2tf keeps that layout, but takes the input of every
    convolution for channels last. So the values are transposed before each of these convolutions and after it.
    """
    makers = {value: node for node in model.graph.node for value in node.output}
    users = {value: node for node in model.graph.node for value in node.input}
    operations = []
    for node in model.graph.node:
        if node.op_type == "ConvTranspose" and any(one.name == "group" and one.i == 3 for one in node.attribute):
            before, after = node.input[0], node.output[0]
            operations.append(_transposed(makers[before], "outputs", before, post_process_transpose_perm=NHWC))
            operations.append(_transposed(users[after], "inputs", after, pre_process_transpose_perm=NCHW))
    return {"format_version": 1, "operations": operations}


def _transposed(node: onnx.NodeProto, target: str, value: str, **order: list[int]) -> dict[str, Any]:
    return {"op_name": node.name, "param_target": target, "param_name": value, **order}


def called(*command: Any) -> None:
    """Run a program. RuntimeError with its last line if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stdout.strip().splitlines() or ["no output"])[-1][:160])


CONVERT: dict[str, Callable[[Path, str, Path, Path, Path], np.ndarray]] = {
    "onnxsim": simplified, "onnxslim": simplified, "onnx2tf": in_litert,
}  # fmt: skip


def row_of(tool: str, reference: Runner, file: Path, inputs: Path, out: Path) -> list[str]:
    """Convert one file; return tool and version, the gate's verdict, and the largest difference from the file."""
    programs = environment(PLACE / tool, sys.executable, *TOOLS[tool], "onnxruntime").parent
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    title = f"{tool} {version_in(programs, tool)}"
    try:
        images = CONVERT[tool](programs, tool, file, inputs, out)
    except RuntimeError as error:
        return [title, f"failed: {error}", ""]
    report = verify(
        reference, kept(reference, dict(np.load(inputs)), images),
        latents=LATENTS, psis=PSIS, tolerance=tolerance_for("fp32"),
    )  # fmt: skip
    distance = float(np.abs(images - in_onnxruntime(file, inputs)).max())
    return [title, "passed" if report.passed else "other images", f"{distance:.1g}"]


def converted_networks() -> dict[str, Generator]:
    """Return the networks of the runtimes' table, and a conditional one without a block as wide as it is large."""
    return networks() | {"conditional, 6 to 12 channels": random_generator((6, 6, 10, 10, 12, 12), c_dim=3)}


def main() -> int:
    """Print a Markdown table, a row for each tool, form and network.

    Returns 1 unless everything passed the gate except ``KNOWN_TO_DIFFER``, which must not, so that the list stays true.
    """
    files = PLACE / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    right = []
    print("| network | form | converter | images | largest difference |\n|---|---|---|---|---|")
    for (name, network), (form, options) in product(converted_networks().items(), FORMS.items()):
        reference, inputs, file = load_runner(network), files / f"{name}.npz", files / f"{name}.{form}.onnx"
        np.savez(inputs, **inputs_for(reference))
        export_onnx(network, file, image="float", **options)
        for tool in TOOLS:
            if tool == "onnx2tf" and "batch" not in options:
                continue  # it makes static graphs
            row = row_of(tool, reference, file, inputs, PLACE / f"{tool}.{name}.{form}")
            right.append(row[1] == ("other images" if (name, tool) in KNOWN_TO_DIFFER else "passed"))
            print(f"| {name} | {form} | {' | '.join(row)} |", flush=True)
    return int(not all(right))


if __name__ == "__main__":
    sys.exit(main())
