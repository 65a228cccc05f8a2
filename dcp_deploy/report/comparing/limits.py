"""How far the figures of several runs can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..run_directory import Quality, RunDirectory

_MACHINE = ("cpu", "usable_cores", "cpu_quota", "gpu")
_MEASURED_WITH = ("features", "samples", "seed", "psi")


@dataclass(frozen=True)
class Limits:
    """What the runs have in common, and a sentence for each difference that limits the comparison."""

    same_teacher: bool
    same_quality: bool
    """Whether FID and the like were measured in the same way."""
    same_speed: bool
    """Whether latencies were measured on one machine with the same threads."""
    teacher_quality: Quality
    """That of the first run's teacher."""
    notes: tuple[str, ...]


def limits_of(folders: Sequence[Path], runs: Sequence[RunDirectory], *, in_turns: bool) -> Limits:
    """Return the limits of a comparison; ``in_turns``: one benchmark timed all students."""
    notes = [f"{folder}: the build is {run.run.status or 'of unknown state'}." for folder, run in
             zip(folders, runs, strict=True) if run.run.status != "finished"]  # fmt: skip
    same_teacher = len({_teacher_of(folder, run) for folder, run in zip(folders, runs, strict=True)}) == 1
    if not same_teacher:
        notes.append("The runs have different teachers, so each speedup is over another baseline.")
    apart = _differing([_protocol(run) for run in runs])
    if apart:
        notes.append(f"FID and the like are not comparable: the runs differ in {', '.join(apart)}.")
    machines = [] if in_turns else _differing([_machine(run) for run in runs])
    if machines:
        notes.append(f"Latencies are not comparable: the benchmarks differ in {', '.join(machines)}.")
    elif not in_turns:
        notes.append("Each latency comes from the run's own benchmark; --measure times all students in turns.")
    return Limits(same_teacher, not apart, not machines, runs[0].quality("teacher"), tuple(notes))


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
    return [name for name in facts[0] if any(one[name] != facts[0][name] for one in facts)]


def _teacher_of(folder: Path, run: RunDirectory) -> str:
    """Return the identity of a run's teacher: the sha256 of its tensors, as the student's file records it."""
    from ...checkpoints import read_metadata

    for model in ("student", "pruned"):
        file = folder / f"{model}.safetensors"
        if file.is_file():
            recorded = read_metadata(file)["extra"].get("teacher")
            if isinstance(recorded, dict) and isinstance(recorded.get("tensors_sha256"), str):
                return str(recorded["tensors_sha256"])
    return str(folder)  # nothing is known, so it counts as one of its own
