"""Unpackers that people use, and whether they agree with `bundle verify` on an archive."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import zstandard

from dcp_deploy.errors import InputError
from dcp_deploy.export.integrity import check_bundle


def unpack_gnu(archive: Path, folder: Path) -> None:
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", folder], check=True, capture_output=True)


def unpack_bsd(archive: Path, folder: Path) -> None:
    subprocess.run(["bsdtar", "-xf", archive, "-C", folder], check=True, capture_output=True)


def unpack_python(archive: Path, folder: Path) -> None:
    content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(archive.read_bytes()), read_across_frames=True)
    with tarfile.open(fileobj=io.BytesIO(content.read())) as tar:
        tar.extractall(folder, filter="data")


def _gnu_tar() -> bool:
    said = subprocess.run(["tar", "--version"], capture_output=True, check=False).stdout if shutil.which("tar") else b""
    return b"GNU" in said and shutil.which("zstd") is not None


UNPACKERS: dict[str, Callable[[Path, Path], None] | None] = {
    "GNU tar": unpack_gnu if _gnu_tar() else None,
    "bsdtar": unpack_bsd if shutil.which("bsdtar") else None,
    "Python": unpack_python,
}
"""What unpacks an archive into a folder; None for a program that this machine lacks."""


def unpacked(archive: Path, scratch: Path, unpacker: Callable[[Path, Path], None]) -> dict[str, bytes]:
    """The content of every file that an unpacker makes, by its name, and nothing but files and folders."""
    folder = scratch / "unpacked"
    folder.mkdir()
    try:
        unpacker(archive, folder)
        paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        assert all(path.is_file() and not path.is_symlink() for path in paths), paths
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    finally:
        shutil.rmtree(folder)


def difference(content: bytes, scratch: Path) -> str:
    """Return "accepted", or the name of the error with which an archive is refused.

    Raises an error if an unpacker does not unpack an accepted archive to the files of its manifest.
    """
    archive = scratch / "archive.tar.zst"
    archive.write_bytes(content)
    try:
        manifest = check_bundle(archive)
    except InputError as error:
        assert error.exit_code == 3
        return type(error).__name__
    seal = f"{manifest['sha256']}  manifest.json\n".encode()
    expected = {name: recorded["sha256"] for name, recorded in manifest["files"].items()}
    expected |= {"manifest.json": manifest["sha256"], "manifest.sha256": hashlib.sha256(seal).hexdigest()}
    for name, unpacker in UNPACKERS.items():
        if unpacker is not None:
            files = unpacked(archive, scratch, unpacker)
            (top,) = {name.partition("/")[0] for name in files}
            found = {
                name.removeprefix(f"{top}/"): hashlib.sha256(content).hexdigest() for name, content in files.items()
            }
            assert found == expected, (name, found, expected)
    return "accepted"
