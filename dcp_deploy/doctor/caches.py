"""What dcp-deploy keeps outside of run directories, to be listed and cleared: one folder for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingCapabilityError, UsageError, choose
from ..files import cache_folder

# Kind -> its folder in the cache, the names of its files below that, and what they are. Other files are never touched:
# DCP_DEPLOY_CACHE may name a folder with files of the user's.
_KINDS = {
    "teachers": ("teachers", r"[0-9a-f]{12}/[^/]+", "fetched teachers and weights of metrics"),
    "statistics": ("features", r"[0-9a-f]+\.safetensors", "features of real images, for FID"),
    "web": ("web", r"[\w.-]+\.tgz", "ONNX Runtime Web, for bundle --web"),
    "kernels": ("kernels", r"cpu-[0-9a-f]{32}\.so|\w+-sm\d+-[0-9a-f]{32}\.zip", "compiled kernels"),
}
KINDS = tuple(_KINDS)


@dataclass(frozen=True)
class Cache:
    """One kind of cached files. ``path`` need not exist."""

    name: str
    holds: str
    path: str
    files: int
    bytes: int


def list_caches() -> list[Cache]:
    """Return every kind of cached files with their number and size."""
    return [_describe(name, list(_files(name))) for name in KINDS]


def clear_caches(names: Sequence[str] = (), *, dry_run: bool = False) -> list[Cache]:
    """Remove the cached files of these kinds, by default of all, and return what was there.

    ``dry_run`` only returns it. Raises UsageError for an unknown kind, MissingCapabilityError for a file that cannot be
    removed.
    """
    for name in names:
        if name not in _KINDS:
            raise UsageError(f"{name!r} is not a kind of cached files", choose(name, KINDS))
    found = []
    for name in KINDS:
        if names and name not in names:
            continue
        files = list(_files(name))
        found.append(_describe(name, files))
        if not dry_run:
            _remove(name, files)
    return found


def _describe(name: str, files: Sequence[Path]) -> Cache:
    folder, _, holds = _KINDS[name]
    return Cache(name, holds, str(cache_folder() / folder), len(files), sum(file.stat().st_size for file in files))


def _files(name: str) -> Iterator[Path]:
    folder, form, _ = _KINDS[name]
    place = cache_folder() / folder
    for path in sorted(place.rglob("*")) if place.is_dir() else ():
        if path.is_file() and not path.is_symlink() and re.fullmatch(form, path.relative_to(place).as_posix()):
            yield path


def _remove(name: str, files: Sequence[Path]) -> None:
    place = cache_folder() / _KINDS[name][0]
    try:
        for file in files:
            file.unlink(missing_ok=True)
        for folder in {file.parent for file in files} - {place}:
            if not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise MissingCapabilityError(
            f"{error.filename} cannot be removed: {error.strerror}", "Change its rights, or remove it yourself."
        ) from error
