"""A build in a few lines: what it gained, what it cost, and how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluation.inspection import licence_facts
from ..files import RUN_FILE, sha256_file
from ..gates import UNSTABLE
from ..report.headline import fastest_student, same_backend
from ..report.judgement import unstable_because
from ..report.run_directory import Network, RunDirectory, Stage, read_run_directory
from ..report.tables import worst_difference
from ..report.text import amount, size, times
from .inputs import DATA, real_words

NOT_MEASURED = "not measured"


def summarise(directory: Path) -> dict[str, Any]:
    """Return the figures of a run directory, ready for JSON; None stands for not measured."""
    return _summarised(read_run_directory(directory), directory)


def describe_run(directory: Path) -> dict[str, Any]:
    """Describe a run directory as ``inspect`` does a file: state, stages, settings and figures; the network is the
    student.

    Raises CorruptFileError for a malformed file in it.
    """
    found = read_run_directory(directory)
    run, student = found.run, found.run.networks.get("student", Network())
    return {
        "path": str(directory),
        "format": "run",
        "kind": student.kind,
        "resolution": student.resolution,
        "image_size": None if student.image_size is None else list(student.image_size),
        "widths": student.widths or None,
        "parameters": student.parameters,
        "macs": student.macs,
        "sha256": sha256_file(directory / RUN_FILE),
        **licence_facts(_licence(directory) or run.teacher),
        **{name: getattr(run, name) for name in ("status", "started", "finished", "seconds", "command", "config")},
        "stages": {name: stage.model_dump() for name, stage in run.stages.items()},
        "summary": _summarised(found, directory),
    }


def _licence(directory: Path) -> dict[str, Any]:
    """Return the licence in a run's student, before it exists that in its teacher; empty without both."""
    from ..checkpoints import read_metadata
    from ..checkpoints.provenance import as_texts

    files = (directory / f"{model}.safetensors" for model in ("student", "teacher"))
    return next((dict(as_texts(read_metadata(file)["extra"])) for file in files if file.is_file()), {})


def _summarised(run: RunDirectory, directory: Path) -> dict[str, Any]:
    best = fastest_student(run)
    engines = sorted(directory.glob("engines/*.engine"))
    return {
        "speedup": _speedup(run),
        "fastest": best.name if best else None,
        "baseline": run.bench.baseline if run.bench else None,
        "gates": None if run.gates is None else run.gates.model_dump(exclude={"schema_version"}),
        "parity": {
            "passed": run.parity.passed if run.parity else None,
            "difference": worst_difference(run),
        },
        "quality": {
            name: {"fid": run.quality(name).fid, "mode_coverage": run.quality(name).mode_coverage}
            for name in ("teacher", "student")
        },
        "latents": _latents(run),
        "images": run.run.images or None,
        "not_measured": run.metrics.reason if run.metrics else None,
        "networks": {
            name: {"parameters": network.parameters, "macs": network.macs, "bytes": network.bytes}
            for name, network in run.run.networks.items()
        },
        "files": {name: run.file_bytes[name] for name in sorted(run.file_bytes)},
        "engine": str(engines[0]) if engines else None,
        "no_engine": None if engines else run.run.stages.get("engine", Stage()).reason,
        "report": str(directory / "report.html"),
    }


def _latents(run: RunDirectory) -> dict[str, float | None] | None:
    """Return the figures of the teacher's latents in the student; None if they were not measured."""
    found = run.metrics.latents if run.metrics else None
    return None if found is None else {**found.figures(), "l1": found.own.l1}


def _speedup(run: RunDirectory) -> dict[str, Any] | None:
    best = fastest_student(run)
    if best is None or best.speedup is None:
        return None
    alike = same_backend(run)
    return {
        **best.speedup.model_dump(),
        "same_backend": None if alike is None else alike.speedup,
        "same_backend_name": None if alike is None else alike.name,
        "unstable_because": unstable_because(run),
    }


def as_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the name and the words of each line of the summary."""
    networks, files, images = facts["networks"], facts["files"], facts["images"] or {}
    teacher, student = networks.get("teacher", {}), networks.get("student", {})
    sizes = [f"{name} {size(files[name])}" for name in ("teacher.onnx", "student.onnx") if name in files]
    return [
        *_gate_lines(facts["gates"]),
        ("speedup", _speedup_words(facts)),
        ("parity", _parity_words(facts["parity"])),
        ("quality", _quality_words(facts)),
        ("latents", _latents_words(facts["latents"])),
        *([("real images", real_words(images))] if images.get("real") == DATA else []),
        ("parameters", _change(teacher.get("parameters"), student.get("parameters"))),
        ("MACs", _change(teacher.get("macs"), student.get("macs"))),
        ("size", ", ".join(sizes) or NOT_MEASURED),
        ("engine", facts["engine"] or f"none: {facts['no_engine']}"),
        ("report", facts["report"]),
    ]


def _gate_lines(gates: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Write the verdict first, and a line for each requirement that failed."""
    if gates is None or not gates["requirements"]:
        return []
    asked, failed = gates["requirements"], [one["text"] for one in gates["requirements"] if not one["passed"]]
    if not failed:
        return [("requirements", f"met: {'; '.join(one['text'] for one in asked)}")]
    return [("requirements", f"NOT MET: {len(failed)} of {len(asked)}"), *(("  failed", text) for text in failed)]


def _change(teacher: int | None, student: int | None) -> str:
    """Write "24.6 M -> 2.1 M"; in a run without a student yet, what is known."""
    return f"{amount(teacher) or 'unknown'} -> {amount(student, teacher) or 'unknown'}"


def _speedup_words(facts: dict[str, Any]) -> str:
    found = facts["speedup"]
    if found is None:
        return NOT_MEASURED
    if found["unstable_because"]:
        return f"{UNSTABLE} ({'; '.join(found['unstable_because'])})"
    words = f"{times(found['value'])} ({facts['fastest']} against {facts['baseline']}"
    if found["same_backend"] is None:
        return f"{words})"
    return f"{words}; {times(found['same_backend'])} with both in {found['same_backend_name']})"


def _parity_words(parity: dict[str, Any]) -> str:
    if parity["passed"] is None:
        return NOT_MEASURED
    detail = f": {parity['difference']}" if parity["difference"] else ""
    return f"{'passed' if parity['passed'] else 'FAILED'}{detail}"


def _quality_words(facts: dict[str, Any]) -> str:
    parts = []
    for name, quality in facts["quality"].items():
        if quality["fid"] is not None:
            coverage = quality["mode_coverage"]
            modes = f", mode coverage {coverage:.3f}" if coverage is not None else ""
            parts.append(f"{name} FID {quality['fid']:.2f}{modes}")
    return "; ".join(parts) or f"{NOT_MEASURED}: {facts['not_measured'] or 'the stage did not run'}"


def _latents_words(latents: dict[str, float | None] | None) -> str:
    if latents is None:
        return NOT_MEASURED
    names = {
        "edit_correlation": "edit correlation",
        "edit_slope": "edit slope",
        "mixed_l1": "L1 of mixed codes",
        "l1": "L1 of unmixed codes",
    }
    return ", ".join(f"{words} {latents[name]:.3f}" for name, words in names.items() if latents[name] is not None)
