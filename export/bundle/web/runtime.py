"""ONNX Runtime Web: fetched by npm once, checked against the hash pinned here, and kept in the cache.

npm asks the registry that its user has configured. A package that is already in the cache needs no npm.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ....errors import CorruptFileError, MissingCapabilityError
from ....files import atomic_path, cache_folder, write_bytes

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
FILES = (  # the builds for processors and for graphics processors; a visitor loads one of them
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
SECONDS = 600  # for 33 MB

# The package names its licence only. ONNX Runtime for Python is built from the same source and brings the texts.
NOTICES = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}


def write_runtime(folder: Path) -> None:
    """Write the files of ONNX Runtime Web to ``folder``, with its licence and those of the code that it contains.

    Raises what :func:`fetched_package` does, and MissingCapabilityError without ONNX Runtime.
    """
    names = {f"package/dist/{name}": name for name in FILES}
    with tarfile.open(fetched_package(), "r|gz") as package:  # in one pass, because gzip cannot seek
        for entry in package:
            if name := names.get(entry.name):
                content = package.extractfile(entry)
                assert content is not None  # the package is the one with the pinned hash
                write_bytes(folder / name, content.read())
    installed = find_spec("onnxruntime")
    if installed is None or installed.origin is None:
        raise MissingCapabilityError(
            f"the licence of {PACKAGE} comes from ONNX Runtime, which is not installed",
            "Install it: pip install 'dcp-deploy[cpu]', or [gpu].",
        )
    for source, name in NOTICES.items():
        write_bytes(folder / name, Path(installed.origin).with_name(source).read_bytes())


def fetched_package() -> Path:
    """Return the package from the cache, fetched by npm if it is not there or not the pinned one.

    Raises MissingCapabilityError without npm, or if npm cannot fetch it; CorruptFileError if what it fetched is not
    the pinned package.
    """
    kept = cache_folder() / "web" / ARCHIVE
    if kept.is_file() and _integrity(kept) == INTEGRITY:
        return kept
    with tempfile.TemporaryDirectory() as scratch:
        fetched = _fetch(Path(scratch), kept)
        if (found := _integrity(fetched)) != INTEGRITY:
            raise CorruptFileError(
                f"npm fetched another {ARCHIVE} than the pinned one: its hash is {found}, not {INTEGRITY}",
                "Check which registry npm uses (npm config get registry).",
            )
        with atomic_path(kept) as place:
            shutil.copyfile(fetched, place)
    return kept


def _fetch(folder: Path, kept: Path) -> Path:
    """Let npm fetch the package into ``folder``. ``kept`` is where a user may put it by hand."""
    by_hand = f"Or fetch {ARCHIVE} elsewhere, with 'npm pack {PACKAGE}@{VERSION}', and put it at {kept}."
    npm = shutil.which("npm")
    if npm is None:
        raise MissingCapabilityError(
            f"the page needs {PACKAGE} {VERSION}, which npm fetches, and npm is not installed",
            f"Install Node.js with npm (Debian: apt-get install npm). {by_hand}",
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder), "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise MissingCapabilityError(
            f"npm did not fetch {PACKAGE} {VERSION} within {SECONDS} s",
            f"Check the network and its proxy. {by_hand}",
        ) from error
    if done.returncode or not (folder / ARCHIVE).is_file():
        lines = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if line.startswith("npm error ")]
        raise MissingCapabilityError(
            f"npm cannot fetch {PACKAGE} {VERSION}: {'; '.join(lines[:3]) or 'it gave no reason'}",
            f"Check the network and npm's registry (npm config get registry). {by_hand}",
        )
    return folder / ARCHIVE


def _integrity(file: Path) -> str:
    """Return the hash of a file as npm writes it."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
