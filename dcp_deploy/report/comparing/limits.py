"""How far the figures of several runs can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..run_directory import Quality, RunDirectory

_MACHINE = ("cpu", "usable_cores", "cpu_quota", "gpu")
_MEASURED_WITH = ("features", "samples", "psi")


@dataclass(frozen=True)
class Limits:
    """What the runs have in common, and a sentence for each difference that limits the comparison."""

    same_teacher: bool
    same_quality: bool
    """Whether FID and the like were measured in the same way, where they were measured."""
    same_speed: bool
    """Whether latencies were measured on one machine with the same threads, where they were measured."""
    notes: tuple[str, ...]


def limits_of(folders: Sequence[Path], runs: Sequence[RunDirectory], *, in_turns: bool) -> Limits:
    """Return the limits of a comparison; ``in_turns``: one benchmark timed all students."""
    notes = [f"{folder}: the build is {run.run.status or 'of unknown state'}." for folder, run in
             zip(folders, runs, strict=True) if run.run.status != "finished"]  # fmt: skip
    teachers = [_teacher_of(folder) for folder in folders]
    same_teacher = len(set(teachers)) == 1 and None not in teachers
    if not same_teacher:
        notes.append(_teachers_words(teachers, in_turns=in_turns))
    measured = [run for run in runs if run.quality("student") != Quality()]
    apart = _differing([_protocol(run) for run in measured])
    if apart:
        notes.append(f"FID and the like are not comparable: the runs differ in {', '.join(apart)}.")
    elif _differing([{"seed": run.quality("student").seed} for run in measured]):
        notes.append("FID and the like were measured with different seeds, so small differences mean little.")
    timed = [run for run in runs if run.bench_rows]
    machines = [] if in_turns else _differing([_machine(run) for run in timed])
    if machines:
        notes.append(f"Latencies are not comparable: the benchmarks differ in {', '.join(machines)}.")
    elif timed and not in_turns:
        notes.append("Each latency comes from the run's own benchmark; --measure times all students in turns.")
    return Limits(same_teacher, not apart, not machines, tuple(notes))


def _teachers_words(teachers: Sequence[str | None], *, in_turns: bool) -> str:
    known = {teacher for teacher in teachers if teacher is not None}
    words = "The runs have different teachers" if len(known) > 1 else "Not every run says which teacher it has"
    if in_turns:
        return f"{words}; each speedup is over the teacher of the first run."
    return f"{words}, so each speedup is over another baseline."


def _protocol(run: RunDirectory) -> dict[str, object]:
    """Return what quality was measured with; real images by their number and kind."""
    measured = run.quality("student")
    facts = {name: getattr(measured, name) for name in _MEASURED_WITH}
    return {**facts, "data set": run.run.config.get("dataset"), "real images": run.run.config.get("data")}


def _machine(run: RunDirectory) -> dict[str, object]:
    found = run.bench.environment if run.bench else {}
    threads = sorted({str(row.labels.get("threads")) for row in run.bench_rows})
    return {**{name: found.get(name) for name in _MACHINE}, "threads": tuple(threads)}


def _differing(facts: Sequence[dict[str, object]]) -> list[str]:
    """Return the names of the entries that are not alike in all; without facts there are none."""
    return [name for name in (facts[0] if facts else {}) if any(one[name] != facts[0][name] for one in facts)]


def _teacher_of(folder: Path) -> str | None:
    """Return the sha256 of the teacher's tensors, as the student's file records it; None if it is not known."""
    from ...checkpoints import read_metadata

    for model in ("student", "pruned"):
        file = folder / f"{model}.safetensors"
        if file.is_file():
            extra = read_metadata(file).get("extra")
            recorded = extra.get("teacher") if isinstance(extra, dict) else None
            if isinstance(recorded, dict) and isinstance(recorded.get("tensors_sha256"), str):
                return str(recorded["tensors_sha256"])
    return None
