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
from ...gates import LATENTS, SPEED, Outcome, Requirement, Verdict, doubts, judge, parse_requirements
from ...gates import QUALITY as JUDGED
from ..headline import fastest_student
from ..judgement import QUALITY, unstable_because
from ..run_directory import Bench, BenchRow, Network, RunDirectory, Speedup, read_run_directory
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
    """The folder's name as given; its whole path where two would have the same."""
    directory: str
    status: str | None
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
    quality: dict[str, float | None]
    """FID, recall and the like by name."""
    settings: dict[str, JsonValue] = field(default_factory=dict)
    """Its values of the settings that differ among the runs."""
    unstable_because: list[str] = field(default_factory=list)
    """Reasons not to trust the latency; empty for a good benchmark."""
    parity: bool | None = None
    """Whether the exported file generates the network's images."""
    gates: Verdict | None = None
    """Outcome of the requirements; None without any."""
    dominated_by: str | None = None
    """A run that is at least as fast and as good, and better in one of them; None if there is none."""

    @property
    def missed(self) -> list[str]:
        """The outcome of each requirement that it misses, as a sentence."""
        return [one.text for one in self.gates.requirements if not one.passed] if self.gates else []


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side, and which one to take."""

    runs: tuple[ComparedRun, ...]
    teacher: ComparedRun | None
    """The teacher's figures, if all runs have the same."""
    requirements: tuple[str, ...]
    """What was required of all runs alike; empty where each run has its own, or none."""
    cost: Cost
    """What the Pareto front takes as cost: "latency_ms", or "macs" where latencies are not comparable."""
    front: tuple[str, ...]
    """Names of the runs on the Pareto front: no other run is at least as fast and as good, and better in one."""
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
        names = ("requirements", "cost", "front", "recommended", "reason", "notes")
        return {"runs": runs, "teacher": teacher, **{name: getattr(self, name) for name in names}}

    def raise_for_failure(self) -> None:
        """Raise QualityError if requirements are known and no run meets them."""
        judged = [run for run in self.runs if run.gates is not None]
        if judged and not any(run.gates.passed for run in judged if run.gates):
            words = [f"{run.name}: {'; '.join(run.missed) or 'it is not known which'}" for run in judged]
            raise QualityError(
                f"none meets its requirements: {'; '.join(words)}",
                "Change what limits the students, or change --require.",
            )


def _run_dict(run: ComparedRun) -> dict[str, Any]:
    values = {name: getattr(run, name) for name in ComparedRun.__dataclass_fields__}
    speedup = None if run.speedup is None else run.speedup.model_dump()
    return {**values, "speedup": speedup, "gates": None if run.gates is None else asdict(run.gates)}


def compare(
    directories: Sequence[str | os.PathLike[str]],
    *,
    requirements: Sequence[Requirement] | None = None,
    timing: dict[str, Any] | None = None,
) -> RunComparison:
    """Compare run directories of ``build`` by quality, size and speed, and recommend one.

    ``requirements`` are judged for every run alike, none of them if empty; with None each run has those that it was
    built with. ``timing`` is a benchmark that timed all students in turns; its models have the names of
    :func:`names_of`. Without it each run's own benchmark counts.

    Raises UsageError for fewer than two runs and for a run that is given twice, InputError for a folder that is not a
    run, CorruptFileError for a malformed file in one.
    """
    folders = [Path(directory) for directory in directories]
    names = names_of(folders)
    found = [read_run_directory(folder) for folder in folders]
    if timing is not None:
        shared = Bench.model_validate(timing)
        found = [replace(run, bench=_part_of(shared, name)) for name, run in zip(names, found, strict=True)]
    differing, in_turns = _differing_settings(found), timing is not None
    runs = [
        _student_facts(name, folder, run, differing, _required(run, requirements, in_turns=in_turns))
        for name, folder, run in zip(names, folders, found, strict=True)
    ]
    limits = limits_of(folders, found, in_turns=in_turns)
    timed = [run.latency_ms is not None and not run.unstable_because for run in runs if _usable(run)]
    cost: Cost = "latency_ms" if limits.same_speed and timed and all(timed) else "macs"
    candidates = [_candidate(facts, run, cost, limits.same_teacher) for facts, run in zip(runs, found, strict=True)]
    choice = recommend(candidates, same_quality=limits.same_quality)
    notes = [*limits.notes, *_notes_on_requirements(runs)]
    return RunComparison(
        runs=tuple(replace(run, dominated_by=choice.dominated_by.get(run.name)) for run in runs),
        teacher=_teacher_facts(folders, found) if limits.same_teacher else None,
        requirements=tuple(one.text for one in requirements or ()),
        cost=cost,
        front=choice.front,
        recommended=choice.recommended,
        reason=choice.reason,
        notes=tuple(notes if cost == "latency_ms" else [*notes, MACS_INSTEAD]),
        directories=tuple(found),
    )


def _usable(run: ComparedRun) -> bool:
    """Whether the build is finished and its exported file is right."""
    return run.status == "finished" and run.parity is not False


def _notes_on_requirements(runs: Sequence[ComparedRun]) -> list[str]:
    required = {tuple(sorted(one.requirement for one in run.gates.requirements)) if run.gates else () for run in runs}
    return ["The runs have different requirements; --require gives all the same ones."] if len(required) > 1 else []


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
    given = [os.path.normpath(Path.cwd() / folder) for folder in folders]  # not the names that links lead to
    counted = Counter([*(Path(path).name for path in given), TEACHER])  # the teacher has a column of its own
    return [path if counted[Path(path).name] > 1 else Path(path).name for path in given]


def _facts(name: str, model: str, folder: Path, run: RunDirectory, row: BenchRow | None) -> ComparedRun:
    """Return size, latency and quality of one model of a run; ``row`` is its candidate of the benchmark."""
    network = run.run.networks.get(model, Network())
    return ComparedRun(
        name=name,
        directory=str(folder),
        status=run.run.status,
        parameters=network.parameters,
        macs=network.macs,
        onnx_bytes=run.file_bytes.get(f"{model}.onnx"),
        latency_ms=None if row is None else row.p50_ms,
        fastest=None if row is None else row.name,
        speedup=None if row is None else row.speedup,
        quality=_figures(run, model),
    )


def _student_facts(
    name: str,
    folder: Path,
    run: RunDirectory,
    differing: Sequence[str],
    requirements: Sequence[Requirement] | None,
) -> ComparedRun:
    facts = replace(
        _facts(name, "student", folder, run, fastest_student(run)),
        settings={setting: run.run.config.get(setting) for setting in differing},
        unstable_because=list(unstable_because(run)),
        parity=run.parity.passed if run.parity else None,
    )
    return replace(facts, gates=_judged(facts, run, requirements))


def _teacher_facts(folders: Sequence[Path], runs: Sequence[RunDirectory]) -> ComparedRun:
    """Return the teacher's figures in the first run that has most of them."""

    def known(run: RunDirectory) -> int:
        return (run.quality(TEACHER).fid is not None) + bool(run.bench_rows) + (TEACHER in run.run.networks)

    folder, run = max(zip(folders, runs, strict=True), key=lambda one: known(one[1]))
    row = next((row for row in run.bench_rows if run.bench and row.name == run.bench.baseline), None)
    return _facts(TEACHER, TEACHER, folder, run, row)


def _figures(run: RunDirectory, model: str) -> dict[str, float | None]:
    return {key: getattr(run.quality(model), key) for key in QUALITY}


def _required(
    run: RunDirectory, requirements: Sequence[Requirement] | None, *, in_turns: bool
) -> Sequence[Requirement] | None:
    """Return what to judge a run by; None where the outcome that it has recorded counts.

    A benchmark in turns gives another speed-up than the recorded one, so the run's own requirements are judged again.
    """
    if requirements is not None or not in_turns or run.gates is None:
        return requirements
    try:
        return parse_requirements([one.requirement for one in run.gates.requirements], (*JUDGED, *LATENTS, SPEED))
    except UsageError:  # written by another version
        return None


def _judged(facts: ComparedRun, run: RunDirectory, requirements: Sequence[Requirement] | None) -> Verdict | None:
    """Return the outcome of the requirements, or the recorded one; None without any."""
    if requirements is not None:
        ours, theirs = (run.figures(model) for model in ("student", TEACHER))
        ours[SPEED] = None if facts.speedup is None else facts.speedup.value
        doubted = doubts(facts.unstable_because)
        return judge(requirements, ours, theirs, untrusted=doubted) if requirements else None
    if run.gates is None or (run.gates.passed and not run.gates.requirements):
        return None
    outcomes = tuple(
        Outcome(one.requirement, one.metric or "", one.value, one.limit, one.passed, one.text)
        for one in run.gates.requirements
    )
    return Verdict(run.gates.passed and all(one.passed for one in outcomes), outcomes)


def _candidate(facts: ComparedRun, run: RunDirectory, cost: Cost, same_teacher: bool) -> Candidate:
    """Return what the choice needs to know of a run."""
    bounds, speedup = None, facts.speedup if cost == "latency_ms" else None
    if same_teacher and speedup is not None and speedup.low is not None:
        bounds = speedup.low, speedup.high or speedup.value
    return Candidate(
        name=facts.name,
        cost=getattr(facts, cost),
        speedup=None if speedup is None else speedup.value,
        speedup_bounds=bounds,
        quality=facts.quality,
        teacher_quality=_figures(run, TEACHER),
        usable=_usable(facts),
        passed=None if facts.gates is None else facts.gates.passed,
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
