"""Read generators and discriminators from files of every format, recognised by their content alone."""

from __future__ import annotations

import logging
import mmap
import os
from pathlib import Path
from typing import Literal

from ..errors import CorruptFileError, InputError, UnknownFormatError
from ..generators import Discriminator, Generator
from .checkpoint import Checkpoint
from .discriminators import read_nvidia_discriminator, read_rosinality_discriminator
from .native import read_native
from .nvidia import read_nvidia
from .pickles.torch_file import is_torch_file
from .rosinality import read_rosinality
from .tensorflow import read_tensorflow

Format = Literal["native", "nvidia", "tensorflow", "torch", "other"]

_HEAD = 1 << 16
_TENSORFLOW = b"dnnlib.tflib.network"
_NO_CHECKPOINT = {
    b"<": "a web page: was it saved instead of the file that it offers?",
    b"{": "a JSON text: was the answer of a server saved instead of the file?",
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull` in the repository it comes from",
}

logger = logging.getLogger("dcp_deploy")


def sniff(path: str | os.PathLike[str]) -> Format:
    """Return the format that the content looks like, without decoding it. The name of the file does not matter.

    "native" is safetensors, "torch" a torch.save file, zip or older. "tensorflow" and "nvidia" are pickles; every
    other pickle counts as "nvidia" too. Everything else is "other".
    Raises InputError if the file does not exist or cannot be read, CorruptFileError if it is empty.
    """
    return _format(mapped(Path(path)))


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a generator in any of the formats, in float32 and evaluation mode. Never executes code from the file.

    Raises UnsafeFileError for a file that cannot be read without executing code from it, CorruptFileError for a damaged
    file, UnknownFormatError for other content and unsupported networks, InputError for a missing file.
    """
    data = mapped(Path(path))
    found = _format(data)
    if found == "native":
        return read_native(path)
    if found == "other":
        start = bytes(data[:64]).lstrip()
        hints = [hint for prefix, hint in _NO_CHECKPOINT.items() if start.startswith(prefix)]
        raise UnknownFormatError(
            f"{path}: not a checkpoint of a known format" + (f", but {hints[0]}" if hints else ""),
            "pass a .safetensors of dcp-deploy, a .pkl of NVIDIA's repositories (PyTorch or TensorFlow), or a .pt of "
            "rosinality's stylegan2-pytorch",
        )
    reader = {"nvidia": read_nvidia, "tensorflow": read_tensorflow, "torch": read_rosinality}[found]
    return reader(data, str(path))


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """Return the generator of :func:`read_checkpoint`, and log its notes as warnings."""
    checkpoint = read_checkpoint(path)
    for note in checkpoint.notes:
        logger.warning("%s: %s", path, note)
    return checkpoint.generator


def read_discriminator(path: str | os.PathLike[str]) -> Discriminator:
    """Read the discriminator of a training file or snapshot, in float32. Never executes code from the file.

    Raises UnknownFormatError for other formats, for files without a discriminator and for discriminators that compute
    something else than ours, CorruptFileError and UnsafeFileError as :func:`read_checkpoint` does.
    """
    data = mapped(Path(path))
    readers = {"nvidia": read_nvidia_discriminator, "torch": read_rosinality_discriminator}
    reader = readers.get(_format(data))
    if reader is None:
        raise UnknownFormatError(
            f"{path}: this format has no readable discriminator",
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
    """Return the file's bytes, which the system reads on demand and frees with the last view."""
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
