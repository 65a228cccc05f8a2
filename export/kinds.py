"""The kinds of files that hold a model, known by content, and what to do about one of the wrong kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import CorruptFileError, InputError, UsageError
from ..files import is_run_directory
from .integrity import is_bundle

Kind = Literal["checkpoint", "onnx", "engine", "bundle"]


def kind_of(path: Path, *, network: str | None = None) -> Kind:
    """Return the kind of a path: :func:`sniff`, and any folder and packed bundle counts as a bundle.

    ``network`` is the generator that the caller chose in the file. Raises UsageError if it is given for anything but a
    checkpoint.
    """
    kind: Kind = "bundle" if is_bundle(path) else sniff(path)
    if network is not None and kind != "checkpoint":
        raise UsageError(
            f"--network {network!r} chooses a generator of a checkpoint, and {path} is {_NAMES[kind]}",
            "Leave out --network.",
        )
    return kind


def sniff(path: Path) -> Literal["engine", "onnx", "checkpoint"]:
    """Return the kind of a file by its content. InputError if it cannot be read, CorruptFileError if it is empty.

    A file that is neither an engine nor ONNX counts as a checkpoint; the checkpoint readers report what they can read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Check the path.") from error
    if not head:
        raise CorruptFileError(f"{path} is empty", "Make or copy it again.")
    if head[1:4] == b"trt":  # "ptrt" and "ftrt" by TensorRT, "vtrt" by TensorRT for RTX
        return "engine"
    from ..checkpoints import sniff as sniff_checkpoint

    # Field 1 of an ONNX ModelProto, ir_version, which every writer puts first; a safetensors header may be that long.
    return "onnx" if head[:1] == b"\x08" and sniff_checkpoint(path) == "other" else "checkpoint"


def onnx_needed(path: Path) -> InputError | None:
    """Return the error for something else where an ONNX file is needed: what it is, and the way to an ONNX file.

    None for an ONNX file and for content of no known kind. Raises as :func:`sniff`.
    """
    from ..checkpoints import sniff as sniff_checkpoint

    kind = kind_of(path)
    if kind == "onnx" or (kind == "checkpoint" and sniff_checkpoint(path) == "other"):
        return None
    ways = {
        "checkpoint": f"Export it first: dcp-deploy export {path} -o {path.stem}.onnx",
        "engine": "Give the ONNX file that it was built from.",
        "bundle": "Give the ONNX file of one of its models.",
    }
    what, way = _NAMES[kind], ways[kind]
    if is_run_directory(path):
        what, way = "a run directory", f"Give a file in it: {path / 'student.onnx'}"
    return InputError(f"{path} is {what}, and an ONNX file is needed here", way)


_NAMES = {
    "checkpoint": "a checkpoint",
    "onnx": "an ONNX file",
    "engine": "a TensorRT engine",
    "bundle": "a bundle or another folder",
}
