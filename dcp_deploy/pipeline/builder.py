"""``build``: all stages in order, each only when it has to, resumable after any kill."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import BuildConfig, to_toml
from ..errors import MissingCapabilityError
from ..files import atomic_path, free_space, sha256_file
from ..progress import Reporter
from ..version import __version__
from .inputs import (
    TeacherFile,
    _check_machine,
    _planned,
    _real,
    numbers,
    open_data,
    real_words,
    teacher_source,
)
from .plan import disk_needed
from .record import RunRecord, StageRecord, locked, now, stage_key, why_again
from .stages import SOURCE, STAGES, Job, SkippedError, Stage

if TYPE_CHECKING:
    from ..compression import PruningPlan
    from ..datasets.images import ImageSet

REUSED = "reused because inputs, settings and version are unchanged"


@dataclass(frozen=True)
class Run:
    """A finished build."""

    directory: Path
    record: RunRecord

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.directory / "report.html"

    def to_dict(self) -> dict[str, Any]:
        """``run.json``, and where it lies."""
        return {**self.record.to_dict(), "directory": str(self.directory), "report": str(self.report)}


def build(config: BuildConfig, *, force: bool = False, reporter: Reporter | None = None) -> Run:
    """Run every stage whose inputs, settings or outputs changed since the last time; ``force`` runs all of them.

    Results lie in ``config.directory``. A build that was killed, or interrupted by KeyboardInterrupt, goes on where it
    was when it is started again with the same config, and ends with the same bytes on a CPU.

    Without ``config.teacher`` the preset's is fetched, after saying so, or taken from the cache.

    Raises MissingCapabilityError before any work when something is missing that a later stage needs, UsageError when
    another build holds the directory, ParityError when an exported file draws other images than its network (the
    figures are in parity.json).
    """
    reporter = reporter or Reporter()
    _check_machine(config)
    source = teacher_source(config, reporter)
    planned = _planned(config, source)  # also finds a damaged teacher before anything is written
    images = open_data(config, planned.teacher)
    with locked(config.directory):
        return _Builder(config, source, planned, images, force, reporter).run()


class _Builder:
    """One run of the stages, and its record."""

    def __init__(
        self,
        config: BuildConfig,
        source: TeacherFile,
        planned: PruningPlan,
        images: ImageSet | None,
        force: bool,
        reporter: Reporter,
    ) -> None:
        from ..generators import count_macs

        self.config, self.planned, self.force, self.reporter = config, planned, force, reporter
        self.source, self.origin, self.images = source.path, source.origin, images
        self.macs = count_macs(planned.teacher)
        self.directory = config.directory
        self.record = RunRecord.load(self.directory)
        self.begin = time.monotonic()
        self.checked_space = False

    def run(self) -> Run:
        self._open()
        try:
            for stage in STAGES:
                self._stage(stage)
        except BaseException as error:  # whatever ended the run, its record says so before the error goes on
            self._close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self._close("finished")
        return Run(self.directory, self.record)

    def _open(self) -> None:
        from ..benchmarks import capture_environment

        record = self.record
        record.command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        record.started = now()
        record.config, record.effort = self.config.to_dict(), numbers(self.config, self.macs)
        record.environment = asdict(capture_environment())
        record.teacher = self.origin
        record.images = _real(self.config, self.planned, self.images)
        if self.images is not None:
            self.reporter.message(f"real images: {real_words(record.images)}")
        record.stages = {stage.name: record.stages.get(stage.name, StageRecord()) for stage in STAGES}
        with atomic_path(self.directory / "config.toml") as temporary:
            temporary.write_text(to_toml(record.config), encoding="utf-8")
        record.save()

    def _close(self, status: Literal["finished", "interrupted", "failed"]) -> None:
        self.record.status = status
        self.record.images = _real(self.config, self.planned, self.images)  # training may have found more bad ones
        self.record.finished, self.record.seconds = now(), round(time.monotonic() - self.begin, 3)
        try:
            self.record.save()
        except OSError:
            if status == "finished":
                raise
            # On a full disk the error that ended the run matters more than a record of it.

    def _stage(self, stage: Stage) -> None:
        """Use the stage's recorded result again, or run it."""
        settings = stage.settings(self.config)
        inputs = {name: self._sha256(name) for name in stage.inputs}
        old = self.record.stages[stage.name]
        reason = "--force" if self.force else why_again(old, self.directory, stage.name, settings, inputs)
        if reason is None:
            old.reused, old.reason = True, REUSED
            self.record.save()
            self.reporter.message(f"{stage.name}: {REUSED}")
            return
        self._check_space()
        new = StageRecord("running", reason=f"ran because {reason}", version=__version__, started=now())
        new.settings, new.inputs, new.key = settings, inputs, stage_key(stage.name, settings, inputs)
        self.record.stages[stage.name] = new
        self.directory.joinpath("report.html").unlink(missing_ok=True)  # it would describe other files than these
        self.record.save()
        self._work(stage, new)
        if new.status == "skipped":  # what it made for other inputs would look like its result
            for name in old.outputs:
                (self.directory / name).unlink(missing_ok=True)
        self.record.save()

    def _work(self, stage: Stage, record: StageRecord) -> None:
        job = Job(
            config=self.config,
            directory=self.directory,
            source=self.source,
            work=self.config.work.for_teacher(self.macs),
            key=record.key,
            force=self.force,
            reporter=self.reporter,
            networks=self.record.networks,
            images=self.images,
        )
        begin = time.monotonic()
        try:
            with self.reporter.task(stage.title) as progress:
                written = stage.work(job, progress)
        except SkippedError as skip:
            record.status, record.reason = "skipped", str(skip)
            self.reporter.message(f"{stage.name}: skipped: {skip}")
            return
        except BaseException as error:
            record.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record.reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            record.seconds = round(time.monotonic() - begin, 3)
        record.outputs = {name: sha256_file(self.directory / name) for name in written}
        record.status = "done"
        self.reporter.message(f"{stage.name}: done in {record.seconds:.1f} s")

    def _check_space(self) -> None:
        """Before the first stage that works: a disk that will be full in ten minutes is better known now."""
        if self.checked_space:
            return
        self.checked_space = True
        there = sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())
        needed, free = disk_needed(self.planned) - there, free_space(self.directory)
        if free < needed:
            raise MissingCapabilityError(
                f"no space for this build in {self.directory}: it needs about {needed / 1e6:.0f} MB more, "
                f"{free / 1e6:.0f} MB are free",
                "Free some space, or give another --out.",
            )

    def _sha256(self, name: str) -> str:
        path = self.source if name == SOURCE else self.directory / name
        return sha256_file(path) if path.is_file() else "absent"  # an engine that was skipped
