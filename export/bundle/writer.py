"""Write a bundle: the folder (or ``.tar.zst``) that an inference service loads.

models/<model>/config.pbtxt, configs/*.pbtxt, 1/model.onnx, 1/model.py, 1/model_sm90.plan    Triton's model repository
pictures/picture/                   a second repository, for servers with Pillow: seeds in, encoded pictures out
directions/                         the directions along which the editor moves ws, if any
engines/<name>.engine and .json     engines for TensorRT for RTX, which Triton does not load
golden/<model>/                     images of generator and teacher for fixed seeds
kubernetes/  clients/               KServe and Kubernetes manifests; examples
provenance/                         the records of the run that made it
README.md  MODEL_CARD.md  manifest.json  manifest.sha256
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError, UsageError, choose
from ...files import write_text
from ...version import __version__
from ..graph.file import read_onnx
from ..graph.releases import oldest_release
from ..graph.versions import versions_of
from ..integrity import check_served, seal
from ..parity.gate import ParityReport, verify
from ..runners.onnx import onnx_runner
from ..runners.runner import Runner
from ..tensorrt.manifest import check_engine
from .golden import PSIS, SEEDS, read_golden_images, write_golden
from .kubernetes import TRITON_IMAGE, manifests
from .placing import place_bundle
from .probing import write_probe
from .sizing import Sizing, measure_sizing
from .triton import (
    Served,
    TensorRTPlan,
    Variant,
    config_pbtxt,
    interface,
    largest_request,
    picture_pbtxt,
    takes_one_image,
)

MAX_BATCH = 8
CLIENTS = {  # programs for users of the bundle, in clients/
    "client.py": "example_client.py", "picture.py": "example_picture.py", "probe.py": "probe.py",
    "verify.py": "verify.py",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One ONNX file to serve, and the Runner whose images it must reproduce."""

    onnx: Path
    reference: Runner
    through: Runner | None = None
    """For a file that does not take z: a Runner from z that uses it. None for one that does; its images are kept."""


@dataclass(frozen=True)
class Contents:
    """The contents of a bundle."""

    name: str
    models: Mapping[str, Model]
    """By name; "generator" is required."""
    card: str
    """Text of MODEL_CARD.md."""
    provenance: Mapping[str, Any]
    """Facts for the manifest."""
    engines: Sequence[Path] = ()
    """TensorRT engines of the generator."""
    directions: Path | None = None
    """File with the directions of the model "editor"."""
    documents: Mapping[str, Path] = field(default_factory=dict)
    """Files by their names below provenance/."""


def write_bundle(
    contents: Contents, out: str | os.PathLike[str], *, max_batch: int = MAX_BATCH, force: bool = False
) -> dict[str, Any]:
    """Write the bundle ``out``, a folder or ``*.tar.zst``, whole or not at all, and return its manifest.

    Measures for some seconds how many copies of the generator this machine's CPU should run. Raises ParityError if the
    images of a model differ from its reference's, StaleArtifactError for an engine built from another ONNX file,
    UsageError for an ``out`` that holds something else (``force`` replaces such a folder), or a batch that is too large
    for an engine.
    """
    if max_batch < 1:
        raise UsageError(f"the largest batch is {max_batch}", "Use 1 or more.")
    return place_bundle(out, lambda folder: _fill(folder, contents, max_batch), force=force)


def _fill(folder: Path, contents: Contents, max_batch: int) -> dict[str, Any]:
    if any(takes_one_image(model.onnx) for model in contents.models.values() if model.onnx.is_file()):
        max_batch = 1
    plans, engines = _engines(folder, contents, max_batch)
    sizing = measure_sizing(contents.models["generator"].onnx)
    models = {
        name: _model(folder, name, model, sizing, plans if name == "generator" else {}, max_batch)
        for name, model in contents.models.items()
    }
    directions = keep_directions(folder, contents.directions)
    inputs = models["generator"]["inputs"]
    picture = folder / "pictures" / "picture"
    z_dim, c_dim = inputs["z"][0], inputs.get("c", [0])[0]
    _write(picture / "config.pbtxt", picture_pbtxt(z_dim, c_dim, max_batch, sizing.delay_us, list(directions)))
    most_body = largest_request(models)
    for name, text in manifests(contents.name, plans=bool(plans), most_body=most_body).items():
        _write(folder / "kubernetes" / name, text)
    for name, source in contents.documents.items():
        copy_file(source, folder / "provenance" / name)
    scripts = Path(__file__).with_name("scripts")
    copy_file(scripts / "triton_picture.py", picture / "1" / "model.py")
    for name, script in CLIENTS.items():
        copy_file(scripts / script, folder / "clients" / name)
    write_probe(folder / "golden" / "generator", models["generator"]["output"]["image"])
    _write(folder / "MODEL_CARD.md", contents.card)
    facts = {
        "name": contents.name,
        "tool": f"dcp-deploy {__version__}",
        "models": models,
        "directions": directions,
        "engines": engines,
        "sizing": asdict(sizing),
        "provenance": dict(contents.provenance),
    }
    _write(folder / "README.md", _readme(facts, bool(plans), max_batch, most_body))
    return seal(folder, facts)


def _model(
    folder: Path, name: str, model: Model, sizing: Sizing, plans: Mapping[str, TensorRTPlan], max_batch: int
) -> dict[str, Any]:
    """Write one model of the repository: its files, configurations and golden images. Returns its manifest entry."""
    place = folder / "models" / name
    onnx = place / "1" / "model.onnx"
    copy_file(model.onnx, onnx)
    copy_file(Path(__file__).parent / "scripts" / "triton_generator.py", place / "1" / "model.py")
    inputs, output = interface(onnx)
    reference, exported = model.reference, model.through
    options: dict[str, Any] = {"latents": SEEDS, "psis": PSIS}
    if exported is None:
        exported, golden = _checked_batch(onnx, max_batch), folder / "golden" / name
        write_golden(reference, golden, precision=exported.facts.get("precision", "fp32"))
        reference, options = read_golden_images(golden)
    report = verify(reference, exported, **options)
    report.raise_for_failure()
    best = sizing.best
    served = Served(
        name, inputs, output, max_batch, best.instances, best.threads, sizing.delay_us, plans, takes_one_image(onnx)
    )
    _write(place / "config.pbtxt", config_pbtxt(served, "onnxruntime"))
    variants: list[Variant] = ["python", *(["tensorrt"] if plans else [])]  # type: ignore[list-item]
    for variant in variants:
        _write(place / "configs" / f"{variant}.pbtxt", config_pbtxt(served, variant))
    return {
        "onnx": onnx.relative_to(folder).as_posix(),
        "max_batch": max_batch,
        "inputs": {tensor.name: list(tensor.dims) for tensor in inputs},
        "output": {output.name: list(output.dims)},
        "variants": ["onnxruntime", *variants],
        **_versions(onnx),
        "parity": parity_facts(report),
    }


def parity_facts(report: ParityReport) -> dict[str, Any]:
    """Return what a manifest says about a comparison."""
    parity = report.to_dict()
    return {
        "reference": parity["a"],
        **{key: parity[key] for key in ("images", "max_steps", "differing", "tolerance")},
    }


def _versions(onnx: Path) -> dict[str, Any]:
    """Return the IR version and the opset of a file, and the oldest releases that open it."""
    ir, opset = versions_of(read_onnx(onnx))
    oldest = oldest_release(ir, opset)
    known = None if oldest is None else {"onnxruntime": oldest.onnxruntime, "triton": oldest.triton}
    return {"ir_version": ir, "opset": opset, "oldest": known}


def keep_directions(folder: Path, file: Path | None) -> dict[str, Any]:
    """Copy a file of directions into ``folder``.

    Returns the layers and sigma of each direction, in the order of the editor's strengths; empty without a file.
    """
    if file is None:
        return {}
    from ...checkpoints.directions import read_directions

    copy_file(file, folder / "directions" / "directions.safetensors")
    return {name: {"layers": list(one.layers), "sigma": one.sigma} for name, one in read_directions(file).items()}


def _checked_batch(onnx: Path, max_batch: int) -> Runner:
    """Open a file. UsageError if it was exported for other batches than the server may make."""
    exported = onnx_runner(onnx)
    bounds = exported.batch
    if bounds is not None and (bounds[0] > 1 or max_batch > bounds[1]):
        raise UsageError(
            f"{onnx.parents[1].name} was exported for batches of {bounds[0]} to {bounds[1]}, not of 1 to {max_batch}",
            f"Bundle with --max-batch {bounds[1]}." if bounds[0] == 1 else "Export it for batches from 1 on.",
        )
    return exported


def _engines(folder: Path, contents: Contents, max_batch: int) -> tuple[dict[str, TensorRTPlan], list[dict[str, Any]]]:
    """Copy TensorRT plans into the repository and other engines beside it.

    Returns the plans by compute capability, and the facts of all engines.
    """
    plans, facts = {}, []
    for engine in contents.engines:
        manifest = check_engine(engine, contents.models["generator"].onnx)
        largest = min(shapes["max"][0] for shapes in manifest["profile"].values())
        if max_batch > largest:
            raise UsageError(
                f"{engine} was built for batches up to {largest}, but the bundle serves up to {max_batch}",
                f"Build it with --batch 1,{max_batch},{max_batch}, or bundle with --max-batch {largest}.",
            )
        place = Path("engines") / engine.name
        if manifest["flavour"] == "tensorrt":
            (target,) = manifest["targets"]
            place = Path("models/generator/1") / f"model_{target}.plan"
            best = min(shapes["opt"][0] for shapes in manifest["profile"].values())
            plans[f"{target[2:-1]}.{target[-1]}"] = TensorRTPlan(place.name, best)
        if (folder / place).exists():
            raise UsageError(f"two engines would be written to {place}", "Give one engine for each GPU and name.")
        copy_file(engine, folder / place)
        copy_file(engine.with_suffix(".json"), folder / "engines" / f"{engine.stem}.json")
        facts.append({"file": place.as_posix(), **manifest})
    return plans, facts


def _readme(facts: Mapping[str, Any], plans: bool, max_batch: int, most_body: int) -> str:
    from jinja2 import Environment, StrictUndefined

    # Markdown, not HTML: there is nothing to escape, and all values are our own or names of files.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(Path(__file__).with_name("bundle_readme.md.jinja").read_text("utf-8"))
    return template.render(facts, plans=plans, image=TRITON_IMAGE, max_batch=max_batch, most_body=most_body)


def read_golden(bundle: Path, model: str) -> tuple[Runner, dict[str, Any]]:
    """Check a bundle; return the golden images of a model, and the arguments with which ``verify`` compares them."""
    check_served(bundle)
    folder = bundle / "golden" / model
    if not folder.is_dir():
        kept = sorted(path.parent.name for path in bundle.glob("golden/*/golden.json"))
        raise UsageError(f"{bundle} has no golden images of {model!r}", choose(model, kept))
    return read_golden_images(folder)


def copy_file(source: Path, place: Path) -> None:
    """Copy a file to ``place``, with the folders above it. InputError if it is not a file."""
    if not source.is_file():
        raise InputError(f"{source} is not a file", "Check the path, or run the build again.")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def _write(place: Path, text: str) -> None:
    write_text(place, text)
