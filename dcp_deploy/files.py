"""Atomic writes, hashes, run directories, and the disk space, cache folder and C++ compiler of this machine."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from .errors import UsageError

RUN_FILE = "run.json"
"""The record of ``build`` in its run directory."""


# All control characters but newline and tab, those that change the direction of text, and halves of characters.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_inputs: ContextVar[tuple[Path, ...]] = ContextVar("_inputs", default=())


@contextmanager
def kept(inputs: Iterable[Path]) -> Iterator[None]:
    """Keep files and folders from being overwritten within the block: :func:`destination` refuses them."""
    before = _inputs.set((*_inputs.get(), *inputs))
    try:
        yield
    finally:
        _inputs.reset(before)


def destination(path: str | os.PathLike[str]) -> Path:
    """Return where a result is written: ``path``, or what a symbolic link there leads to.

    Raises UsageError for a folder, a device, a pipe, a socket, and for an input of the same command: the same file
    under any name, or a file in a folder that is an input; of a run directory, its record and its results.
    """
    target = Path(os.path.realpath(path))
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return target
    except OSError as error:  # links in a circle, a file in place of a folder, a name that is too long
        raise UsageError(f"{path} cannot be written: {error.strerror}", "Give another place.") from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is {_kind(found.st_mode)}, not a file", "Give the name of a file.")
    for source in _inputs.get():
        if source.is_dir():
            taken = target.is_relative_to(source.resolve()) and _is_input(target, source.resolve())
        else:
            taken = source.exists() and os.path.samestat(source.stat(), found)
        if taken:
            within = f"in {source}, which" if source.is_dir() else "the file that"
            raise UsageError(f"{path} is {within} this command reads", "Give another name for the result.")
    return target


def _is_input(file: Path, folder: Path) -> bool:
    """Return whether a file in a folder belongs to it: every file, but of a run directory its record and results."""
    if not is_run_directory(folder):
        return True
    results: set[str] = set()
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # a damaged record names none
        for stage in read_json(folder / RUN_FILE)["stages"].values():
            results |= set(stage["outputs"])
    return file.relative_to(folder).as_posix() in {RUN_FILE, *results}


def inputs_in(folder: Path) -> list[Path]:
    """Return the inputs of the command that lie in a folder, or are the folder itself."""
    return [source for source in _inputs.get() if source.resolve().is_relative_to(folder.resolve())]


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for matches, words in kinds if matches(mode)), "a device")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; rename it to ``path`` if the block succeeds, else delete it.

    The rename stays within one file system. So a reader sees the old file or the new one, and a kill at any moment
    leaves no half-written ``path``. The content is flushed to the disk before the rename. A new file has the rights
    that the umask allows, an overwritten one keeps its own. Scratch of writers that were killed is removed. Folders
    that are missing are made, and removed again if the block fails.

    Raises UsageError for a place that :func:`destination` refuses, OSError if the disk is full.
    """
    target = destination(path)
    with _scratch_beside(target) as temporary:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder; if the block fails, remove what was made, unless it is in use by then."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for one in made:
                one.rmdir()
        raise


@contextmanager
def _scratch_beside(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a new, empty file or folder beside ``target``, which is removed at the end, if it is there."""
    with _folder(target.parent):
        _remove_scratch_once(target.parent)
        temporary, lock = _new_scratch(target, folder=folder)
        try:
            yield temporary
        finally:
            if folder:
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
            os.close(lock)


def scratch_folder(target: Path) -> AbstractContextManager[Path]:
    """Make a new, empty folder beside ``target`` for the block, and remove what killed writers have left there."""
    return _scratch_beside(target, folder=True)


def exchange(one: Path, other: Path) -> None:
    """Exchange two folders of one file system, at once where the system can, so that a kill leaves both whole."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None or rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        aside = one.with_name(f"{one.name}.old")
        other.replace(aside)
        one.replace(other)
        aside.replace(one)


_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD and the flag, from Linux's headers


@cache
def _remove_scratch_once(folder: Path) -> None:
    remove_scratch(folder)


def remove_scratch(folder: Path) -> None:
    """Remove the temporary files and folders of killed writers from a folder, not from those in it.

    A writer holds a lock on what it writes, which the kernel releases when it ends, however it ends.
    """
    for left in folder.glob(".*.tmp"):
        if result_of(left) is None:
            continue
        with suppress(OSError):  # its writer is at work, or it is gone already
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISDIR(os.fstat(handle).st_mode):
                    shutil.rmtree(left)
                else:
                    left.unlink()
            finally:
                os.close(handle)


def result_of(scratch: Path) -> str | None:
    """Return the name of the file or folder that a writer's scratch becomes, None for any other path."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}\.tmp", scratch.name, re.DOTALL)
    return found[1] if found else None


def _short(name: str) -> str:
    """Return a file's name, cut so that a temporary name made of it is not too long for the file system."""
    return os.fsdecode(os.fsencode(name)[:200])


def _new_scratch(target: Path, *, folder: bool = False) -> tuple[Path, int]:
    """Create an empty file or folder beside ``target``. Return its path, and a descriptor that holds a lock on it."""
    while True:
        target.parent.stat()  # FileNotFoundError if it has gone meanwhile
        path = target.with_name(f".{_short(target.name)}.{secrets.token_hex(8)}.tmp")
        if folder:
            path.mkdir()
        with suppress(FileNotFoundError, BlockingIOError):  # another process took it for left over
            handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                _share(handle)
                if os.path.samestat(path.stat(), os.fstat(handle)):
                    return path, os.dup(handle)
            finally:
                os.close(handle)


def _share(handle: int) -> None:
    """Hold a lock that others may hold, too, unless the file system has none. BlockingIOError if another holds all."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file atomically.

    Make the content in memory first: most writers of pictures and tensors hide the error of a full disk.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, atomically; what UTF-8 cannot hold, of names of files, as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    write_text(path, json.dumps(encodable(value), indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document. Raises ValueError for anything else, also for NaN and for nesting without end."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{path} holds {word}, which is not JSON")

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def escaped(text: str) -> str:
    r"""Write control characters, except newline and tab, as ``\x1b``: names of files may hold them."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def encodable(value: Any) -> Any:
    """Return a JSON value with every text in a form that UTF-8 can hold; names of files may be in no encoding."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(name): encodable(entry) for name, entry in value.items()}
    return [encodable(entry) for entry in value] if isinstance(value, list | tuple) else value


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hex sha256 of a file's content, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_run_directory(path: Path) -> bool:
    """Return whether a path is a folder in which ``build`` has worked."""
    return (path / RUN_FILE).is_file()


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of ``folder``, which need not exist yet."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cache_folder() -> Path:
    """Return the folder of fetched, computed and compiled files: ``$DCP_DEPLOY_CACHE``, else the user's own."""
    import platformdirs

    chosen = os.environ.get("DCP_DEPLOY_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("dcp-deploy")


def kernel_cache() -> Path:
    """Return the folder of compiled kernels."""
    return cache_folder() / "kernels"


def find_compiler() -> str | None:
    """Return the C++ compiler to use: the value of CXX, else the first of g++, c++ and clang++ that is installed."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)
