"""Reads torch.save files without torch.load: the zip archive of torch 1.6 and later, and the older stream.

Both are a pickle that refers to storages outside itself. Our own interpreter reads the pickle. Tensors stay views into
the file until they are read, so the discriminator and the optimisers of a training file cost nothing.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

from ...errors import UnknownFormatError
from .content import BUILDABLE, Content, check_sum, stand_ins
from .reading import run_pickle
from .tensors import Storage, read_legacy, saved_class, storage_of
from .values import Load, Symbol, printable

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number at the start of the older format

_CHECKPOINTS = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors", ".npz")
_DIRECTORY = 4 << 20  # bytes of an archive's list of entries; enough for 40,000, and a training file has 2,000
_BROKEN_ZIP = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, struct.error)


def is_torch_file(data: memoryview) -> bool:
    """Return whether the content starts like either format; a zip archive may still hold something else."""
    return data[:4] == _ZIP or _LEGACY in bytes(data[:32])


def read_torch_file(data: memoryview, source: str) -> Content:
    """Return the content of a torch.save file, zip or older; ``source`` names it in messages. Executes nothing.

    Raises UnsafeFileError for a pickle with a hostile name, UnknownFormatError for other archives (TorchScript, data
    sets), CorruptFileError for a file that is damaged or contradicts itself.
    """
    load = Load.of(source, len(data))
    if data[:4] == _ZIP:
        return _read_zip(data, load)
    return Content(read_legacy(data, load, stand_ins(load), BUILDABLE), load, size=len(data))


# ---- the zip archive: <name>/data.pkl, <name>/data/<key>, <name>/byteorder ----


class MemoryStream:
    """Bytes in memory with the methods that zipfile needs of a file, without a copy of them."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: len(self.data)}[whence]
        if self.at < 0:
            raise ValueError("a position before the start")
        return self.at

    def read(self, size: int = -1) -> bytes:
        """Refuse a long list of entries: zipfile reads it at once and makes an object of each."""
        end = len(self.data) if size < 0 else min(self.at + size, len(self.data))
        if end - self.at > _DIRECTORY:
            raise ValueError(f"a list of entries of {end - self.at:,} bytes")
        taken = bytes(self.data[self.at : end])
        self.at += len(taken)
        return taken


def _read_zip(data: memoryview, load: Load) -> Content:
    root, entries = _entries(data, load)
    order = entries.get(f"{root}/byteorder")
    if order is not None and bytes(_content(data, order, load)[:16]).strip() != b"little":
        raise UnknownFormatError(f"{load.source}: its tensors are not stored little-endian")
    storages: dict[str, Storage] = {}
    checksums: dict[int, int] = {}

    def persistent(key: Any) -> Storage | Symbol:
        if found := saved_class(key):
            return found
        name, storage = storage_of(key, load, storages)
        if storage.data is not None:
            return storage
        entry = entries.get(f"{root}/data/{name}")
        if entry is None or entry.file_size != storage.nbytes:
            size = "missing" if entry is None else f"{entry.file_size:,} bytes"
            raise load.damaged(f"storage {printable(name)} of {storage.nbytes:,} bytes is {size} in the archive")
        storage.data = _content(data, entry, load)
        checksums[id(storage)] = entry.CRC
        return storage

    entry = entries[f"{root}/data.pkl"]
    pickled = _content(data, entry, load)
    check_sum(pickled, entry.CRC, "data.pkl", load)
    allowed = stand_ins(load)
    value, end = run_pickle(pickled, load=load, allowed=allowed, persistent=persistent, buildable=BUILDABLE)
    if end != len(pickled):
        raise load.damaged("data.pkl continues after its end")
    return Content(value, load, checksums, len(data))


def _entries(data: memoryview, load: Load) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """Return the name of the archive's only folder, and its entries by name, all of them uncompressed."""
    try:
        with zipfile.ZipFile(MemoryStream(data)) as archive:
            found = archive.infolist()
    except _BROKEN_ZIP as error:
        raise load.damaged(f"not a readable zip archive: {printable(str(error))}") from error
    entries = {entry.filename: entry for entry in found}
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1 or f"{roots[0]}/constants.pkl" in entries:
        shown = ", ".join(printable(name, 60) for name in list(entries)[:6])
        inside = next((name for name in entries if name.endswith(_CHECKPOINTS)), None)
        kind = "TorchScript, a program" if roots else "a zip archive, but not of torch.save"
        remedy = "Save a state dict with torch.save." if roots else "Give a checkpoint; a set of images goes to --data."
        if inside and not roots:
            remedy = f"Unzip it, and give {printable(inside, 60)}."
        raise UnknownFormatError(f"{load.source}: {kind}: {len(entries)} entries: {shown}", remedy)
    if len(entries) != len(found):
        raise load.damaged("entries of the archive share a name")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in found):
        raise load.damaged("entries of the archive are compressed or encrypted, which torch.save never does")
    if any(entry.compress_size != entry.file_size for entry in found):
        raise load.damaged("entries of the archive are stored and have two sizes")
    if sum(entry.file_size for entry in found) > len(data):
        raise load.damaged("the entries of the archive are larger than the file: they overlap")
    return roots[0], entries


def _content(data: memoryview, entry: zipfile.ZipInfo, load: Load) -> memoryview:
    """Return the bytes of a stored entry, after its local header with a name and an extra field of variable length."""
    header = data[entry.header_offset : entry.header_offset + 30]
    if len(header) != 30 or header[:4] != _ZIP:
        raise load.damaged("an entry of the archive has no header")
    start = entry.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
    if start + entry.file_size > len(data):
        raise load.damaged("an entry of the archive is cut off")
    return data[start : start + entry.file_size]
