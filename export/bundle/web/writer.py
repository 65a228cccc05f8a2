"""Write a page for browsers: a static folder (or ``.tar.zst``) in which visitors generate images from seeds.

index.html, *.js, page.css, icon.svg    the page
model.onnx                              the network: z, psi (c, strengths) in, image out
directions/                             the directions along which the page moves w, if any
golden/generator/                       images that the page compares its own with
runtime/                                ONNX Runtime Web, its licence, and those of the code in it
README.md  manifest.json  manifest.sha256
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....version import __version__
from ...integrity import WEB_PAGE, seal
from ...parity.gate import ParityReport, verify
from ...runners.onnx import onnx_runner
from ..golden import PSIS, SEEDS, read_golden_images, write_golden
from ..placing import place_bundle
from ..triton import interface
from ..writer import Contents, Model, copy_file, keep_directions, parity_facts
from .runtime import PACKAGE, VERSION, fetched_package, write_runtime

PAGE = (
    "index.html", "page.css", "icon.svg", "page.js", "controls.js", "engine.js", "generator.js", "latents.js",
    "check.js", "isolation.js",
)  # fmt: skip
MODEL = "model.onnx"


def write_web_page(contents: Contents, out: str | os.PathLike[str], *, force: bool = False) -> dict[str, Any]:
    """Write the page ``out``, a folder or ``*.tar.zst``, whole or not at all, and return its manifest.

    The page draws with the ONNX file of "generator"; further models have the same file and are only checked. Raises
    ParityError if images of a model differ from its reference's, UsageError for an ``out`` that holds something else
    (``force`` replaces such a folder), InputError for a file whose images are not uint8, and what
    :func:`~.runtime.fetched_package` does.
    """
    fetched_package()  # the likeliest to fail, so before the work
    return place_bundle(out, lambda folder: _fill(folder, contents), force=force)


def _fill(folder: Path, contents: Contents) -> dict[str, Any]:
    generator = contents.models["generator"]
    copy_file(generator.onnx, folder / MODEL)
    inputs, output = interface(folder / MODEL)
    if output.type != "TYPE_UINT8":
        raise InputError(f"{generator.onnx} returns float32 images", "Export it with --image uint8, as is the default.")
    report = _checked(folder, generator)
    for name, model in contents.models.items():
        if name != "generator" and model.through is not None:
            verify(model.reference, model.through, latents=SEEDS, psis=PSIS).raise_for_failure()
    directions = keep_directions(folder, contents.directions)
    for name in PAGE:
        copy_file(Path(__file__).with_name(name), folder / name)
    write_runtime(folder / "runtime")
    copy_file(Path(__file__).with_name("web_readme.md"), folder / "README.md")
    facts = {
        "kind": WEB_PAGE,
        "name": contents.name,
        "tool": f"dcp-deploy {__version__}",
        "model": {
            "onnx": MODEL,
            "inputs": {tensor.name: list(tensor.dims) for tensor in inputs},
            "output": {output.name: list(output.dims)},
            "parity": parity_facts(report),
        },
        "directions": directions,
        "runtime": f"{PACKAGE} {VERSION}",
        "provenance": dict(contents.provenance),
    }
    return seal(folder, facts)


def _checked(folder: Path, generator: Model) -> ParityReport:
    """Keep golden images of the reference, and compare the copied file with them. ParityError if it differs."""
    exported = generator.through or onnx_runner(folder / MODEL)
    golden = folder / "golden" / "generator"
    write_golden(generator.reference, golden, precision=exported.facts.get("precision", "fp32"))
    reference, options = read_golden_images(golden)
    report = verify(reference, exported, **options)
    report.raise_for_failure()
    return report
