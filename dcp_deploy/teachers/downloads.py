"""Published teachers in a cache: announced before the first request, checked, and recorded.

The cache is ``$DCP_DEPLOY_CACHE``, else the user's own (``~/.cache/dcp-deploy``). The sha256 of a file that has no
pinned one is recorded when the file arrives, and checked from then on.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, MissingCapabilityError
from ..files import cache_folder, read_json, sha256_file, write_json
from ..progress import Progress
from .pace import Patience
from .presets import Teacher
from .transfer import MB, Transfer, note_of

VARIABLE = "DCP_DEPLOY_CACHE"
PATIENCE = Patience()


@dataclass(frozen=True)
class Fetched:
    """A teacher's file in the cache. ``origin`` is "fetched" if it was fetched by this call, else "cache"."""

    path: Path
    url: str
    bytes: int
    sha256: str
    licence: str
    origin: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "path": str(self.path)}


def direct_url(url: str) -> str:
    """Return the address of the bytes. Google Drive's share links lead to pages; other addresses stay as they are."""
    share = re.fullmatch(r"https://drive\.google\.com/(?:open\?id=|uc\?id=|file/d/)([\w-]+)(?:[/&?].*)?", url)
    if share is None:
        return url
    return f"https://drive.usercontent.google.com/download?id={share[1]}&export=download&confirm=t"


def announcement(teacher: Teacher) -> str:
    """Return what a fetch means: file, size, address, folder and licence."""
    return (
        f"{teacher.file} ({teacher.size_words}) from {direct_url(_address(teacher))} into "
        f"{_path(teacher).parent}; licence: {teacher.licence}"
    )


def by_hand(teacher: Teacher) -> str:
    """Return how to get the file without this download."""
    return (
        f"To do without the download: get {teacher.file} from {teacher.page or teacher.url}, then {teacher.flag} FILE."
    )


def cached_path(teacher: Teacher) -> Path | None:
    """Return the path of a teacher fetched earlier, unchecked; None if it was not, or ships with the package."""
    if teacher.url is None:
        return None
    path = _path(teacher)
    return path if path.is_file() and _recorded(path) else None


def cached(teacher: Teacher) -> Fetched | None:
    """Return a teacher fetched earlier, None if it was not.

    Raises CorruptFileError if its sha256 is not the recorded one, or not the one that this version has pinned.
    """
    path = cached_path(teacher)
    if path is None:
        return None
    expected, source = _expected(teacher, path)
    found = sha256_file(path)
    if found != expected:
        raise CorruptFileError(
            f"{path} has the sha256 {found}; {source} is {expected}",
            f"Delete {path.parent} to have it fetched again. {by_hand(teacher)}",
        )
    return Fetched(path, _address(teacher), path.stat().st_size, found, teacher.licence, "cache")


def fetch(teacher: Teacher, *, say: Callable[[str], None], progress: Progress) -> Fetched:
    """Return the teacher's file from the cache, else fetch it. ``say`` is called before the first request.

    An interrupted download continues where it stopped. ``progress`` counts units of 1e6 bytes.

    Raises MissingCapabilityError if the file cannot be fetched (the message quotes the server, the remedy says how to
    get it by hand), CorruptFileError if its sha256 is not the pinned or recorded one, OSError if the disk is full.
    """
    found = cached(teacher)
    if found is None:
        with _locked(teacher, say):
            found = cached(teacher)  # another process may have fetched it while this one waited
            if found is None:
                return _download(teacher, say, progress)
    say(f"using {found.path}, fetched before; licence: {found.licence}")
    return found


def _download(teacher: Teacher, say: Callable[[str], None], progress: Progress) -> Fetched:
    path, url = _path(teacher), direct_url(_address(teacher))
    part = path.with_name(f"{path.name}.part")
    say(f"fetching {announcement(teacher)}")
    expected, source = _expected(teacher, path)
    pinned, remedy = expected is not None, by_hand(teacher)
    Transfer(url=url, part=part, say=say, progress=progress, patience=PATIENCE, pinned=pinned, remedy=remedy).run()
    size, found = part.stat().st_size, sha256_file(part)
    if pinned and found != expected:
        part.unlink()
        note_of(part).unlink(missing_ok=True)
        raise CorruptFileError(
            f"{url} sent a file with the sha256 {found}; {source} is {expected}. It was removed",
            f"Run the same command again to fetch it anew. If the difference stays, the file has changed: look at "
            f"{teacher.page or url}, and delete {path.parent} if you want the new one. {remedy}",
        )
    # The record comes before the name: a file without a record does not count as fetched.
    record = {"url": teacher.url, "bytes": size, "sha256": found, "licence": teacher.licence}
    write_json(_record(path), {**record, "fetched": datetime.now(UTC).isoformat(timespec="seconds")})
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    part.replace(path)
    note_of(part).unlink(missing_ok=True)
    news = "as pinned" if teacher.sha256 else "as before" if pinned else "recorded, and checked from now on"
    say(f"fetched {size / MB:.1f} MB; sha256 {found}, {news}")
    return Fetched(path, _address(teacher), size, found, teacher.licence, "fetched")


def _address(teacher: Teacher) -> str:
    assert teacher.url is not None, f"{teacher.file} ships with the package"
    return teacher.url


def _path(teacher: Teacher) -> Path:
    """Return the file's place in the cache. Each address has a folder, so that files of one name do not collide."""
    key = hashlib.sha256(_address(teacher).encode()).hexdigest()[:12]
    return cache_folder() / "teachers" / key / teacher.file


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _recorded(path: Path) -> str | None:
    """Return the sha256 that was recorded when the file was fetched; None without a readable record."""
    try:
        return str(read_json(_record(path))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _expected(teacher: Teacher, path: Path) -> tuple[str | None, str]:
    """Return the sha256 that the file must have, None if unknown, and where that comes from."""
    if teacher.sha256 is not None:
        return teacher.sha256, "the one this version has pinned"
    return _recorded(path), f"the one recorded in {_record(path)} when it was first fetched"


def _locked(teacher: Teacher, say: Callable[[str], None]) -> AbstractContextManager[Any]:
    """Hold the file for this process. The kernel releases the lock when the process ends, however it ends."""
    import filelock

    path = _path(teacher)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"another process is fetching {path.name}; waiting for it")
            return lock.acquire()
    except OSError as error:
        raise MissingCapabilityError(
            f"the cache {cache_folder()} cannot be written: {error.strerror or error}",
            f"Let {VARIABLE} name a folder that can be written.",
        ) from error
