"""The one form of a packed bundle: a plain ustar archive in one zstd frame, written and read strictly.

Unpackers disagree about everything else: damaged headers, long names, links, sparse files, and data behind the end.
So the reader rebuilds each header from its name and size, and compares all bytes of the tar with what
:func:`write_archive` writes. The compressed bytes may differ, for versions of zstd compress differently. One frame
without a dictionary unpacks to the same bytes everywhere.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import CorruptFileError, UnsafeFileError, UsageError

AGAIN = "Make or fetch the bundle again."
TO_A_FOLDER = "Use shorter names, or make a folder instead of an archive."
BLOCK, RECORD = 512, 10240  # bytes

# Bounds on memory and time: about 20 MB, and one second for 100 MB of archive on one core.
LARGEST_WINDOW = 1 << 23  # bytes that unpacking keeps; every decoder should support it (RFC 8878, 3.1.1.1.2)
LARGEST_ZSTD_BLOCK = 1 << 17  # bytes (RFC 8878, 3.1.1.2.4)
SMALL = 256_000_000  # bytes of content that an archive of any size may have
MOST_EXPANSION = 5  # bytes of content for each packed byte beyond that; trained weights shrink by a tenth
SMALLEST_MEAN = 1024  # packed bytes of a zstd block in an archive of more than SMALL bytes; usual are 100 kB

PLAIN_FILE = b"0"

# Of a ustar header: the first byte of each field.
_FIELDS = {
    0: "name", 100: "mode", 108: "uid", 116: "gid", 124: "size", 136: "time", 148: "checksum", 156: "type",
    157: "link", 257: "magic", 263: "version", 265: "user", 297: "group", 329: "device", 345: "prefix", 500: "padding",
}  # fmt: skip

Entry = tuple[str, int, IO[bytes]]  # name, bytes, content, which is readable until the next entry


class _Unpacked(Protocol):
    def readinto(self, buffer: memoryview, /) -> int: ...


def write_archive(folder: Path, names: Iterable[str], archive: Path) -> None:
    """Write these files of a folder below its name. The same files give the same bytes.

    Raises UsageError for a name or a size that plain ustar cannot hold.
    """
    import zstandard

    compressor = zstandard.ZstdCompressor(level=10, write_checksum=True)
    with archive.open("wb") as raw, compressor.stream_writer(raw, closefd=False) as packed:
        position = 0
        for name in names:
            path = f"{folder.name}/{name}"
            with (folder / name).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                try:
                    packed.write(_header(path.encode(), size))
                except ValueError as error:
                    raise UsageError(f"{path!r} does not fit into an archive: {error}", TO_A_FOLDER) from error
                shutil.copyfileobj(stream, packed)
                packed.write(bytes(-size % BLOCK))
            position += BLOCK + size + -size % BLOCK
        packed.write(bytes(_end(position)))


@contextmanager
def read_archive(path: Path, name: str) -> Iterator[Iterator[Entry]]:
    """Read an archive once, front to back; write nothing. All bytes are checked when the entries are exhausted.

    ``name`` stands for the archive in messages, which say at which byte the fault is. Raises UnsafeFileError for an
    entry that is not a plain file and for content that expands too much, and CorruptFileError for all else that
    :func:`write_archive` does not write.
    """
    import zstandard

    with path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        tar = None
        try:
            _check_frame(raw, name, size)
            raw.seek(0)
            with zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).stream_reader(raw, closefd=False) as stream:
                tar = _Tar(stream, name, MOST_EXPANSION * size + SMALL)
                yield tar.entries()
        except zstandard.ZstdError as error:
            where = f"after byte {tar.position} of its tar" if tar else "in its first bytes"
            raise CorruptFileError(f"{name} is damaged {where}: {error}", AGAIN) from error


# ---- zstd ----


def _check_frame(raw: IO[bytes], name: str, size: int) -> None:
    """Check that a file of ``size`` bytes is one zstd frame (RFC 8878, 3.1.1), without unpacking its blocks."""
    import zstandard

    head = raw.read(18)  # the longest frame header
    if head[:4] != zstandard.FRAME_HEADER:
        raise CorruptFileError(f"{name} does not begin with a zstd frame, at byte 0", AGAIN)
    frame = zstandard.get_frame_parameters(head)
    if frame.dict_id or frame.window_size > LARGEST_WINDOW:
        what = "a dictionary" if frame.dict_id else f"a window of {frame.window_size} bytes"
        raise UnsafeFileError(f"{name} needs {what} to be unpacked, at byte 4; bundles do not", AGAIN)
    place, last, left = zstandard.frame_header_size(head), 0, SMALL // LARGEST_ZSTD_BLOCK + size // SMALLEST_MEAN
    while not last:
        raw.seek(place)
        if len(block := raw.read(3)) < 3:
            raise CorruptFileError(f"{name} is cut off at byte {size}", AGAIN)
        value = int.from_bytes(block, "little")
        last, kind, length = value & 1, value >> 1 & 3, value >> 3
        if kind == 3 or length > LARGEST_ZSTD_BLOCK:
            raise CorruptFileError(f"{name} is damaged: no zstd block at byte {place}", AGAIN)
        if (left := left - 1) < 0:
            raise UnsafeFileError(f"{name} has too many small zstd blocks, up to byte {place}", AGAIN)
        place += 3 + (1 if kind == 1 else length)  # kind 1: one byte that is repeated
    place += 4 * frame.has_checksum
    if place < size:
        raise CorruptFileError(f"{name} has something after its end, at byte {place}", AGAIN)
    if place > size:
        raise CorruptFileError(f"{name} is cut off at byte {size}", AGAIN)


# ---- tar ----


def _header(path: bytes, size: int) -> bytes:
    """Return the header of a plain file (POSIX.1-1988, ustar). Owner, group and time are 0, so that archives compare.

    Raises ValueError if the name or the size does not fit.
    """
    cut = path.find(b"/", len(path) - 101) if len(path) > 100 else 0  # the earliest that leaves 100 bytes for the name
    prefix, name = (path[:cut], path[cut + 1 :]) if cut else (b"", path)
    if cut < 0 or len(prefix) > 155:
        raise ValueError("its name is too long")
    if size >= 8**11:
        raise ValueError("it has 8 GiB or more")
    zero, blank = b"0000000", b" " * 8
    numbers = (b"0000644", zero, zero, b"%011o" % size, b"%011o" % 0)
    header = struct.pack(
        "100s8s8s8s12s12s8sc100s8s80s155s12x", name, *numbers, blank, PLAIN_FILE, b"", b"ustar\x0000", b"", prefix
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _end(position: int) -> int:
    """Return the number of zero bytes that end a tar: two blocks, and what the record still needs."""
    return 2 * BLOCK + -(position + 2 * BLOCK) % RECORD


class _Tar(io.RawIOBase):
    """A tar that is read front to back. As a stream it is the content of the latest entry."""

    def __init__(self, unpacked: _Unpacked, archive: str, most: int) -> None:
        self.position = 0  # bytes read of the tar
        self._unpacked, self._archive, self._most = unpacked, archive, most
        self._left = 0  # bytes that may be read of the entry

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")[: self._left]
        count = self._unpacked.readinto(view) if view else 0
        if view and not count:
            raise CorruptFileError(f"{self._archive} is cut off: its tar ends at byte {self.position}", AGAIN)
        self._left -= count
        self.position += count
        return count

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, then check that the tar ends as tarfile ends it, with zeros to a whole record."""
        while any(header := self._take(BLOCK)):
            name, size = self._parse(header)
            self._allow(size)
            yield name, size, self  # type: ignore[misc]  # RawIOBase is an IO[bytes] in all but name
            self._zeros(-size % BLOCK, f"after {name}")
        self._zeros(_end(self.position - BLOCK) - BLOCK, "at the end")
        if self._unpacked.readinto(memoryview(bytearray(1))):  # also reads the checksum of the frame
            raise CorruptFileError(
                f"{self._archive} has something after its end, at byte {self.position} of its tar", AGAIN
            )

    def _allow(self, size: int) -> None:
        self._left = size
        if self.position + size > self._most:
            raise UnsafeFileError(
                f"{self._archive} unpacks to more than {self._most} bytes, at byte {self.position} of its tar; "
                "no trained network does",
                AGAIN,
            )

    def _take(self, size: int) -> bytes:
        self._allow(size)
        return self.readall()

    def _zeros(self, size: int, where: str) -> None:
        start = self.position
        content = self._take(size)
        if rest := content.lstrip(b"\0"):
            place = start + size - len(rest)
            raise CorruptFileError(f"{self._archive} has something {where}, at byte {place} of its tar", AGAIN)

    def _parse(self, header: bytes) -> tuple[str, int]:
        """Return the name and size of an entry, if its header is the one that :func:`write_archive` writes for them."""
        at = f"at byte {self.position - BLOCK} of the tar in {self._archive}"
        name, prefix = (header[start:stop].partition(b"\0")[0] for start, stop in ((0, 100), (345, 500)))
        path = prefix + b"/" * bool(prefix) + name
        if header[156:157] != PLAIN_FILE:
            raise UnsafeFileError(
                f"{path!r} {at} has type {header[156:157]!r}: it is not a plain file, and bundles hold no others",
                AGAIN,
            )
        try:
            text, size = path.decode(), int(header[124:135], 8)
            expected = _header(path, max(size, 0))
        except ValueError as error:
            raise CorruptFileError(f"the header {at} is damaged: {error}", AGAIN) from error
        if header != expected:
            others = (place for place in range(BLOCK) if header[place] != expected[place])
            wrong = min(others, key=lambda place: (148 <= place < 156, place))  # the checksum last: it follows the rest
            field = list(_FIELDS.values())[bisect(list(_FIELDS), wrong) - 1]
            raise CorruptFileError(
                f"the header of {text!a} {at} has another {field} than bundles have, at its byte {wrong}", AGAIN
            )
        return text, size
