"""A reader of LMDB files without the LMDB library: the keys, and the position of each value.

The library maps the file into memory, so an incomplete copy kills the process with SIGBUS (seen with lmdb 3.0). This
reader reads and checks each page by its number, so damage is an error. It reads format version 1 of 64-bit machines:
https://github.com/LMDB/lmdb (lmdb.h, and the comments of mdb.c).
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import CorruptFileError

_MAGIC = struct.pack("<II", 0xBEEFC0DE, 1)  # the second number is the version of the format
_HEADER = 16  # bytes of a page header: number, padding, flags, then bounds of the free space or count of pages
_META_BYTES = 152
_BRANCH, _LEAF = 0x01, 0x02
_BIG, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = 2**64 - 1  # the root of an empty tree


class _Meta(NamedTuple):
    """Content of one of the two meta pages; the one with the later transaction is valid."""

    transaction: int
    page_size: int
    pages: int
    entries: int
    root: int


def is_lmdb(path: Path) -> bool:
    """Whether the file begins like an LMDB file."""
    with path.open("rb") as stream:
        return stream.read(_HEADER + 8)[_HEADER:] == _MAGIC


class LmdbFile:
    """An open LMDB file without sub-databases. Threads may share it. It does not lock out writers.

    Every method that reads raises CorruptFileError if the file is damaged or incomplete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self.bytes = os.fstat(self._file).st_size
        self._meta = self._read_meta()

    @property
    def state(self) -> tuple[int, ...]:
        """Numbers that change with every transaction; reading them does not read the values."""
        return (*self._meta, self.bytes)

    def entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield each key in order, with the position and size of its value in the file, in bytes."""
        found = 0
        waiting = [] if self._meta.root == _NO_PAGE else [self._meta.root]
        pages = min(self._meta.pages, self.bytes // self._meta.page_size)  # so that a tree with a cycle ends
        for _ in range(pages):
            if not waiting or found > self._meta.entries:
                break
            number = waiting.pop()
            page = self._page(number)
            (flags,) = struct.unpack_from("<H", page, 10)
            if flags & _LEAF:
                for entry in self._leaf(number, page):
                    found += 1
                    yield entry
            elif flags & _BRANCH:
                nodes = self._nodes(number, page)
                waiting += reversed([low | high << 16 | flags << 32 for _, low, high, flags, _ in nodes])
            else:
                raise self._damaged(f"page {number} is neither a branch nor a leaf")
        if waiting or found != self._meta.entries:
            raise self._damaged(f"its tree does not hold the {self._meta.entries} entries that its meta page promises")

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``."""
        content = os.pread(self._file, size, offset)
        if len(content) != size:
            raise self._damaged(f"it ends {offset + size - self.bytes} bytes too early")
        return content

    def _read_meta(self) -> _Meta:
        first = self._meta_at(0)
        if first is None or first.page_size not in [1 << shift for shift in range(8, 17)]:
            raise self._damaged("its first page is not an LMDB meta page")
        second = self._meta_at(first.page_size)
        if second is None:  # the first page alone may be outdated
            raise self._damaged("its second page is not an LMDB meta page")
        return max(first, second)._replace(page_size=first.page_size)

    def _meta_at(self, offset: int) -> _Meta | None:
        page = os.pread(self._file, _META_BYTES, offset)
        if len(page) < _META_BYTES or page[_HEADER : _HEADER + 8] != _MAGIC:
            return None
        (page_size,) = struct.unpack_from("<I", page, 40)  # stored in the padding of the list of free pages
        entries, root, last, transaction = struct.unpack_from("<4Q", page, 120)
        return _Meta(transaction, page_size, last + 1, entries, root)

    def _page(self, number: int) -> bytes:
        if not 1 < number < self._meta.pages:
            raise self._damaged(f"its tree leads to page {number} of {self._meta.pages}")
        page = self.read(number * self._meta.page_size, self._meta.page_size)
        if struct.unpack_from("<Q", page) != (number,):
            raise self._damaged(f"page {number} has another number")
        return page

    def _nodes(self, number: int, page: bytes) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield the offset in the page, two halves of a number, flags and key length of every node."""
        lower, upper = struct.unpack_from("<HH", page, 12)
        if not _HEADER <= lower <= upper <= len(page):
            raise self._damaged(f"page {number} has inconsistent bounds")
        for offset in struct.unpack_from(f"<{(lower - _HEADER) // 2}H", page, _HEADER):
            if not upper <= offset <= len(page) - 8:
                raise self._damaged(f"page {number} has inconsistent bounds")
            low, high, flags, key_size = struct.unpack_from("<HHHH", page, offset)
            if offset + 8 + key_size > len(page):
                raise self._damaged(f"a key of page {number} does not fit into it")
            yield offset, low, high, flags, key_size

    def _leaf(self, number: int, page: bytes) -> Iterator[tuple[bytes, int, int]]:
        page_size = self._meta.page_size
        for offset, low, high, flags, key_size in self._nodes(number, page):
            start = offset + 8 + key_size
            key, size = page[offset + 8 : start], low | high << 16
            if flags & (_SUB_DATABASE | _DUPLICATES):
                raise CorruptFileError(f"{self.path} holds several values per key, so it is not a set of images")
            if flags & _BIG:
                if start + 8 > len(page):
                    raise self._damaged(f"page {number} has inconsistent bounds")
                (first,) = struct.unpack_from("<Q", page, start)
                at = first * page_size + _HEADER
                within = self.bytes
            else:
                at = number * page_size + start
                within = (number + 1) * page_size
            if at + size > within:
                raise self._damaged(f"the value of {key[:40]!r} lies beyond its end")
            yield key, at, size

    def _damaged(self, reason: str) -> CorruptFileError:
        return CorruptFileError(f"{self.path} is not a complete LMDB file: {reason}", "Copy or make it again.")
