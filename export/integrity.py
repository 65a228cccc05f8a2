"""A bundle's manifest: the sha256 of every file, and the check that nothing was altered, lost, added or smuggled in.

It tells damage and tampering from the bundle as it was made; who made it is told by comparing the bundle's own
identity, the sha256 of ``manifest.json``, with what its maker published. Needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import CorruptFileError, InputError, UnsafeFileError
from ..files import atomic_path, sha256_file, write_json

MANIFEST, SEAL = "manifest.json", "manifest.sha256"  # the seal is a line that sha256sum -c reads
ARCHIVE = ".tar.zst"
SCHEMA = 1
LARGEST_MANIFEST = 16_000_000  # bytes; ours have some kilobytes
LARGEST_ARCHIVE = 64 * 10**9  # bytes unpacked: no zip bomb fills a disk or a day
AGAIN = "make or fetch the bundle again"


def is_bundle(path: Path) -> bool:
    """Whether a path is taken for a bundle: any folder, and what is named like a packed one."""
    return path.is_dir() or path.name.endswith(ARCHIVE)


def seal(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write ``manifest.json``, ``facts`` and the size and sha256 of every file, and its seal; return the manifest."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(_walk(folder))
    }
    manifest = {"schema": SCHEMA, "kind": "dcp-deploy bundle", **facts, "files": files}
    write_json(folder / MANIFEST, manifest)
    with atomic_path(folder / SEAL) as temporary:
        temporary.write_text(f"{sha256_file(folder / MANIFEST)}  {MANIFEST}\n", encoding="ascii")
    return {**manifest, "sha256": sha256_file(folder / MANIFEST)}


def check_bundle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a bundle, a folder or a ``.tar.zst``, in which every file is as the manifest says.

    Its own sha256, the identity of the bundle, is added as ``sha256``.
    Needs no network and runs nothing. Raises CorruptFileError for a file that is altered, missing or not listed,
    UnsafeFileError for a path that leaves the bundle, a link or a special file, InputError when there is no bundle;
    each names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _check_folder(path)
    if path.is_file() and path.name.endswith(ARCHIVE):
        return _check_archive(path)
    raise InputError(f"there is no bundle {path}", f"give the folder or the {ARCHIVE} that dcp-deploy bundle made")


def _check_folder(folder: Path) -> dict[str, Any]:
    found = set(_walk(folder)) | {name for name in (MANIFEST, SEAL) if (folder / name).is_file()}
    for name in (MANIFEST, SEAL):
        if name not in found:
            raise InputError(f"{folder} has no {name}: it is no bundle, or not all of one", AGAIN)
    if (folder / MANIFEST).stat().st_size > LARGEST_MANIFEST:
        raise CorruptFileError(f"{MANIFEST} is larger than any manifest", AGAIN)
    manifest = _read_manifest((folder / MANIFEST).read_bytes(), (folder / SEAL).read_bytes())
    _same_names(found, manifest)
    for name, told in manifest["files"].items():
        _same(name, told, (folder / name).stat().st_size, lambda name=name: sha256_file(folder / name))
    return manifest


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Names of all files below a folder but the manifest and its seal. UnsafeFileError for what is no plain file."""
    for entry in sorted(os.scandir(folder / prefix), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(folder, f"{name}/")
        elif not stat.S_ISREG(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "a special file"
            raise UnsafeFileError(f"{name} in the bundle is {kind}; bundles hold plain files only", AGAIN)
        elif name not in (MANIFEST, SEAL):
            yield name


def _read_manifest(content: bytes, sealed: bytes) -> dict[str, Any]:
    """The manifest, after comparing it with its seal and every path and value in it with what we write."""
    match = re.fullmatch(rb"([0-9a-f]{64})  manifest\.json\n", sealed)
    if match is None:
        raise CorruptFileError(f"{SEAL} was altered: it is not one line of sha256sum", AGAIN)
    if hashlib.sha256(content).hexdigest() != match[1].decode():
        raise CorruptFileError(f"{MANIFEST} does not match {SEAL}: one of the two was altered", AGAIN)
    try:
        manifest = json.loads(content)
        files = manifest["files"]
        if manifest["schema"] != SCHEMA or manifest["kind"] != "dcp-deploy bundle" or not isinstance(files, dict):
            raise ValueError("it is of another kind or version")
        for name, told in files.items():
            safe_name(name)
            if set(told) != {"bytes", "sha256"} or not re.fullmatch("[0-9a-f]{64}", told["sha256"]):
                raise ValueError(f"its entry of {name} is not a size and a sha256")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{MANIFEST} is no manifest of a bundle: {error}", AGAIN) from error
    return {**manifest, "sha256": match[1].decode()}


def safe_name(name: str) -> str:
    """A name that stays within the bundle, unchanged. UnsafeFileError for any other."""
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and name.isprintable() and "\\" not in name
    if not plain or not parts or parts[0] == "/" or ".." in parts:
        raise UnsafeFileError(f"the bundle names {name!r}, a path that may lead out of it", AGAIN)
    return name


def _same_names(found: set[str], manifest: dict[str, Any]) -> None:
    listed = {*manifest["files"], MANIFEST, SEAL}
    if missing := sorted(listed - found):
        raise CorruptFileError(f"missing from the bundle: {', '.join(missing[:5])}", AGAIN)
    if extra := sorted(found - listed):
        raise CorruptFileError(f"in the bundle but not in its {MANIFEST}: {', '.join(extra[:5])}", AGAIN)


def _same(name: str, told: dict[str, Any], size: int, digest: Any) -> None:
    if size != told["bytes"]:
        raise CorruptFileError(f"{name} was altered: it has {size} bytes, not {told['bytes']}", AGAIN)
    if digest() != told["sha256"]:
        raise CorruptFileError(f"{name} was altered: its sha256 is not that of {MANIFEST}", AGAIN)


# ---- archives ----


def pack(folder: Path, archive: Path) -> None:
    """Write a sealed folder as ``.tar.zst``: the same folder gives the same bytes."""
    import zstandard

    names = (MANIFEST, SEAL, *sorted(_walk(folder)))  # these first, so that a reader can check the rest as it comes
    compressor = zstandard.ZstdCompressor(level=10, write_checksum=True)
    with (
        atomic_path(archive) as temporary,
        temporary.open("wb") as raw,
        compressor.stream_writer(raw, closefd=False) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in names:
            entry = tarfile.TarInfo(f"{folder.name}/{name}")
            entry.size, entry.mode = (folder / name).stat().st_size, 0o644
            with (folder / name).open("rb") as stream:
                tar.addfile(entry, stream)


def _check_archive(path: Path) -> dict[str, Any]:
    """Read the archive once, front to back, and write nothing."""
    manifest: dict[str, Any] | None = None
    heads: dict[str, bytes] = {}
    found: set[str] = set()
    with _members(path) as members:
        for name, size, stream in members:
            if name in found:
                raise UnsafeFileError(f"{name} is twice in {path.name}", AGAIN)
            found.add(name)
            if name in (MANIFEST, SEAL):
                if size > LARGEST_MANIFEST:
                    raise CorruptFileError(f"{name} is larger than any manifest", AGAIN)
                heads[name] = stream.read()
                continue
            if manifest is None:
                if set(heads) != {MANIFEST, SEAL}:
                    raise InputError(f"{path.name} does not begin with {MANIFEST} and {SEAL}: it is no bundle", AGAIN)
                manifest = _read_manifest(heads[MANIFEST], heads[SEAL])
            if name not in manifest["files"]:
                raise CorruptFileError(f"in the bundle but not in its {MANIFEST}: {name}", AGAIN)
            _same(name, manifest["files"][name], size, lambda stream=stream: _digest(stream))
    if manifest is None:
        raise InputError(f"{path.name} holds no files of a bundle", AGAIN)
    _same_names(found, manifest)
    return manifest


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """(name below the one top folder, size, content) of each file of an archive; errors of the format are ours."""
    import zstandard

    def plain(tar: tarfile.TarFile) -> Iterator[tuple[str, int, IO[bytes]]]:
        tops, total = set(), 0
        for entry in tar:
            top, _, name = entry.name.partition("/")
            tops.add(top)
            total += entry.size
            if total > LARGEST_ARCHIVE:
                raise UnsafeFileError(f"{path.name} unpacks to more than {LARGEST_ARCHIVE // 10**9} GB", AGAIN)
            stream = tar.extractfile(entry) if entry.isreg() else None
            if stream is None:
                raise UnsafeFileError(f"{entry.name} in {path.name} is no plain file; bundles hold nothing else", AGAIN)
            if len(tops) > 1 or top in ("", ".", ".."):
                raise UnsafeFileError(f"{entry.name!r} in {path.name} does not lie in the bundle's one folder", AGAIN)
            yield safe_name(name), entry.size, stream

    try:
        with (
            path.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as tar,
        ):
            yield plain(tar)
            while rest := unpacked.read(1 << 20):  # to the end, where the checksum of it all stands
                if rest.strip(b"\0"):
                    raise CorruptFileError(f"{path} has something after its end", AGAIN)
    except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
        raise CorruptFileError(f"{path} is damaged: {error}", AGAIN) from error


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


BYTES_PER_NUMBER = 32  # of JSON: -0.12345678901234567, a comma, spaces


BODY_FLOOR = 1 << 16  # names, shapes and braces


def largest_request(manifest: Mapping[str, Any]) -> int:
    """Bytes that the largest batch of a bundle's hungriest model needs, written as JSON."""
    needs = [
        model["max_batch"] * sum(math.prod(dims) for dims in model["inputs"].values()) * BYTES_PER_NUMBER
        for model in manifest["models"].values()
    ]
    return BODY_FLOOR + max(needs, default=0)
