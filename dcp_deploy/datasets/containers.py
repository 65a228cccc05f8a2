"""Containers of encoded images: folders, zip files and LMDBs. They list names and sizes and read bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..errors import CorruptFileError, InputError, UnknownFormatError, UsageError
from ..sizes import pixels
from .decoding import SUFFIXES, Resize, UnusableImageError
from .lmdb_file import LmdbFile, is_lmdb

LABELS = "dataset.json"
MAX_BYTES = 2**27  # limit of an encoded image and of the labels; ImageNet's largest: 15 MB and 60 MB
_SIZED_KEY = re.compile(r"([1-9]\d{0,5})-(\d{5,12})")
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


class Container(Protocol):
    """Encoded images in a fixed order. ``sizes`` are bytes; ``ignored`` counts the files that are not images."""

    kind: str
    ignored: int
    fingerprint: str

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def sizes(self) -> Sequence[int]: ...

    def read(self, index: int) -> bytes:
        """Return one encoded image. Raises UnusableImageError for damaged bytes, OSError if the disk fails."""

    def labels(self) -> bytes | None:
        """Return the content of ``dataset.json``, or None if the file is missing."""


def open_container(path: Path, *, size: tuple[int, int] | None = None, resize: Resize = "error") -> Container:
    """Recognise the container at ``path`` by its content and list its images.

    An LMDB may hold several sizes: ``size`` (height, width) and ``resize`` choose one. Without ``size`` an LMDB lists
    no images and only has a fingerprint. Raises InputError (missing, unreadable), UnknownFormatError, CorruptFileError.
    """
    try:
        if path.is_dir():
            data = path / "data.mdb"
            return LmdbImages(data, size, resize) if data.is_file() else FolderImages(path)
        with path.open("rb") as stream:
            start = stream.read(4)
        if start in _ZIP_STARTS or zipfile.is_zipfile(path):
            return ZipImages(path)
        if is_lmdb(path):
            return LmdbImages(path, size, resize)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "Check the path given to --data.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    raise UnknownFormatError(
        f"{path} is not a set of images",
        "Give a folder, a zip file or an LMDB of images. Convert TFRecords with the tool that made them.",
    )


class FolderImages:
    """Image files in a folder and its subfolders, sorted by path. Links are followed; each folder is read once."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ignored = 0
        found: dict[str, os.stat_result] = {}
        for name, status in self._files():
            if _is_image(name):
                found[name] = status
            elif name != LABELS:
                self.ignored += 1
        if not found and any(path.glob("*.tfrecords")):
            raise UnknownFormatError(f"{path} holds TFRecords", "Convert them with the tool that made them.")
        self.names = sorted(found)
        self.sizes = [found[name].st_size for name in self.names]
        facts = (f"{name}\0{found[name].st_size}\0{found[name].st_mtime_ns}" for name in self.names)
        self.fingerprint = _fingerprint(facts, self.labels())

    def read(self, index: int) -> bytes:
        return (self.path / self.names[index]).read_bytes()

    def labels(self) -> bytes | None:
        path = self.path / LABELS
        if not path.is_file():
            return None
        _check_labels_size(path.stat().st_size, path)
        return path.read_bytes()

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield relative path (with slashes) and status of every regular file."""
        seen: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            folder = self.path / prefix
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was read
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir():
                            waiting.append(f"{prefix}{entry.name}/")
                        elif entry.is_file():
                            yield f"{prefix}{entry.name}", entry.stat()
                        else:  # a broken link, a pipe
                            self.ignored += 1
                    except OSError:  # a link to itself
                        self.ignored += 1


class ZipImages:
    """Images of any zip file, sorted by path; NVIDIA's tools write such files."""

    kind = "zip"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)  # closes itself
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise CorruptFileError(
                f"{path} is not a complete zip file: {error}", "Copy or download it again."
            ) from error
        files = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self.names = sorted(filter(_is_image, files))
        for name in self.names:
            if PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name):
                raise CorruptFileError(f"{path} contains {name!r}, a path outside of it", "Make the zip file again.")
        self._files = files
        self.sizes = [files[name].file_size for name in self.names]
        self.ignored = len(files) - len(self.names) - (LABELS in files)
        listed = [*self.names, *([LABELS] if LABELS in files else [])]
        self.fingerprint = _fingerprint(f"{name}\0{files[name].file_size}\0{files[name].CRC}" for name in listed)

    def read(self, index: int) -> bytes:
        return self._content(self.names[index])

    def labels(self) -> bytes | None:
        if LABELS not in self._files:
            return None
        _check_labels_size(self._files[LABELS].file_size, self.path / LABELS)
        try:
            return self._content(LABELS)
        except UnusableImageError as error:
            raise CorruptFileError(f"{self.path}: {LABELS} is damaged: {error}") from error

    def _content(self, name: str) -> bytes:
        """Read at most the size that the zip directory states and the caller has checked: a zip bomb stays small."""
        info = self._files[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may expand without a limit
            raise UnusableImageError(f"uses compression {info.compress_type}; only stored and deflated files are read")
        try:
            with self._zip.open(info) as stream:
                return stream.read(info.file_size)
        except MemoryError:
            raise
        except OSError as error:
            if error.errno != errno.EINVAL:  # the disk failed
                raise
            raise UnusableImageError("lies outside the zip file") from error
        except Exception as error:  # damage raises many types: zlib.error, BadZipFile, EOFError, RuntimeError
            raise UnusableImageError(str(error) or type(error).__name__) from error


class LmdbImages:
    """Images of an LMDB: rosinality's (keys "{size}-{index:05d}" and "length") or LSUN's (any keys)."""

    def __init__(self, path: Path, wanted: tuple[int, int] | None, resize: Resize) -> None:
        self._file = LmdbFile(path)
        self.kind, self.ignored = "lmdb", 0
        self.names: list[str] = []
        self.sizes, self._offsets = array("Q"), array("Q")  # LSUN's sets have millions of images
        self.fingerprint = _fingerprint([repr((self._file.state, path.stat().st_mtime_ns))])
        if wanted is None:
            return
        for key, offset, size in self._file.entries():
            self.names.append(key.decode("utf-8", "backslashreplace"))
            self._offsets.append(offset)
            self.sizes.append(size)
        if "length" in self.names:
            self._keep_one_size(wanted, resize)
        else:
            self.kind = "lsun lmdb"

    def read(self, index: int) -> bytes:
        return self._file.read(self._offsets[index], self.sizes[index])

    def labels(self) -> bytes | None:
        return None

    def _keep_one_size(self, wanted: tuple[int, int], resize: Resize) -> None:
        by_size: dict[int, dict[int, int]] = {}  # pixels -> number of the image -> position in the lists
        for place, name in enumerate(self.names):
            if match := _SIZED_KEY.fullmatch(name):
                by_size.setdefault(int(match[1]), {})[int(match[2])] = place
        size, count = self._choose(sorted(by_size), wanted, resize), self._length()
        chosen = [place for number, place in sorted(by_size[size].items()) if number < count]
        if len(chosen) < 0.99 * count:
            raise CorruptFileError(
                f"{self._file.path} promises {count} images and holds {len(chosen)} of {size} px", "Make it again."
            )
        self.kind = f"lmdb, {size} px"
        self.ignored = len(self.names) - 1 - sum(map(len, by_size.values()))
        self.names = [self.names[place] for place in chosen]
        self._offsets = array("Q", (self._offsets[place] for place in chosen))
        self.sizes = array("Q", (self.sizes[place] for place in chosen))

    def _choose(self, sizes: Sequence[int], wanted: tuple[int, int], resize: Resize) -> int:
        """Return the side of squares that fit: the generator's; with "crop", the smallest that it can be cut from."""
        least = max(wanted)
        fitting = [size for size in sizes if (size, size) == wanted or (resize == "crop" and size >= least)]
        if fitting:
            return fitting[0]
        held = f"images of {', '.join(map(str, sizes))} px" if sizes else "no images"
        larger = " --resize crop scales the larger ones down." if sizes and sizes[-1] > least else ""
        square = wanted == (least, least)
        prepare = f"Prepare the LMDB with {least} px." if square else "Give a folder or a zip file of rectangles."
        raise UsageError(
            f"{self._file.path} holds {held}, and the generator makes {pixels(wanted)}", f"{prepare}{larger}"
        )

    def _length(self) -> int:
        place = self.names.index("length")
        text = self._file.read(self._offsets[place], min(self.sizes[place], 20))
        if not re.fullmatch(rb"\d{1,12}", text):
            raise CorruptFileError(f"{self._file.path}: the length {text!r} is not a number", "Make it again.")
        return int(text)


def _is_image(name: str) -> bool:
    """Whether the suffix is that of an image. Hidden files and macOS's copies in __MACOSX do not count."""
    path = PurePosixPath(name.replace("\\", "/"))
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _check_labels_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise CorruptFileError(
            f"{path} has {size:,} bytes, more than labels need", f"Give at most {MAX_BYTES:,} bytes."
        )


def _fingerprint(facts: Iterable[str], content: bytes | None = None) -> str:
    """Return the hex sha256 of lines and of a file's content."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.encode("utf-8", "surrogateescape") + b"\n")
    digest.update(content or b"")
    return digest.hexdigest()
