"""``build``: all stages in order, each only when it has to, resumable after any kill."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__
from ..config import BuildConfig, to_toml
from ..doctor.diagnosis import free_space
from ..errors import InputError, MissingCapabilityError
from ..files import atomic_path, sha256_file
from ..progress import Reporter
from ..teachers.downloads import Fetched, announcement, cached, fetch
from .distilling import mask_of, recipe_of
from .inputs import data_settings, open_data, real_facts, real_words
from .plan import Estimate, disk_needed, estimate
from .record import RunRecord, StageRecord, locked, now, stage_key, why_again
from .stages import SOURCE, STAGES, Job, SkippedError, Stage, device_of, numbers, unmeasurable

if TYPE_CHECKING:
    from ..compression import PruningPlan
    from ..datasets.images import ImageSet

REUSED = "reused because inputs, settings and version are unchanged"


@dataclass(frozen=True)
class Source:
    """The teacher's file, and where it came from (``origin``, for run.json)."""

    path: Path
    origin: dict[str, Any]

    @classmethod
    def of(cls, fetched: Fetched) -> Source:
        """A file of the cache."""
        return cls(fetched.path, fetched.to_dict())


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


@dataclass(frozen=True)
class BuildPlan:
    """What ``build`` would do: ``table`` for people, ``facts`` for JSON.

    ``estimate`` is None as long as the teacher has yet to be fetched: then the plan says no more than that.
    """

    table: str
    facts: dict[str, Any]
    estimate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**self.facts, "estimate": None if self.estimate is None else self.estimate.to_dict()}


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


def plan_build(config: BuildConfig) -> BuildPlan:
    """What ``build`` would make of this config, and about how long it would take. Writes and fetches nothing."""
    from ..checkpoints import load_generator
    from ..generators import count_macs

    _check_target(config)
    source = _teacher_here(config)
    if source is None:
        there = cached(config.preset.teacher)
        source = Source.of(there) if there is not None else None
    if source is None:
        return _plan_to_fetch(config)
    planned = _planned(config, source)
    teacher = load_generator(source.path).to(device_of(config)).requires_grad_(False)
    macs = count_macs(planned.teacher)
    recipe = recipe_of(config, demo=config.is_demo)
    guess = estimate(teacher, planned, config.work.for_teacher(macs), recipe, refine=config.refine)
    real = _real(config, planned, open_data(config, planned.teacher))
    facts = {"config": config.to_dict(), "effort": numbers(config, macs), "images": real, "fetch": None}
    facts |= planned.to_dict()
    return BuildPlan(str(planned), facts, guess)


def _plan_to_fetch(config: BuildConfig) -> BuildPlan:
    """The plan while the teacher is somewhere else: its widths, and all that follows from them, are not known yet."""
    teacher = config.preset.teacher
    fetching = {"file": teacher.file, "url": teacher.url, "megabytes": teacher.megabytes, "licence": teacher.licence}
    return BuildPlan(
        f"build would fetch {announcement(teacher)}.\nWidths, parameters, time and memory can be told once it is here, "
        "or of another teacher with --teacher FILE.",
        {"config": config.to_dict(), "effort": numbers(config), "fetch": fetching},
        None,
    )


def teacher_source(config: BuildConfig, reporter: Reporter) -> Source:
    """The file to start from: ``config.teacher``, else what ships for the preset, else what can be fetched for it.

    Raises InputError when the given file does not exist, MissingCapabilityError when the preset's cannot be had here,
    CorruptFileError when what came is not what it should be.
    """
    here = _teacher_here(config)
    if here is not None:
        return here
    teacher = config.preset.teacher
    with reporter.task(f"fetch {teacher.file}, MB") as progress:
        return Source.of(fetch(teacher, say=reporter.message, progress=progress))


def _teacher_here(config: BuildConfig) -> Source | None:
    """The teacher that needs no download; None when the preset's has to be fetched, or lies in the cache."""
    if config.teacher is not None:
        if not config.teacher.is_file():
            raise InputError(f"there is no teacher file {config.teacher}", "Check the path given to --teacher.")
        return Source(config.teacher, {"origin": "file", "path": str(config.teacher)})
    teacher = config.preset.teacher
    if teacher.url is not None:
        return None
    asset = Path(str(resources.files("dcp_deploy") / "assets" / teacher.file))
    if not asset.is_file():
        raise MissingCapabilityError(
            f"this installation lacks its demo teacher ({asset.name})",
            "Install dcp-deploy again, or give --teacher FILE.",
        )
    return Source(asset, {"origin": "package", "path": str(asset), "licence": teacher.licence})


def _planned(config: BuildConfig, source: Source) -> PruningPlan:
    """The plan's widths and costs. They depend on how many channels go, not on which: any scores will do."""
    from ..checkpoints import read_checkpoint
    from ..compression import plan, score

    try:
        teacher = read_checkpoint(source.path).generator  # what it lacks is said by the stage that reads it for good
    except InputError as error:
        if "url" not in source.origin:
            raise
        again = f"It came from {source.origin['url']}: delete {source.path.parent} to fetch it anew."
        raise type(error)(error.message, f"{error.remedy}\n{again}".strip()) from error
    return plan(teacher, score(teacher, method="random"), **config.widths_wanted)


def _real(config: BuildConfig, planned: PruningPlan, images: ImageSet | None) -> dict[str, Any]:
    """What the real images are, of a build that is about to start."""
    demo = unmeasurable(config, {"resolution": planned.teacher.resolution, "c_dim": planned.teacher.c_dim}) is None
    return real_facts(images, recipe_of(config, demo=config.is_demo), demo=demo)


def _check_machine(config: BuildConfig) -> None:
    """Find out now what would stop a stage after minutes of work."""
    device_of(config)
    mask_of(config)
    data_settings(config)  # that there are images; whether they fit is known once the teacher is
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingCapabilityError(
            "build compares and measures the exported files with ONNX Runtime, which is not installed",
            "pip install 'dcp-deploy[cpu]', or [gpu] in its place",
        )
    _check_target(config)
    if config.target and not any(map(importlib.util.find_spec, ("tensorrt_rtx", "tensorrt"))):
        raise MissingCapabilityError(
            f"--target {config.target} asks for an engine, and no TensorRT is installed",
            "pip install 'dcp-deploy[rtx]', or leave --target out",
        )


def _check_target(config: BuildConfig) -> None:
    """UsageError for a GPU that nobody knows."""
    from ..export.tensorrt.targets import parse_targets

    if config.target:
        parse_targets(config.target)


class _Builder:
    """One run of the stages, and its record."""

    def __init__(
        self,
        config: BuildConfig,
        source: Source,
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
