"""An ONNX file as a Runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CorruptFileError, InputError, UsageError
from .runner import NOISE_INPUT, Array, Runner
from .session import Values
from .sessions import ONNX_BACKENDS, open_session

if TYPE_CHECKING:
    from ..fused.generator import ImageForm


def onnx_backend(path: Path, backend: str) -> str:
    """What runs an ONNX file. UsageError for a backend that cannot."""
    if backend not in ("auto", *ONNX_BACKENDS):
        raise UsageError(f"backend {backend!r} cannot run the ONNX file {path}", f"use {', '.join(ONNX_BACKENDS)}")
    return "onnxruntime" if backend == "auto" else backend


def onnx_runner(path: Path, backend: str = "onnxruntime", threads: int | None = None) -> Runner:
    """:func:`load_runner` of a file known to be ONNX."""
    session = open_session(path, backend, threads)
    z_dim, c_dim, resolution, image = _interface(path, session.inputs, session.outputs)

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        return session.draw({"z": z, "psi": psi} if c is None else {"z": z, "psi": psi, "c": c})

    # All others run another graph than the file's: there is nothing to look into.
    source = path if backend in ("onnxruntime", "onnxruntime-cuda") else None
    batch = batch_bounds(path, session.facts)
    return Runner(path.name, backend, z_dim, c_dim, resolution, image, draw, session.facts, batch, source)


def batch_bounds(path: Path, facts: Mapping[str, str]) -> tuple[int, int] | None:
    """The smallest and largest batch that a file promises to serve, None where it names none."""
    if "batch" not in facts:
        return None
    smallest, _, largest = facts["batch"].partition(",")
    if not (smallest.isdecimal() and largest.isdecimal() and 1 <= int(smallest) <= int(largest)):
        raise CorruptFileError(f"{path} promises batches of {facts['batch']!r}", "export it again")
    return int(smallest), int(largest)


def _interface(
    path: Path, inputs: Mapping[str, Values], outputs: Mapping[str, Values]
) -> tuple[int, int, int, ImageForm]:
    """(z_dim, c_dim, resolution, image form) of an ONNX file, or an InputError that names all that is unlike ours."""
    problems = []
    ranks = {"z": 2, "psi": 1, "c": 2}
    others = [name for name in inputs if name == "ws" or name.startswith(NOISE_INPUT)]
    if others:
        raise UsageError(
            f"{path} is of another form: it takes {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}",
            "draw with dcp_deploy.export.load_form, or export with --inputs z and without --noise input",
        )
    for name in sorted({"z", "psi"} - set(inputs)):
        problems.append(f"input {name!r} is missing")
    for name, (kind, shape) in inputs.items():
        if name not in ranks:
            problems.append(f"input {name!r} is not known")
        elif kind != "tensor(float)" or len(shape) != ranks[name] or not all(isinstance(n, int) for n in shape[1:]):
            problems.append(f"input {name!r} is {kind} {shape}, not float with {ranks[name]} dimensions")
        elif isinstance(shape[0], int):
            problems.append(f"the batch of input {name!r} is fixed to {shape[0]}")
    size, image, problem = image_of(outputs)
    problems += [problem] if problem else []
    if problems:
        raise InputError(f"{path} is not a generator of ours: {'; '.join(problems)}", "make it with: dcp-deploy export")
    return inputs["z"][1][1], inputs["c"][1][1] if "c" in inputs else 0, size, image


def image_of(outputs: Mapping[str, Values]) -> tuple[int, ImageForm, str | None]:
    """(resolution, image form, what is unlike ours) of an ONNX file's outputs."""
    kind, shape = outputs.get("image", ("missing", [None] * 4))
    image: ImageForm = "uint8" if kind == "tensor(uint8)" else "float"
    size, channels = (shape[1:3], shape[3:]) if image == "uint8" else (shape[2:], shape[1:2])
    if kind not in ("tensor(uint8)", "tensor(float)") or channels != [3] or len(set(size)) != 1 or len(size) != 2:
        return 0, image, f"output 'image' is {kind} {shape}, not uint8 [B, R, R, 3] or float [B, 3, R, R]"
    return size[0], image, None
