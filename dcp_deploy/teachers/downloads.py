"""Published teachers fetched into a cache: announced before the first byte, checked, and recorded.

The cache is ``$DCP_DEPLOY_CACHE``, else the user's own (``~/.cache/dcp-deploy``). A file whose sha256 nobody has pinned
is hashed when it arrives, and the hash is kept beside it; from then on it is as good as pinned.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, MissingCapabilityError
from ..files import read_json, sha256_file, write_json
from ..progress import Progress
from .presets import Teacher
from .transfer import MB, Patience, note_of, transfer

VARIABLE = "DCP_DEPLOY_CACHE"
PATIENCE = Patience()


@dataclass(frozen=True)
class Fetched:
    """A teacher's file in the cache."""

    path: Path
    url: str
    bytes: int
    sha256: str
    licence: str
    origin: str
    """"fetched" just now, or "cache"."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "path": str(self.path)}


def cache_folder() -> Path:
    """Where fetched files are kept."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("dcp-deploy")


def direct_url(url: str) -> str:
    """The address of the bytes. Google Drive's share links lead to pages; everything else is taken as it is."""
    share = re.fullmatch(r"https://drive\.google\.com/(?:open\?id=|uc\?id=|file/d/)([\w-]+)(?:[/&?].*)?", url)
    if share is None:
        return url
    return f"https://drive.usercontent.google.com/download?id={share[1]}&export=download&confirm=t"


def announcement(teacher: Teacher, cache: Path | None = None) -> str:
    """What fetching this teacher means: what, how large, from where, into where, under which licence."""
    folder = _Shelf.of(teacher, cache).file.parent
    return (
        f"{teacher.file} ({teacher.size_words}) from {direct_url(_address(teacher))} into {folder}; "
        f"licence: {teacher.licence}"
    )


def cached_path(teacher: Teacher, cache: Path | None = None) -> Path | None:
    """Where an earlier fetch left the teacher, unchecked; None when it did not, or when there is nothing to fetch."""
    if teacher.url is None:
        return None
    shelf = _Shelf.of(teacher, cache)
    return shelf.file if shelf.file.is_file() and shelf.recorded() else None


def cached(teacher: Teacher, cache: Path | None = None) -> Fetched | None:
    """The teacher as an earlier fetch left it, None when there is none.

    Raises CorruptFileError when it is not what was fetched then, or not what this version has pinned.
    """
    shelf = _Shelf.of(teacher, cache)
    if cached_path(teacher, cache) is None:
        return None
    expected, by = shelf.expected(teacher)
    found = sha256_file(shelf.file)
    if found != expected:
        raise CorruptFileError(
            f"{shelf.file} has the sha256 {found}; {by} is {expected}",
            f"Delete {shelf.file.parent} to have it fetched again. {by_hand(teacher)}",
        )
    return Fetched(shelf.file, _address(teacher), shelf.file.stat().st_size, found, teacher.licence, "cache")


def fetch(
    teacher: Teacher,
    *,
    say: Callable[[str], None],
    progress: Progress,
    cache: Path | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """The teacher's file from the cache, else from its address; ``say`` hears about it before the first request.

    An interrupted download goes on where it was. ``progress`` counts units of 1e6 bytes.

    Raises MissingCapabilityError when the file cannot be had (the message quotes the server, the remedy says how to get
    it by hand), CorruptFileError when its sha256 is another than the pinned or the recorded one, OSError when the disk
    is full.
    """
    there = cached(teacher, cache)
    if there is None:
        shelf = _Shelf.of(teacher, cache)
        with shelf.locked(say):
            there = cached(teacher, cache)  # another process may have brought it while this one waited
            if there is None:
                return _download(teacher, shelf, say, progress, patience or PATIENCE)
    say(f"using {there.path}, fetched before; licence: {there.licence}")
    return there


def by_hand(teacher: Teacher) -> str:
    """How to do without the download."""
    return (
        f"To do without the download: get {teacher.file} from {teacher.page or teacher.url}, then {teacher.flag} FILE."
    )


def _download(
    teacher: Teacher, shelf: _Shelf, say: Callable[[str], None], progress: Progress, patience: Patience
) -> Fetched:
    url = direct_url(_address(teacher))
    say(f"fetching {announcement(teacher, shelf.cache)}")
    expected, by = shelf.expected(teacher)
    transfer(
        url,
        shelf.part,
        say=say,
        progress=progress,
        patience=patience,
        pinned=expected is not None,
        remedy=by_hand(teacher),
    )
    size, found = shelf.part.stat().st_size, sha256_file(shelf.part)
    if expected is not None and found != expected:
        shelf.part.unlink()
        note_of(shelf.part).unlink(missing_ok=True)
        raise CorruptFileError(
            f"what {url} sent has the sha256 {found}; {by} is {expected}. It was removed",
            f"Run the same command again to fetch it anew. If the difference stays, the file has changed: look at "
            f"{teacher.page or url}, and delete {shelf.file.parent} when the new one is wanted. {by_hand(teacher)}",
        )
    shelf.keep(teacher, size, found)
    news = "as pinned" if teacher.sha256 else "as before" if expected else "recorded, and checked from now on"
    say(f"fetched {size / MB:.1f} MB; sha256 {found}, {news}")
    return Fetched(shelf.file, _address(teacher), size, found, teacher.licence, "fetched")


def _address(teacher: Teacher) -> str:
    assert teacher.url is not None, f"{teacher.file} ships with the package"
    return teacher.url


@dataclass(frozen=True)
class _Shelf:
    """Where one teacher lies in the cache: a folder for each address, so that equal names do not meet."""

    cache: Path
    file: Path

    @classmethod
    def of(cls, teacher: Teacher, cache: Path | None) -> _Shelf:
        cache = cache_folder() if cache is None else cache
        key = hashlib.sha256(_address(teacher).encode()).hexdigest()[:12]
        return cls(cache, cache / "teachers" / key / teacher.file)

    @property
    def part(self) -> Path:
        return self.file.with_name(f"{self.file.name}.part")

    @property
    def record(self) -> Path:
        return self.file.with_name(f"{self.file.name}.json")

    def recorded(self) -> str | None:
        """The sha256 that was recorded when the file was fetched."""
        try:
            return str(read_json(self.record)["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def expected(self, teacher: Teacher) -> tuple[str | None, str]:
        """The sha256 the file must have, None when nobody knows, and whose word that is."""
        if teacher.sha256 is not None:
            return teacher.sha256, "the one this version has pinned"
        return self.recorded(), f"the one recorded in {self.record} when it was first fetched"

    def keep(self, teacher: Teacher, size: int, sha256: str) -> None:
        """Record the whole part, then give it its name: a file without a record does not count as fetched."""
        record = {"url": teacher.url, "bytes": size, "sha256": sha256, "licence": teacher.licence}
        write_json(self.record, {**record, "fetched": datetime.now(UTC).isoformat(timespec="seconds")})
        with self.part.open("rb") as whole:
            os.fsync(whole.fileno())
        self.part.replace(self.file)
        note_of(self.part).unlink(missing_ok=True)

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Hold this shelf for this process; the kernel lets go when the process ends, however it ends."""
        import filelock

        lock = filelock.FileLock(self.file.with_name(f"{self.file.name}.lock"))
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                say(f"another process is fetching {self.file.name}; waiting for it")
                lock.acquire()
        except OSError as error:
            raise MissingCapabilityError(
                f"the cache {self.cache} cannot be written: {error.strerror or error}",
                f"Let {VARIABLE} name a folder that can be.",
            ) from error
        try:
            yield
        finally:
            lock.release()
