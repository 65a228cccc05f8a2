"""What several runs have reached, and how far their figures can be compared."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ...errors import QualityError, UsageError
from ...gates import QUALITY as JUDGED
from ...gates import SPEED, Outcome, Requirement, Verdict, doubts, judge
from ..headline import fastest_student
from ..judgement import QUALITY, unstable_because
from ..run_directory import Bench, Network, RunDirectory, Speedup, read_run_directory
from .choice import Candidate, Cost, recommend
from .limits import limits_of

TEACHER = "teacher"
MACS_INSTEAD = "The picture and the recommendation take MACs as cost, because latencies cannot be compared here."
_NOT_COMPARED = ("out", "wait", "require")
"""Settings that do not change the student."""


@dataclass(frozen=True)
class ComparedRun:
    """The figures of one run. None: not measured."""

    name: str
    """The folder's name; with more of its path where two would have the same."""
    directory: str
    status: str | None
    settings: dict[str, JsonValue]
    """Its values of the settings that differ among the runs."""
    parameters: int | None
    macs: int | None
    """Multiplications and additions of one image."""
    onnx_bytes: int | None
    latency_ms: float | None
    """Median of the student in its fastest backend."""
    fastest: str | None
    """Name of that candidate of the benchmark."""
    speedup: Speedup | None
    """Times as fast as the teacher, with its 95 % interval."""
    unstable_because: list[str]
    """Reasons not to trust the latency; empty for a good benchmark."""
    parity: bool | None
    """Whether the exported file generates the network's images."""
    quality: dict[str, float | None]
    """FID, recall and the like by name."""
    gates: Verdict | None
    """Outcome of the requirements; None without any."""
    dominated_by: str | None = None
    """A run that is at least as fast and as good, and better in one of them; None on the Pareto front."""


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side, and which one to take."""

    runs: tuple[ComparedRun, ...]
    teacher: ComparedRun | None
    """The teacher's figures, if all runs have the same."""
    requirements: tuple[str, ...]
    """What was required of all runs alike; empty where each run has its own."""
    cost: Cost
    """What the Pareto front takes as cost: "latency_ms", or "macs" where latencies are not comparable."""
    recommended: str | None
    """Name of the run to take."""
    reason: str
    """Why that one, or why none."""
    notes: tuple[str, ...]
    """What limits the comparison."""
    directories: tuple[RunDirectory, ...] = field(repr=False, compare=False)
    """The runs as they were read, for the images."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready document."""
        runs = [_run_dict(run) for run in self.runs]
        teacher = None if self.teacher is None else _run_dict(self.teacher)
        names = ("requirements", "cost", "recommended", "reason", "notes")
        return {"runs": runs, "teacher": teacher, **{name: getattr(self, name) for name in names}}

    def raise_for_failure(self) -> None:
        """Raise QualityError if requirements are known and no run meets them."""
        judged = [run for run in self.runs if run.gates is not None]
        if judged and not any(run.gates.passed for run in judged if run.gates):
            raise QualityError(self.reason, "Change what limits the students, or change --require.")


def _run_dict(run: ComparedRun) -> dict[str, Any]:
    values = {name: getattr(run, name) for name in ComparedRun.__dataclass_fields__}
    speedup = None if run.speedup is None else run.speedup.model_dump()
    return {**values, "speedup": speedup, "gates": None if run.gates is None else asdict(run.gates)}


def compare(
    directories: Sequence[str | os.PathLike[str]],
    *,
    requirements: Sequence[Requirement] = (),
    timing: dict[str, Any] | None = None,
) -> RunComparison:
    """Compare run directories of ``build`` by quality, size and speed, and recommend one.

    ``requirements`` are judged for every run alike; without them each run has those that it was built with.
    ``timing`` is a benchmark that timed all students in turns; its models have the names of :func:`names_of`. Without
    it each run's own benchmark counts.

    Raises UsageError for fewer than two runs and for a run that is given twice, InputError for a folder that is not a
    run, CorruptFileError for a malformed file in one.
    """
    folders = [Path(directory) for directory in directories]
    names = names_of(folders)
    found = [read_run_directory(folder) for folder in folders]
    if timing is not None:
        shared = Bench.model_validate(timing)
        found = [replace(run, bench=_part_of(shared, name)) for name, run in zip(names, found, strict=True)]
    differing = _differing_settings(found)
    runs = [
        _facts(name, folder, run, differing, requirements)
        for name, folder, run in zip(names, folders, found, strict=True)
    ]
    limits = limits_of(folders, found, in_turns=timing is not None)
    timed = all(run.latency_ms is not None and not run.unstable_because for run in runs)
    cost: Cost = "latency_ms" if limits.same_speed and timed else "macs"
    choice = recommend([_candidate(run, cost) for run in runs], limits, judged=any(run.gates for run in runs))
    return RunComparison(
        runs=tuple(replace(run, dominated_by=choice.dominated_by.get(run.name)) for run in runs),
        teacher=_teacher_facts(folders[0], found[0]) if limits.same_teacher else None,
        requirements=tuple(one.text for one in requirements),
        cost=cost,
        recommended=choice.recommended,
        reason=choice.reason,
        notes=(*limits.notes, *([] if cost == "latency_ms" else [MACS_INSTEAD])),
        directories=tuple(found),
    )


def _part_of(bench: Bench, name: str) -> Bench:
    """Return a benchmark of several students as that of one: its rows and the teacher's."""
    rows = [
        row.model_copy(update={"labels": {**row.labels, "model": "student"}}) if row.label("model") == name else row
        for row in bench.rows
        if row.label("model") in ("teacher", name)
    ]
    return bench.model_copy(update={"rows": rows})


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a short name for each run directory: its folder's name, or its whole path where names repeat.

    Raises UsageError for fewer than two folders, or for the same one twice.
    """
    if len(folders) < 2:
        raise UsageError("a comparison needs at least two runs", "Give two or more folders that build wrote.")
    places = [os.path.realpath(folder) for folder in folders]
    twice = next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice", "Give each run once.")
    short = [Path(place).name for place in places]
    counted = Counter([*short, TEACHER])  # the teacher has a column of its own
    return [str(folder) if counted[name] > 1 else name for folder, name in zip(folders, short, strict=True)]


def _facts(
    name: str, folder: Path, run: RunDirectory, differing: Sequence[str], requirements: Sequence[Requirement]
) -> ComparedRun:
    network, best = run.run.networks.get("student", Network()), fastest_student(run)
    facts = ComparedRun(
        name=name,
        directory=str(folder),
        status=run.run.status,
        settings={setting: run.run.config.get(setting) for setting in differing},
        parameters=network.parameters,
        macs=network.macs,
        onnx_bytes=run.file_bytes.get("student.onnx"),
        latency_ms=None if best is None else best.p50_ms,
        fastest=None if best is None else best.name,
        speedup=None if best is None else best.speedup,
        unstable_because=list(unstable_because(run)),
        parity=run.parity.passed if run.parity else None,
        quality=_figures(run, "student"),
        gates=None,
    )
    return replace(facts, gates=_judged(facts, run, requirements))


def _teacher_facts(folder: Path, run: RunDirectory) -> ComparedRun:
    network = run.run.networks.get("teacher", Network())
    row = next((row for row in run.bench_rows if run.bench and row.name == run.bench.baseline), None)
    return ComparedRun(
        name=TEACHER,
        directory=str(folder),
        status=run.run.status,
        settings={},
        parameters=network.parameters,
        macs=network.macs,
        onnx_bytes=run.file_bytes.get("teacher.onnx"),
        latency_ms=None if row is None else row.p50_ms,
        fastest=None if row is None else row.name,
        speedup=None,
        unstable_because=[],
        parity=None,
        quality=_figures(run, "teacher"),
        gates=None,
    )


def _figures(run: RunDirectory, model: str) -> dict[str, float | None]:
    return {key: getattr(run.quality(model), key) for key in QUALITY}


def _judged(facts: ComparedRun, run: RunDirectory, requirements: Sequence[Requirement]) -> Verdict | None:
    """Return the outcome of the given requirements; without any, of the run's own; None without either."""
    if requirements:
        ours, theirs = ({key: getattr(run.quality(model), key) for key in JUDGED} for model in ("student", "teacher"))
        ours[SPEED] = None if facts.speedup is None else facts.speedup.value
        return judge(requirements, ours, theirs, untrusted=doubts(facts.unstable_because))
    if run.gates is None or not run.gates.requirements:
        return None
    outcomes = tuple(
        Outcome(one.requirement, one.metric or "", one.value, one.limit, one.passed, one.text)
        for one in run.gates.requirements
    )
    return Verdict(run.gates.passed, outcomes)


def _candidate(run: ComparedRun, cost: Cost) -> Candidate:
    """Return what the choice needs to know of a run."""
    bounds = None
    if cost == "latency_ms" and run.speedup is not None and run.speedup.low is not None:
        bounds = run.speedup.low, run.speedup.high or run.speedup.value
    return Candidate(
        name=run.name,
        cost=getattr(run, cost),
        speedup=run.speedup.value if run.speedup and cost == "latency_ms" else None,
        speedup_bounds=bounds,
        quality=run.quality,
        usable=run.status == "finished" and run.parity is not False,
        passed=None if run.gates is None else run.gates.passed,
    )


def _differing_settings(runs: Sequence[RunDirectory]) -> list[str]:
    """Return the names of the settings in which the runs differ, without their folders."""
    names = dict.fromkeys(name for run in runs for name in run.run.config)
    first = runs[0].run.config
    return [
        name
        for name in names
        if name not in _NOT_COMPARED and any(run.run.config.get(name) != first.get(name) for run in runs)
    ]
