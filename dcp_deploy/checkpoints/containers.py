"""Files as bytes, and the container that they are, known by content alone."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Literal

from ..errors import CorruptFileError, InputError
from ..files import is_run_directory
from .pickles.torch_file import is_torch_file

Format = Literal["safetensors", "npz", "pickle", "torch", "other"]


def sniff(path: str | os.PathLike[str]) -> Format:
    """Return the container that the content looks like, without decoding it. The name of the file does not matter.

    "torch" is a torch.save file, zip or older; everything that is not a container of networks is "other".
    Raises InputError if the file does not exist or cannot be read, CorruptFileError if it is empty.
    """
    return format_of(mapped(Path(path)))


def format_of(data: memoryview) -> Format:
    """Return the container that these bytes look like."""
    head = bytes(data[:64])
    if len(head) > 8 and int.from_bytes(head[:8], "little") < 1 << 32 and head[8:9] == b"{":
        return "safetensors"
    if head[:4] == b"PK\x03\x04":  # the length of the first entry's name, and the name
        name = bytes(data[30 : 30 + int.from_bytes(head[26:28], "little")])
        return "npz" if name.endswith(b".npy") else "torch"
    if is_torch_file(data):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return "other"


def mapped(path: Path) -> memoryview:
    """Return the file's bytes, which the system reads on demand and frees with the last view."""
    if not path.is_file():
        if is_run_directory(path):
            raise InputError(
                f"{path}: a run directory of build, not a file", f"Give {path / 'student.safetensors'}, for example."
            )
        if (path / "manifest.json").is_file():
            raise InputError(f"{path}: a bundle, not a checkpoint", "Give the checkpoint that it was made from.")
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}", "Check the path given.")
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise CorruptFileError(
                    f"{path}: the file is empty", "Copy or fetch it again: it seems to have been cut short."
                )
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "Check the path given.") from error
