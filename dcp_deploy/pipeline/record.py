"""``run.json``: what a build has done, from which inputs, and whether its results can be reused.

A stage's cache key is the sha256 of its name, its settings, the content of its inputs and the tool's version. A result
is reused only if the key is the same and every output still has the recorded content.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from ..errors import UsageError
from ..files import RUN_FILE, atomic_path, sha256_file, write_json
from ..report.run_directory import read_run
from ..version import __version__

SCHEMA = 1
LARGEST = 64_000_000  # bytes; ours have some hundred kilobytes

Status = Literal["pending", "running", "done", "skipped", "failed", "interrupted"]


def _below(name: str) -> str:
    """Return the name of an output unchanged. ValueError for a path that leads out of the run directory."""
    if not re.fullmatch(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99})?", name):
        raise ValueError("not the name of a file in the run directory")
    return name


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
    outputs: dict[Annotated[str, AfterValidator(_below)], str] = field(default_factory=dict)
    started: str | None = None
    seconds: float | None = None
    """How long the work took; a later run that reuses the result keeps this number."""


class _Kept(BaseModel):
    """What a later run takes from ``run.json``."""

    model_config = ConfigDict(allow_inf_nan=False)

    schema_version: Literal[1] = Field(alias="schema")
    stages: dict[str, StageRecord]
    networks: dict[str, dict[str, JsonValue]]


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
        file = directory / RUN_FILE
        try:
            if not file.is_file() or file.stat().st_size > LARGEST:
                return cls(directory)
            content = file.read_bytes()
            read_run(content)  # what the report will read again
            kept = _Kept.model_validate_json(content, strict=True)
            json.dumps(kept.networks, allow_nan=False)  # a number with too many digits cannot be written again
            return cls(directory, stages=kept.stages, networks=kept.networks)
        except (OSError, ValueError):
            return cls(directory)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        values = asdict(self)
        del values["directory"]
        return {"schema": SCHEMA, "tool": {"name": "dcp-deploy", "version": __version__}, **values}

    def open(self) -> None:
        """Write ``run.json`` for the first time. Something else under its name, such as a folder, is set aside."""
        file = self.directory / RUN_FILE
        if file.exists() and not file.is_file():
            file.rename(self.directory / f"{RUN_FILE}.{now().replace(':', '')}.old")
        self.save()

    def save(self) -> None:
        """Write ``run.json``, atomically."""
        write_json(self.directory / RUN_FILE, self.to_dict())


def adopt(source: Path, directory: Path, stages: Sequence[str]) -> None:
    """Copy the results of finished stages from one run directory to another, with their records.

    They replace what other settings gave there; the same results are left alone. The cache keys decide later whether
    they are of use.
    """
    theirs = RunRecord.load(source)
    with locked(directory):
        ours = RunRecord.load(directory)
        for name in stages:
            record = theirs.stages.get(name)
            if record is None or record.status != "done" or _has(directory, ours.stages.get(name), record):
                continue
            for output in record.outputs:
                with atomic_path(directory / output) as copy:
                    shutil.copyfile(source / output, copy)
            ours.stages[name] = record
            ours.networks |= {name: theirs.networks[name]} if name in theirs.networks else {}
        ours.open()


def _has(directory: Path, ours: StageRecord | None, theirs: StageRecord) -> bool:
    """Return whether a run directory holds the same result of a stage already, whole."""
    if ours is None or (ours.status, ours.key, ours.outputs) != ("done", theirs.key, theirs.outputs):
        return False
    return _damage(ours, directory) is None


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
    if not record.outputs:
        return "its record was altered"
    return _damage(record, directory)


def _damage(record: StageRecord, directory: Path) -> str | None:
    """Return which recorded output is missing or altered; None if all are whole."""
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
