"""``build``: all stages in order, each only if it has to run, resumable after any kill."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..config import BuildConfig, to_toml
from ..devices import computing
from ..files import remove_scratch, sha256_file, write_text
from ..gates import Outcome, Verdict
from ..progress import Reporter
from ..version import __version__
from .final_figures import log_final_figures
from .inputs import BuildInputs, effort_numbers, real_words, resolve_inputs
from .plan import check_space
from .record import RunRecord, StageRecord, locked, now, stage_key, why_again
from .stages import GATES, SOURCE, STAGES, Job, SkippedError, Stage

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

    @property
    def verdict(self) -> Verdict:
        """What the requirements say about the student, as in ``gates.json``."""
        if not (self.directory / GATES).is_file():  # no stage has judged
            return Verdict(True, ())
        found = json.loads((self.directory / GATES).read_text(encoding="utf-8"))
        return Verdict(found["passed"], tuple(Outcome(**one) for one in found["requirements"]))

    def to_dict(self) -> dict[str, Any]:
        """Return ``run.json`` with the paths of the run directory and the report."""
        return {**self.record.to_dict(), "directory": str(self.directory), "report": str(self.report)}


def build(
    config: BuildConfig, *, force: bool = False, spared: Collection[str] = (), reporter: Reporter | None = None
) -> Run:
    """Run every stage whose inputs, settings or outputs changed since the last run; ``force`` runs all of them.

    ``spared`` names stages that ``force`` leaves alone.

    Results go to ``config.directory``. A killed or interrupted build (KeyboardInterrupt) continues where it was when
    it is started again with the same config. On a CPU it ends with the same bytes.

    Without ``config.teacher`` the preset's teacher is taken from the cache, or announced and fetched.

    Raises before any work: MissingCapabilityError if a later stage lacks something, UsageError if another build holds
    the directory. Raises ParityError if an exported file generates other images than its network; parity.json says
    how much they differ. Missed requirements (``config.require``) do not raise: ``run.verdict.raise_for_failure()``
    does.
    """
    reporter = reporter or Reporter()
    inputs = resolve_inputs(config, reporter)
    with locked(config.directory):
        return _Builder(inputs, force, spared, reporter).run()


class _Builder:
    """One run of the stages, and its record."""

    def __init__(self, inputs: BuildInputs, force: bool, spared: Collection[str], reporter: Reporter) -> None:
        self.inputs, self.force, self.spared, self.reporter = inputs, force, spared, reporter
        self.directory = inputs.config.directory
        self.record = RunRecord.load(self.directory)
        self.begin = time.monotonic()
        self.checked_space = False

    def run(self) -> Run:
        self._open()
        try:
            for stage in STAGES:
                self._stage(stage)
            log_final_figures(self.inputs, self.record, self.reporter)
        except BaseException as error:  # record the end of the run whatever ended it
            self._close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self._close("finished")
        return Run(self.directory, self.record)

    def _open(self) -> None:
        for folder in (self.directory, *(path for path in self.directory.rglob("*") if path.is_dir())):
            remove_scratch(folder)  # of a run that was killed; the lock says that no other is at work
        from ..benchmarks import capture_environment

        record, inputs = self.record, self.inputs
        environment = capture_environment()
        record.command, record.environment = environment.command, asdict(environment)
        record.started = now()
        record.config, record.effort = inputs.config.to_dict(), effort_numbers(inputs.effort, inputs.recipe)
        record.teacher = inputs.teacher.origin
        record.images = inputs.image_facts()
        if inputs.images is not None:
            self.reporter.message(f"real images: {real_words(record.images)}")
        for caveat in inputs.pruning_plan.caveats:
            self.reporter.message(f"prune: {caveat}")
        record.stages = {stage.name: record.stages.get(stage.name, StageRecord()) for stage in STAGES}
        write_text(self.directory / "config.toml", to_toml(record.config))
        record.open()

    def _close(self, status: Literal["finished", "interrupted", "failed"]) -> None:
        self.record.status = status
        self.record.images = self.inputs.image_facts()  # training may have found more bad images
        self.record.finished, self.record.seconds = now(), round(time.monotonic() - self.begin, 3)
        try:
            self.record.save()
        except OSError:  # on a full disk the error that ended the run matters more than its record
            if status == "finished":
                raise

    def _stage(self, stage: Stage) -> None:
        """Reuse the stage's recorded result, or run the stage."""
        settings = stage.settings(self.inputs)
        hashes = {name: self._sha256(name) for name in stage.inputs}
        old = self.record.stages[stage.name]
        forced = self.force and stage.name not in self.spared
        reason = "--force" if forced else why_again(old, self.directory, stage.name, settings, hashes)
        if reason is None:
            old.reused, old.reason = True, REUSED
            self.record.save()
            self.reporter.message(f"{stage.name}: {REUSED}")
            return
        self._check_space()
        new = StageRecord("running", reason=f"ran because {reason}", version=__version__, started=now())
        new.settings, new.inputs, new.key = settings, hashes, stage_key(stage.name, settings, hashes)
        self.record.stages[stage.name] = new
        self.directory.joinpath("report.html").unlink(missing_ok=True)  # it would describe other files than these
        self.record.save()
        self._work(stage, new)
        if new.status == "skipped":  # files that an earlier run made for other inputs would look like its result
            for name in old.outputs:
                (self.directory / name).unlink(missing_ok=True)
        self.record.save()

    def _work(self, stage: Stage, record: StageRecord) -> None:
        job = Job(self.inputs, self.directory, record.key, self.force, self.reporter, self.record.networks)
        begin = time.monotonic()
        try:
            own = computing(self.inputs.config.threads, self.reporter.message) if stage.computes else nullcontext()
            with own, self.reporter.task(stage.title) as progress:
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
        """Fail before the first stage that works if the disk cannot hold the build."""
        if self.checked_space:
            return
        self.checked_space = True
        check_space(self.directory, self.inputs.pruning_plan)

    def _sha256(self, name: str) -> str:
        path = self.inputs.teacher.path if name == SOURCE else self.directory / name
        return sha256_file(path) if path.is_file() else "absent"  # such as an engine that was skipped
