"""Any file with a generator, recognised by its content alone, to a Checkpoint; its discriminator where asked for."""

from __future__ import annotations

import logging
import mmap
import os
from pathlib import Path
from typing import Literal

from ..errors import CorruptFileError, InputError, UnknownFormatError
from ..generators import Discriminator, Generator
from .checkpoint import Checkpoint
from .native import read_native
from .nvidia import read_nvidia
from .nvidia_discriminator import read_nvidia_discriminator
from .pickles.torch_file import is_torch_file
from .rosinality import read_rosinality
from .rosinality_discriminator import read_rosinality_discriminator
from .tensorflow import read_tensorflow

Format = Literal["native", "nvidia", "tensorflow", "torch", "other"]

_HEAD = 1 << 16
_TENSORFLOW = b"dnnlib.tflib.network"
_NO_CHECKPOINT = {
    b"<": "a web page: was it saved instead of the file that it offers?",
    b"{": "a JSON text: an answer of a server instead of the file?",
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull` where it comes from",
}

logger = logging.getLogger("dcp_deploy")


def sniff(path: str | os.PathLike[str]) -> Format:
    """What the content looks like; the name of the file does not matter, and nothing is decoded.

    "native" is safetensors, "nvidia" and "tensorflow" are pickles (one that shows neither counts as NVIDIA's, whose
    reader will say what it is), "torch" is a file of torch.save, zip or older, "other" is none of them.
    Raises InputError when there is no such file or it cannot be read, CorruptFileError when it is empty.
    """
    return _format(mapped(Path(path)))


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a generator in any of the formats, float32 and in evaluation mode. Never executes code from the file.

    Raises UnsafeFileError for a file that only executed code could read, CorruptFileError for a damaged one,
    UnknownFormatError for other content and for networks that we do not draw, InputError for a missing file.
    """
    data = mapped(Path(path))
    form = _format(data)
    if form == "native":
        return read_native(path)
    if form == "other":
        start = bytes(data[:64]).lstrip()
        hints = [hint for prefix, hint in _NO_CHECKPOINT.items() if start.startswith(prefix)]
        raise UnknownFormatError(
            f"{path}: none of the formats that are read" + (f", but {hints[0]}" if hints else ""),
            "pass a .safetensors of dcp-deploy, a .pkl of NVIDIA's repositories (PyTorch or TensorFlow), or a .pt of "
            "rosinality's stylegan2-pytorch",
        )
    reader = {"nvidia": read_nvidia, "tensorflow": read_tensorflow, "torch": read_rosinality}[form]
    return reader(data, str(path))


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """The generator of :func:`read_checkpoint`; whatever had to be made up is logged as a warning."""
    checkpoint = read_checkpoint(path)
    for note in checkpoint.notes:
        logger.warning("%s: %s", path, note)
    return checkpoint.generator


def read_discriminator(path: str | os.PathLike[str]) -> Discriminator:
    """Read the discriminator that a training file or snapshot keeps, float32. Never executes code from the file.

    Raises UnknownFormatError for other formats, for files without one and for discriminators that compute something
    else than ours, CorruptFileError and UnsafeFileError as :func:`read_checkpoint` does.
    """
    data = mapped(Path(path))
    readers = {"nvidia": read_nvidia_discriminator, "torch": read_rosinality_discriminator}
    reader = readers.get(_format(data))
    if reader is None:
        raise UnknownFormatError(
            f"{path}: no discriminator is read from this format",
            "what is read: D in a .pkl of NVIDIA's PyTorch repositories, d in a training file of rosinality's",
        )
    return reader(data, str(path))


def _format(data: memoryview) -> Format:
    head = bytes(data[:_HEAD])
    if len(head) > 8 and int.from_bytes(head[:8], "little") < 1 << 32 and head[8:9] == b"{":
        return "native"
    if is_torch_file(data):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "tensorflow" if _TENSORFLOW in head else "nvidia"
    return "other"


def mapped(path: Path) -> memoryview:
    """The file's bytes, which the system reads as they are needed and frees when no view is left."""
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}", "check the path given")
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise CorruptFileError(f"{path}: the file is empty", "was its download or copy interrupted?")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "check the path given") from error
