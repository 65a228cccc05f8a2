"""A folder (or ``.tar.zst``) that an inference service loads as it is: model repository, manifests, golden images.

models/<model>/config.pbtxt, configs/*.pbtxt, 1/model.onnx, 1/model.py, 1/model_sm90.plan    Triton's repository
pictures/picture/                   a second one, for a server with Pillow: seeds in, encoded pictures out
directions/                         along which the editor moves codes, when there are some
engines/<name>.engine and .json     engines for TensorRT for RTX, which Triton does not load
golden/<model>/                     what generator and teacher draw for fixed seeds
kubernetes/  clients/               KServe and Kubernetes manifests; examples
provenance/                         the records of the run that made it
README.md  MODEL_CARD.md  manifest.json  manifest.sha256
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError, UsageError
from ...files import atomic_path
from ...version import __version__
from ..integrity import ARCHIVE, SEAL, check_bundle, largest_request, pack, seal
from ..parity.gate import verify
from ..runners.onnx import onnx_runner
from ..runners.runner import Runner
from ..tensorrt.manifest import check_engine
from .golden import PSIS, SEEDS, golden_range, golden_runner, write_golden
from .kubernetes import (
    TRITON_IMAGE,
    Deployment,
    deployment_manifest,
    file_name,
    ingress_manifest,
    kserve_manifest,
    kubernetes_name,
)
from .sizing import Sizing, measure_sizing
from .triton import Picture, Served, TensorRTPlan, Variant, config_pbtxt, interface, picture_pbtxt

MAX_BATCH = 8


@dataclass(frozen=True)
class Model:
    """One ONNX file to serve, and what it has to draw."""

    onnx: Path
    reference: Runner
    through: Runner | None = None
    """Draws from z with a file that takes something else; None for one that takes z, whose golden images are kept."""


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle. ``models`` has at least "generator", whose engines ``engines`` are.

    ``directions``: the file whose directions the model "editor" has. ``documents`` maps names below provenance/ to
    files; ``provenance`` goes into the manifest.
    """

    name: str
    models: Mapping[str, Model]
    card: str
    provenance: Mapping[str, Any]
    engines: Sequence[Path] = ()
    directions: Path | None = None
    documents: Mapping[str, Path] = field(default_factory=dict)


def write_bundle(contents: Contents, out: str | os.PathLike[str], *, max_batch: int = MAX_BATCH) -> dict[str, Any]:
    """Write the bundle ``out``, a folder or ``*.tar.zst``, whole or not at all, and return its manifest.

    Takes some seconds to measure how many copies of the generator this machine's CPU runs best. Raises ParityError when
    a model does not draw what its reference draws, StaleArtifactError for an engine that was built from another ONNX
    file, UsageError for an ``out`` that holds something else, or a batch that an engine cannot take.
    """
    out = Path(out)
    if max_batch < 1:
        raise UsageError(f"the largest batch is {max_batch}", "use 1 or more")
    _may_write(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name.removesuffix(ARCHIVE)
        folder.mkdir()
        manifest = _fill(folder, contents, max_batch)
        if out.name.endswith(ARCHIVE):
            pack(folder, out)
        else:
            if out.exists():
                out.replace(Path(temporary) / "old")
            folder.replace(out)
    return manifest


def _may_write(out: Path) -> None:
    """An earlier bundle may be replaced, nothing else."""
    if out.is_dir() and any(out.iterdir()) and not (out / SEAL).is_file():
        raise UsageError(f"{out} is a folder with other things in it", "give a new name, or an earlier bundle's")
    packed = out.name.endswith(ARCHIVE)
    if (out.is_dir() and packed) or (out.is_file() and not packed):
        raise UsageError(f"{out} exists and is something else", f"give a folder's name, or one ending in {ARCHIVE}")


def _fill(folder: Path, contents: Contents, max_batch: int) -> dict[str, Any]:
    plans, engines = _engines(folder, contents, max_batch)
    sizing = measure_sizing(contents.models["generator"].onnx)
    models = {
        name: _model(folder, name, model, sizing, plans if name == "generator" else {}, max_batch)
        for name, model in contents.models.items()
    }
    directions = _directions(folder, contents.directions)
    _picture(folder, models["generator"]["inputs"], sizing.delay_us, max_batch, tuple(directions))
    most = largest_request({"models": models})
    _manifests(folder, contents.name, bool(plans), most)
    for name, source in contents.documents.items():
        _copy(source, folder / "provenance" / name)
    _write(
        folder / "clients" / "client.py",
        _travelling("example_client.py"),
    )
    _write(
        folder / "clients" / "picture.py",
        _travelling("example_picture.py"),
    )
    _write(folder / "MODEL_CARD.md", contents.card)
    facts = {
        "name": contents.name,
        "tool": f"dcp-deploy {__version__}",
        "models": models,
        "directions": directions,
        "engines": engines,
        "sizing": sizing.to_dict(),
        "provenance": dict(contents.provenance),
    }
    _write(folder / "README.md", _readme(facts, bool(plans), max_batch, most))
    return seal(folder, facts)


def _model(
    folder: Path, name: str, model: Model, sizing: Sizing, plans: Mapping[str, TensorRTPlan], max_batch: int
) -> dict[str, Any]:
    """One model of the repository: its files, its configurations, its golden images. Returns its manifest entry."""
    place = folder / "models" / name
    onnx = place / "1" / "model.onnx"
    _copy(model.onnx, onnx)
    _write(place / "1" / "model.py", _travelling("triton_generator.py"))
    inputs, output = interface(onnx)
    if model.through is None:
        _takes(onnx, max_batch)
        parity = _golden(folder / "golden" / name, model.reference, onnx)
    else:
        parity = _compared(model.reference, model.through, latents=SEEDS, psis=PSIS)
    best = sizing.best
    served = Served(name, inputs, output, max_batch, best.instances, best.threads, sizing.delay_us, plans)
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
        "parity": parity,
    }


def _directions(folder: Path, file: Path | None) -> dict[str, Any]:
    """Keep the file, and tell of each direction, in the order of the editor's strengths, what it moves and how far."""
    if file is None:
        return {}
    from ...checkpoints.directions import read_directions

    _copy(file, folder / "directions" / "directions.safetensors")
    return {name: {"layers": list(one.layers), "sigma": one.sigma} for name, one in read_directions(file).items()}


def _picture(
    folder: Path, inputs: Mapping[str, list[int]], delay_us: int, max_batch: int, directions: tuple[str, ...]
) -> None:
    picture = Picture(inputs["z"][0], inputs.get("c", [0])[0], max_batch, delay_us, directions)
    place = folder / "pictures" / "picture"
    _write(place / "config.pbtxt", picture_pbtxt(picture))
    _write(place / "1" / "model.py", _travelling("triton_picture.py"))


def _takes(onnx: Path, max_batch: int) -> None:
    """UsageError for a file that was exported for other batches than the server may make."""
    bounds = onnx_runner(onnx).batch
    if bounds is not None and (bounds[0] > 1 or max_batch > bounds[1]):
        raise UsageError(
            f"{onnx.parents[1].name} was exported for batches of {bounds[0]} to {bounds[1]}, not of 1 to {max_batch}",
            f"bundle with --max-batch {bounds[1]}" if bounds[0] == 1 else "export it for batches from 1 on",
        )


def _golden(folder: Path, reference: Runner, onnx: Path) -> dict[str, Any]:
    """Keep what the reference draws, and let the ONNX file through only if it draws the same."""
    exported = onnx_runner(onnx)
    write_golden(reference, folder, precision=exported.facts.get("precision", "fp32"))
    return _compared(golden_runner(folder), exported, **golden_range(folder))


def _compared(reference: Runner, exported: Runner, **what: Any) -> dict[str, Any]:
    report = verify(reference, exported, **what)
    report.raise_for_failure()
    told = report.to_dict()
    return {"reference": told["a"], **{name: told[name] for name in ("images", "max_steps", "differing", "tolerance")}}


def _engines(folder: Path, contents: Contents, max_batch: int) -> tuple[dict[str, TensorRTPlan], list[dict[str, Any]]]:
    """Copy the engines: plans of TensorRT into the repository, others beside it. ({compute capability: plan}, facts)"""
    plans, facts = {}, []
    for engine in contents.engines:
        manifest = check_engine(engine, contents.models["generator"].onnx)
        largest = min(shapes["max"][0] for shapes in manifest["profile"].values())
        if max_batch > largest:
            raise UsageError(
                f"{engine} was built for batches up to {largest}, the bundle is to serve {max_batch}",
                f"build it with --batch 1,{max_batch},{max_batch}, or bundle with --max-batch {largest}",
            )
        place = Path("engines") / engine.name
        if manifest["flavour"] == "tensorrt":
            (target,) = manifest["targets"]
            place = Path("models/generator/1") / f"model_{target}.plan"
            best = min(shapes["opt"][0] for shapes in manifest["profile"].values())
            plans[f"{target[2:-1]}.{target[-1]}"] = TensorRTPlan(place.name, best)
        if (folder / place).exists():
            raise UsageError(f"two engines want to be {place}", "give one engine for each GPU and name")
        _copy(engine, folder / place)
        _copy(engine.with_suffix(".json"), folder / "engines" / f"{engine.stem}.json")
        facts.append({"file": place.as_posix(), **manifest})
    return plans, facts


def _manifests(folder: Path, name: str, plans: bool, most_body: int) -> None:
    for gpu in (True, False):
        deployment = Deployment(kubernetes_name(name), gpu, plans, most_body)
        _write(folder / "kubernetes" / file_name("kserve", deployment), kserve_manifest(deployment))
        _write(folder / "kubernetes" / file_name("deployment", deployment), deployment_manifest(deployment))
    _write(folder / "kubernetes" / "ingress.yaml", ingress_manifest(deployment))


def _readme(facts: Mapping[str, Any], plans: bool, max_batch: int, most_body: int) -> str:
    from jinja2 import Environment, StrictUndefined

    # Markdown, not HTML: nothing to escape, and all values are ours or names of files.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(Path(__file__).with_name("bundle_readme.md.jinja").read_text("utf-8"))
    return template.render(facts, plans=plans, image=TRITON_IMAGE, max_batch=max_batch, most_body=most_body)


def read_golden(bundle: Path, model: str) -> tuple[Runner, dict[str, Any]]:
    """The golden images of a checked bundle's model, and the arguments with which ``verify`` compares them."""
    check_bundle(bundle)
    folder = bundle / "golden" / model
    if not folder.is_dir():
        kept = sorted(path.parent.name for path in bundle.glob("golden/*/golden.json"))
        raise UsageError(f"{bundle} keeps no golden images of {model!r}", f"it keeps those of: {', '.join(kept)}")
    return golden_runner(folder), golden_range(folder)


def _copy(source: Path, place: Path) -> None:
    if not source.is_file():
        raise InputError(f"there is no file {source}", "check the path, or run the build again")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def _travelling(name: str) -> str:
    """Return the text of a script that the bundle carries."""
    return Path(__file__).parent.joinpath("scripts", name).read_text("utf-8")


def _write(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
