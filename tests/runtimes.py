"""Run exported files in several releases of ONNX Runtime: ``python -m tests.runtimes``, or ``make runtimes``.

Each release gets an environment of its own under build/runtimes, with onnxruntime and numpy. Small networks are
exported in every precision, with functions. From each file come one without functions, as ``export --inline`` writes
it, and one with a fixed batch, as ``export --batch 1`` does. The parity gate compares their images with those of the
network in PyTorch. The images of the three forms are also compared with each other.

Wheels of releases before 1.15 are for Python 3.10 and older; without such an interpreter they are left out, and named.

``python -m tests.runtimes --limits`` opens models of one node instead, in each release of
``dcp_deploy.export.graph.releases``: the newest IR version and opset that it reads, and the operators that it has in
bfloat16.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import onnx

from dcp_deploy import export_onnx, load_generator, plan, prune, score
from dcp_deploy.config import DATASETS
from dcp_deploy.export import Runner, classes_of, latents_of, load_runner, tolerance_for, verify
from dcp_deploy.export.graph.file import read_onnx
from dcp_deploy.export.graph.inlining import fix_batch, inlined
from dcp_deploy.export.graph.releases import RELEASES as TABLE
from dcp_deploy.export.graph.releases import runtime_words
from dcp_deploy.export.graph.versions import versions_of
from dcp_deploy.generators import Generator

from .export.conftest import random_generator, random_stylegan3
from .pythons import ROOT, environment, interpreters

PLACE = ROOT / "build" / "runtimes"
RELEASES = ("1.13.1", "1.14.1", "1.15.1", "1.17.3", "1.18.1", "1.20.1", "newest")
FIRST_HERE, OLDER_PYTHON = (1, 15), "3.10"  # the first release with wheels for this Python, and that of the ones before
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FORMS = ("functions", "inlined", "batch 1")
LATENTS, PSIS = 4, (0.7, 1.0)
IR_VERSIONS, OPSETS = range(7, 16), range(16, 30)
BFLOAT16 = {
    **dict.fromkeys(("Identity", "Sign", "Abs", "Neg", "Sqrt", "Relu", "LeakyRelu", "Transpose"), ("x",)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "MatMul"), ("x", "x")),
    **dict.fromkeys(("Conv", "ConvTranspose"), ("x", "x")),
    **dict.fromkeys(("Reshape", "Expand"), ("x", "shape")),
    "Cast <to = 16>": ("x",),
    "Clip": ("x", "bound", "bound"),
    "Unsqueeze": ("x", "axes"),
    "Concat <axis = 0>": ("x", "x"),
    "DepthToSpace <blocksize = 1>": ("x",),
}
"""Operators that may have bfloat16 features, each with its inputs; x has 4 dimensions."""


def networks() -> dict[str, Generator]:
    """Return the demo's teacher with 70 % of its channels removed, a conditional StyleGAN2 with clamps, a StyleGAN3."""
    teacher = load_generator(ROOT / "dcp_deploy" / "assets" / DATASETS["demo"].teacher.file)
    found = score(teacher, method="weight-out")
    return {
        "demo": prune(teacher, plan(teacher, found, ratio=0.7), refine="none"),
        "conditional": random_generator((8, 8, 8, 8, 8, 8), c_dim=3, conv_clamp=256.0),
        "stylegan3": random_stylegan3((8, 8, 8, 8, 8)),
    }


def inputs_for(runner: Runner) -> dict[str, np.ndarray]:
    """Return z, psi (and c) of every image that is compared."""
    seeds = list(range(LATENTS)) * len(PSIS)
    classes = classes_of(seeds, runner.c_dim)
    inputs = {"z": latents_of(seeds, runner.z_dim), "psi": np.repeat(np.float32(PSIS), LATENTS)}
    return inputs | ({} if classes is None else {"c": classes})


def export_all(folder: Path) -> dict[str, Runner]:
    """Write NAME.PRECISION.FORM.onnx and NAME.npz for every network; return the networks as runners by name."""
    folder.mkdir(parents=True)
    runners = {}
    for name, network in networks().items():
        runner = runners[name] = load_runner(network)
        np.savez(folder / f"{name}.npz", **inputs_for(runner))
        for precision in PRECISIONS:
            path = folder / f"{name}.{precision}.functions.onnx"
            export_onnx(network, path, image="float", precision=precision)  # type: ignore[arg-type]
            print(f"{path.stem}: {runtime_words(*versions_of(read_onnx(path)))}", file=sys.stderr, flush=True)
            for form in FORMS[1:]:
                model = onnx.load(path)
                if form == "batch 1":
                    fix_batch(model, 1)
                onnx.save(inlined(model), folder / f"{name}.{precision}.{form}.onnx")
    return runners


def export_probes(folder: Path) -> None:
    """Write models of one node: ir.N.onnx and opset.N.onnx for each version, bfloat16.OPERATOR.onnx."""
    folder.mkdir(parents=True)
    same = "g (float[1] x) => (float[1] y) { y = Identity (x) }"
    texts = {f"ir.{ir}": f'<ir_version: {ir}, opset_import: ["": 17]> {same}' for ir in IR_VERSIONS}
    texts |= {f"opset.{opset}": f'<ir_version: 8, opset_import: ["": {opset}]> {same}' for opset in OPSETS}
    for operator, inputs in BFLOAT16.items():
        texts[f"bfloat16.{operator.split()[0]}"] = f"""<ir_version: 8, opset_import: ["": 17]>
            g (bfloat16[1, 1, 1, 1] x, bfloat16 bound, int64[4] shape, int64[1] axes) => (bfloat16 y) {{
                y = {operator} ({", ".join(inputs)})
            }}"""
    for name, text in texts.items():
        onnx.save(onnx.parser.parse_model(text), folder / f"{name}.onnx")


def kept(reference: Runner, inputs: dict[str, np.ndarray], images: np.ndarray) -> Runner:
    """Return the images as a Runner that finds them by latent and psi, for the gate."""
    table = {_key(*row): image for *row, image in zip(inputs["z"], inputs["psi"], images, strict=True)}

    def draw(z: np.ndarray, psi: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        return np.stack([table[_key(*row)] for row in zip(z, psi, strict=True)])

    return Runner("file", "kept", reference.z_dim, reference.c_dim, reference.image_size, "float", draw)


def _key(z: np.ndarray, psi: float) -> bytes:
    return np.append(z, np.float32(psi)).astype(np.float32).tobytes()


def judge(folder: Path, out: Path, runners: dict[str, Runner], precision: str, form: str) -> str:
    """Return "passed", or the network and the reason of the first failure."""
    for name, reference in runners.items():
        stem = f"{name}.{precision}.{form}"
        if (out / f"{stem}.txt").is_file():
            return f"{name}: {(out / f'{stem}.txt').read_text(encoding='utf-8').splitlines()[0][-120:]}"
        images = np.load(out / f"{stem}.npy")
        inputs = dict(np.load(folder / f"{name}.npz"))
        report = verify(
            reference, kept(reference, inputs, images), latents=LATENTS, psis=PSIS, tolerance=tolerance_for(precision)
        )
        if not report.passed:
            return f"{name}: other images, {report.max_abs:.2g}"
    return "passed"


def apart(out: Path, names: Iterable[str], form: str) -> float:
    """Return the largest difference of an image's value from that of the file with functions."""
    found = [0.0]
    for name, precision in product(names, PRECISIONS):
        files = [out / f"{name}.{precision}.{one}.npy" for one in (form, "functions")]
        if all(file.is_file() for file in files):
            images, others = map(np.load, files)
            found.append(float(np.abs(images - others).max()))
    return max(found)


def worker(release: str, *folders: Path) -> list[str] | None:
    """Run ``runtimes_worker.py`` in one release. Return the lines that it prints; None without its Python."""
    older = release != "newest" and tuple(map(int, release.split(".")[:2])) < FIRST_HERE
    python = next(interpreters(OLDER_PYTHON), None) if older else sys.executable
    if python is None:
        print(f"left out: {release} needs Python {OLDER_PYTHON}, which this machine lacks", file=sys.stderr)
        return None
    # Older releases were built for numpy 1.
    packages = ["onnxruntime"] if release == "newest" else [f"onnxruntime=={release}.*", "numpy<2"]
    made = environment(PLACE / release, python, *packages)
    command = [made, ROOT / "tests" / "runtimes_worker.py", *folders]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def print_limits(releases: Iterable[str]) -> int:
    """Print a Markdown table of what each release opens: its newest IR version and opset, operators in bfloat16."""
    folder = PLACE / "probes"
    shutil.rmtree(folder, ignore_errors=True)
    export_probes(folder)
    print("| ONNX Runtime | IR version up to | opset up to | in bfloat16 |\n|---|---:|---:|---|")
    for version, *opened in filter(None, (worker(release, folder) for release in releases)):
        found: dict[str, list[str]] = {"ir": [], "opset": [], "bfloat16": []}
        for name in opened:
            kind, _, what = name.partition(".")
            found[kind].append(what)
        newest = [max(map(int, found[kind]), default=0) for kind in ("ir", "opset")]
        print(f"| {version} | {newest[0]} | {newest[1]} | {', '.join(found['bfloat16'])} |", flush=True)
    return 0


def main() -> int:
    """Print a Markdown table, a row for each release and form; return 1 unless everything passed the gate.

    The last column is the largest difference from the images of the file with functions, 0 if all bits are the same.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", help="releases of ONNX Runtime, such as 1.15 or 1.15.1, or newest")
    parser.add_argument("--limits", action="store_true", help="what each release opens, in place of images")
    given = parser.parse_args()
    if given.limits:
        return print_limits(given.releases or [*(one.onnxruntime for one in TABLE), "newest"])
    folder = PLACE / "files"
    shutil.rmtree(folder, ignore_errors=True)
    runners = export_all(folder)
    print(f"| ONNX Runtime | form | {' | '.join(PRECISIONS)} | largest difference |\n|---|---|{'---|' * 5}")
    verdicts = set()
    for release in given.releases or RELEASES:
        out = PLACE / f"{release}.images"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if (printed := worker(release, folder, out)) is None:
            continue
        for form in FORMS:
            cells = [judge(folder, out, runners, precision, form) for precision in PRECISIONS]
            verdicts.update(cells)
            distance = apart(out, runners, form)
            cells.append(f"{distance:.1g}" if distance else "0")
            print(f"| {printed[0]} | {form} | {' | '.join(cells)} |", flush=True)
    return int(verdicts != {"passed"})


if __name__ == "__main__":
    sys.exit(main())
