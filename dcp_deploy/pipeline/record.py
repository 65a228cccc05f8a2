"""``run.json``: what a build has done, from which inputs, and whether its results can be reused.

A stage's cache key is the sha256 of its name, its settings, the content of its inputs and the tool's version. A result
is reused only if the key is the same and every output still has the recorded content.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ..files import RUN_FILE, read_json, sha256_file, write_json
from ..version import __version__

SCHEMA = 1

Status = Literal["pending", "running", "done", "skipped", "failed", "interrupted"]


@dataclass
class StageRecord:
    """One stage: its inputs and outputs, as file names with their sha256, and how it ended."""

    status: Status = "pending"
    reused: bool = False
    reason: str = ""
    key: str = ""
    version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    started: str | None = None
    seconds: float | None = None
    """How long the work took; a later run that reuses the result keeps this number."""


@dataclass
class RunRecord:
    """The content of ``run.json``. Call ``save`` after every change that must survive a kill."""

    directory: Path
    status: Literal["running", "finished", "failed", "interrupted"] = "running"
    command: str = ""
    started: str = ""
    finished: str | None = None
    seconds: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    effort: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    """Which real images were used."""
    teacher: dict[str, Any] = field(default_factory=dict)
    """Where the teacher's file came from; for a fetched one also its address, size, sha256 and licence."""
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, StageRecord] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> RunRecord:
        """Read the record of an earlier run of this directory.

        Returns an empty one if it is missing or cannot be read: then all stages run again.
        """
        try:
            document = read_json(directory / RUN_FILE)
            if document["schema"] != SCHEMA:
                return cls(directory)
            known = {f.name for f in fields(StageRecord)}
            stages = {
                name: StageRecord(**{key: value for key, value in stage.items() if key in known})
                for name, stage in document["stages"].items()
            }
            return cls(directory, stages=stages, networks=dict(document["networks"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(directory)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        values = asdict(self)
        del values["directory"]
        return {"schema": SCHEMA, "tool": {"name": "dcp-deploy", "version": __version__}, **values}

    def save(self) -> None:
        """Write ``run.json``, atomically."""
        write_json(self.directory / RUN_FILE, self.to_dict())


def stage_key(name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return a stage's cache key: the hex sha256 of everything that decides its result."""
    text = json.dumps([__version__, name, settings, inputs], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def why_again(
    record: StageRecord | None, directory: Path, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> str | None:
    """Return why a stage has to run; None if its recorded result can be reused."""
    if record is None or record.status in ("pending", "skipped"):
        return "it has not run yet"
    if record.status != "done":
        return {"running": "it was killed", "interrupted": "it was interrupted"}.get(record.status, "it failed")
    if record.key != stage_key(name, settings, inputs):
        return _difference(record, settings, inputs)
    for output, sha256 in record.outputs.items():
        path = directory / output
        if not path.is_file():
            return f"{output} is missing"
        if sha256_file(path) != sha256:
            return f"{output} was altered"
    return None


def _difference(record: StageRecord, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    if record.version != __version__:
        return f"the tool changed: {record.version} -> {__version__}"
    changed = [
        f"{name} {record.settings.get(name)} -> {settings.get(name)}"
        for name in sorted({*settings, *record.settings})
        if settings.get(name) != record.settings.get(name)
    ]
    if changed:
        return f"settings changed: {', '.join(changed)}"
    names = sorted(name for name in {*inputs, *record.inputs} if inputs.get(name) != record.inputs.get(name))
    return f"inputs changed: {', '.join(names)}" if names else "its record was altered"


def now() -> str:
    """Return the time in UTC, to the second, by ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock the run directory for this process. The kernel releases the lock when the process ends, however it ends.

    Raises UsageError with the other process's number if another build holds the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UsageError(
                f"another build (process {holder}) is working in {directory}", "Wait for it, or give another --out."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
