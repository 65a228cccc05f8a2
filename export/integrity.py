"""A bundle's manifest: its form, the sha256 of every file, and the check that no file was altered, lost or added.

The check detects damage and tampering after the bundle was made. To know who made it, compare the bundle's identity,
the sha256 of ``manifest.json``, with the one that its maker published. Needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..errors import CorruptFileError, InputError, UnsafeFileError, UsageError
from ..files import atomic_path, is_run_directory, sha256_file, write_json, write_text
from .archive import AGAIN, TO_A_FOLDER, Entry, read_archive, write_archive

MANIFEST, SEAL = "manifest.json", "manifest.sha256"  # the seal is a line that sha256sum -c reads
ARCHIVE = ".tar.zst"
BUNDLE, WEB_PAGE = "dcp-deploy bundle", "dcp-deploy web page"  # kinds of manifests
SCHEMA = 1
DEEPEST = 16  # folders in folders; ours are three deep
LARGEST_MANIFEST = 1_000_000  # bytes, enough for 9,000 files; ours have some kilobytes

File = Entry  # whose name is below the bundle

# ---- the form of the manifest, which the schema of ``bundle verify`` publishes; later versions may add fields ----

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Size = Annotated[int, Field(ge=-1, lt=2**31)]


class Record(BaseModel):
    """Base of the records below: no value is converted, and fields that are not described are kept."""

    model_config = ConfigDict(
        extra="allow", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class OldestRuntimes(Record):
    """Releases, such as "1.13" and "23.04"."""

    onnxruntime: str
    triton: str | None
    """null if no Triton is documented to have such an ONNX Runtime."""


class ServedModel(Record):
    """One model that Triton serves."""

    onnx: str
    """Its file in the bundle."""
    max_batch: int = Field(ge=1, lt=2**31)
    """Largest batch that the server accepts."""
    inputs: dict[str, list[_Size]]
    """Dimensions of each input, without the batch."""
    output: dict[str, list[_Size]]
    variants: list[str]
    """Backends that the bundle has a configuration for."""
    parity: dict[str, JsonValue]
    """How far its images are from the reference's."""
    ir_version: int | None = None
    """IR version of the ONNX file; null in bundles of earlier versions, like the next two."""
    opset: int | None = None
    oldest: OldestRuntimes | None = None
    """The oldest releases that open the file; null if it is newer than any known."""


class BundledDirection(Record):
    """A direction along which ``edit`` moves w."""

    layers: list[int] = Field(min_length=2, max_length=2)
    """First and last slot of ws that it moves."""
    sigma: float


class BundledEngine(Record):
    """A TensorRT engine, and the fields of its own manifest."""

    file: str


class MeasuredSplit(Record):
    """Copies of the generator with this many threads each."""

    instances: int = Field(ge=1)
    threads: int = Field(ge=1)


class MeasuredSizing(Record):
    """How many copies generated the most images per second when measured."""

    best: MeasuredSplit


class BrowserModel(Record):
    """The network of a page."""

    onnx: str
    """Its file in the folder."""
    inputs: dict[str, list[_Size]]
    """Dimensions of each input, without the batch: z, psi, c of conditional networks, strengths of directions."""
    output: dict[str, list[_Size]]
    parity: dict[str, JsonValue]
    """How far its images are from the reference's, and the tolerance that the page checks its own images with."""


class SealedFile(Record):
    """Size and hash of a file."""

    bytes: int = Field(ge=0, lt=2**63)
    sha256: Sha256


class Manifest(Record):
    """``manifest.json``."""

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["dcp-deploy bundle"]
    name: str
    tool: str
    models: dict[str, ServedModel]
    directions: dict[str, BundledDirection]
    engines: list[BundledEngine]
    sizing: MeasuredSizing
    provenance: dict[str, JsonValue]
    files: dict[str, SealedFile]


class WebManifest(Record):
    """``manifest.json`` of a page for browsers. The page reads it, too."""

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["dcp-deploy web page"]
    name: str
    tool: str
    model: BrowserModel
    directions: dict[str, BundledDirection]
    runtime: str
    """Package and version of what runs the model."""
    provenance: dict[str, JsonValue]
    files: dict[str, SealedFile]


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return the fields of ``manifest.json``. Raises ValueError that names the field for anything but a manifest."""
    values = _values(content)
    web = isinstance(values, dict) and values.get("kind") == WEB_PAGE
    return _checked(values, WebManifest if web else Manifest)


def parse_record(content: bytes, record: type[Record]) -> dict[str, Any]:
    """Return the fields of a record in JSON. Raises ValueError that names the field for anything else."""
    return _checked(_values(content), record)


def _values(content: bytes) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _checked(values: Any, record: type[Record]) -> dict[str, Any]:
    try:
        record.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    found: dict[str, Any] = values
    return found


def first_problem(error: ValidationError) -> str:
    """Return the first field that is wrong and why, on one line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the document'}: {first['msg']}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields. ValueError for a field that is there twice, or a number that is not finite."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"{twice}: it is there twice")
    for name, value in pairs:
        if any(isinstance(number, float) and not math.isfinite(number) for number in _numbers(value)):
            raise ValueError(f"{name}: it is not a finite number")
    return values


def _numbers(value: Any) -> list[Any]:
    """Return the value, or the entries of a list and of the lists in it; objects have been looked at before."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        else:
            found.append(one)
    return found


# ---- sealing and checking ----


def is_bundle(path: Path) -> bool:
    """Return whether a path is treated as a bundle: any folder, and any file named like a packed one."""
    return path.is_dir() or path.name.endswith(ARCHIVE)


def seal(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write and return ``manifest.json``: ``facts`` and the size and sha256 of every file. Write its seal too.

    The kind is a bundle unless ``facts`` name another one.
    """
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(_walk(folder))
    }
    manifest = {"schema": SCHEMA, "kind": BUNDLE, **facts, "files": files}
    write_json(folder / MANIFEST, manifest)
    digest = sha256_file(folder / MANIFEST)
    write_text(folder / SEAL, f"{digest}  {MANIFEST}\n")
    return {**manifest, "sha256": digest}


def check_served(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check a bundle as :func:`check_bundle` does. UsageError for a page for browsers, which no program can run."""
    manifest = check_bundle(path)
    if manifest["kind"] == WEB_PAGE:
        raise UsageError(
            f"{path} is a page for browsers",
            "Use the run or the ONNX file that it was made from, or show the page: dcp-deploy serve FOLDER",
        )
    return manifest


def check_bundle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Compare every file of a bundle, a folder or a ``.tar.zst``, with its manifest, and return the manifest.

    The manifest's own sha256, the identity of the bundle, is added as ``sha256``. The check needs no network and runs
    nothing from the bundle. Raises CorruptFileError for a file that is altered, missing or not listed, UnsafeFileError
    for a path that leads out of the bundle, a link or a special file, InputError without a bundle; each names the
    file.
    """
    path = Path(path)
    if is_run_directory(path):
        raise InputError(
            f"{path} is a run directory of build, not a bundle",
            f"Give a file in it, such as {path / 'student.onnx'}, or pack it: dcp-deploy bundle {path} -o NAME",
        )
    if path.is_dir():
        return _check(str(path), _folder_files(path))
    if path.is_file() and path.name.endswith(ARCHIVE):
        with read_archive(path, path.name) as entries:
            return _check(str(path), _archive_files(path.name, entries))
    what = "is not a bundle" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}", f"Give the folder or the {ARCHIVE} that dcp-deploy bundle made.")


def _check(bundle: str, files: Iterator[File]) -> dict[str, Any]:
    """Read the files once, the manifest and its seal first."""
    heads: dict[str, bytes] = {}
    while len(heads) < 2 and (file := next(files, None)) is not None and file[0] in {MANIFEST, SEAL} - set(heads):
        name, size, stream = file
        if size > LARGEST_MANIFEST:
            raise CorruptFileError(f"{name} is larger than any manifest", AGAIN)
        heads[name] = stream.read()
    if absent := [name for name in (MANIFEST, SEAL) if name not in heads]:
        names = " and ".join(absent)
        raise InputError(f"{bundle} has no {names} before its other files: it is not a whole bundle", AGAIN)
    manifest = _read_manifest(heads[MANIFEST], heads[SEAL])
    found = set(heads)
    for name, size, stream in files:
        found.add(name)
        if (recorded := manifest["files"].get(name)) is None:
            raise CorruptFileError(f"in the bundle but not in its {MANIFEST}: {name}", AGAIN)
        if size != recorded["bytes"]:
            raise CorruptFileError(f"{name} was altered: it has {size} bytes, not {recorded['bytes']}", AGAIN)
        if hashlib.file_digest(stream, "sha256").hexdigest() != recorded["sha256"]:  # type: ignore[arg-type]
            raise CorruptFileError(f"{name} was altered: its sha256 is not the one in {MANIFEST}", AGAIN)
    if missing := sorted(set(manifest["files"]) - found):
        raise CorruptFileError(f"missing from the bundle: {', '.join(missing[:5])}", AGAIN)
    return manifest


def _read_manifest(content: bytes, sealed: bytes) -> dict[str, Any]:
    """Return the manifest, after comparing it with its seal and checking the form of every path and value in it."""
    match = re.fullmatch(rb"([0-9a-f]{64})  manifest\.json\n", sealed)
    if match is None:
        raise CorruptFileError(f"{SEAL} was altered: it is not one line of sha256sum", AGAIN)
    if hashlib.sha256(content).hexdigest() != match[1].decode():
        raise CorruptFileError(f"{MANIFEST} does not match {SEAL}: one of the two was altered", AGAIN)
    try:
        manifest = parse_manifest(content)
    except ValueError as error:
        raise CorruptFileError(f"{MANIFEST} is not the manifest of a bundle: {error}", AGAIN) from error
    models = [manifest["model"]] if manifest["kind"] == WEB_PAGE else manifest["models"].values()
    for name in (*manifest["files"], *(model["onnx"] for model in models)):
        safe_name(name)
    return {**manifest, "sha256": match[1].decode()}


def safe_name(name: str) -> str:
    """Return a name unchanged if it stays within the bundle. UnsafeFileError for any other."""
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and name.isprintable() and "\\" not in name
    if not plain or not parts or parts[0] == "/" or ".." in parts:
        raise UnsafeFileError(f"the bundle names {name!r}, a path that may lead out of it", AGAIN)
    return name


# ---- folders ----


def _folder_files(folder: Path) -> Iterator[File]:
    names = list(_walk(folder))  # refuses links and special files before any file is opened
    for name in (*(name for name in (MANIFEST, SEAL) if (folder / name).is_file()), *names):
        with (folder / name).open("rb") as stream:
            yield name, (folder / name).stat().st_size, stream


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield the names of all files below a folder except the manifest and its seal.

    Raises UnsafeFileError for anything but a plain file, and for folders deeper than any bundle's.
    """
    if prefix.count("/") > DEEPEST:
        raise UnsafeFileError(f"{prefix} in the bundle is deeper than any folder of a bundle", AGAIN)
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


# ---- archives ----


def pack(folder: Path, archive: Path) -> None:
    """Write a sealed folder as ``.tar.zst``, and check it. The same folder gives the same bytes.

    Raises UsageError for files that an archive cannot hold, by name, size or compression.
    """
    names = (MANIFEST, SEAL, *sorted(_walk(folder)))  # these first, so that one pass can check the rest
    with atomic_path(archive) as temporary:
        write_archive(folder, names, temporary)
        try:
            with read_archive(temporary, archive.name) as entries:
                _check(str(archive), _archive_files(archive.name, entries))
        except InputError as error:
            raise UsageError(f"{folder.name} does not fit into an archive: {error.message}", TO_A_FOLDER) from error


def _archive_files(archive: str, entries: Iterator[File]) -> Iterator[File]:
    """Take the one top folder from the names of entries, and check that they have the order that pack gives them."""
    found: set[str] = set()
    one_folder, last = None, (False, "")
    for path, size, stream in entries:
        top, _, name = safe_name(path).partition("/")
        one_folder = one_folder or top
        if top != one_folder or not name:
            raise UnsafeFileError(f"{path!r} in {archive} is not in the bundle's one folder", AGAIN)
        place = (name not in (MANIFEST, SEAL), name)
        if place <= last:
            wrong = "twice" if place == last else "behind its place: names are sorted"
            raise UnsafeFileError(f"{path!r} in {archive} is {wrong}", AGAIN)
        last = place
        if files := found.intersection(map(str, PurePosixPath(name).parents)):
            raise UnsafeFileError(f"{path!r} in {archive} is below {files.pop()!r}, which is a file", AGAIN)
        found.add(name)
        yield name, size, stream
