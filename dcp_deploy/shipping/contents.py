"""Gather the contents of a bundle: the files and records of a run directory, or a single ONNX file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, UsageError
from ..files import RUN_FILE, read_json
from ..report.run_directory import RunDirectory, read_run_directory
from .extra_models import export_extra_models
from .model_card import card_of_onnx, card_of_run

if TYPE_CHECKING:
    from ..export.bundle.writer import Contents

DOCUMENTS = (RUN_FILE, "config.toml", "parity.json", "bench.json", "metrics.json", "history.json")


def contents_of(
    source: Path,
    *,
    name: str | None = None,
    teacher: bool = False,
    synthesis: bool = False,
    directions: Path | None = None,
    engines: Sequence[Path] = (),
    scratch: Path | None = None,
) -> Contents:
    """Gather a bundle's contents from ``source``, a run directory of ``build`` or an ONNX file of ``export``.

    ``teacher``: also serve the teacher. ``synthesis``: also serve the student from ws, for editing and style mixing.
    ``directions``: a file of directions in w (:mod:`dcp_deploy.checkpoints.directions`), to also serve the student's
    mapping and an editor that moves ws along them. Such extra models are exported to ``scratch``, a folder to keep
    until the bundle is written. ``engines`` are added to those of the run.

    Raises InputError if ``source`` or a file of the run is missing, or directions do not fit the student; UsageError if
    a teacher or extra models are wanted of an ONNX file.
    """
    if not source.is_dir():
        if teacher or synthesis or directions:
            raise UsageError(f"{source} is one ONNX file: no teacher, no extra models", "Give a run directory.")
        if not source.is_file():
            raise InputError(f"the run directory or ONNX file {source} does not exist", "Check the path.")
        return _of_onnx(source, name or source.stem, engines)

    from ..checkpoints import load_generator, read_checkpoint
    from ..checkpoints.provenance import as_texts, full_story
    from ..evaluation.inspection import licence_facts
    from ..export import load_runner
    from ..export.bundle.writer import Contents, Model

    name = name or source.resolve().name
    run = finished_run(source)
    student = read_checkpoint(source / "student.safetensors")
    models = {"generator": Model(source / "student.onnx", load_runner(student.generator))}
    if teacher:
        network = load_generator(source / "teacher.safetensors")
        models["teacher"] = Model(source / "teacher.onnx", load_runner(network))
    story = full_story(student, source / "student.safetensors")
    models |= export_extra_models(
        student.generator, synthesis=synthesis, directions=directions, scratch=scratch, metadata=as_texts(story)
    )
    record = read_json(source / RUN_FILE)
    return Contents(
        name=name,
        models=models,
        card=card_of_run(name, source, run, story),
        provenance={
            "command": _command(),
            **licence_facts(story),
            "teacher": record.get("teacher"),
            "origin": story,
            "run": {key: record.get(key) for key in ("command", "started", "finished", "config", "effort", "tool")},
            "environment": record.get("environment"),
            "networks": record.get("networks"),
            "stages": record.get("stages"),
        },
        engines=[*sorted((source / "engines").glob("*.engine")), *engines],
        directions=directions,
        documents={name: source / name for name in DOCUMENTS if (source / name).is_file()},
    )


def finished_run(folder: Path) -> RunDirectory:
    """Read a run directory. Raises InputError unless its export passed the parity gate."""
    run = read_run_directory(folder)
    if run.parity is None or not run.parity.passed:
        raise InputError(f"{folder} holds no export that passed the parity gate", "Finish it: dcp-deploy build")
    return run


def _of_onnx(file: Path, name: str, engines: Sequence[Path]) -> Contents:
    from ..checkpoints.provenance import of_texts
    from ..evaluation.inspection import inspect_file, licence_facts
    from ..export import load_runner
    from ..export.bundle.writer import Contents, Model
    from ..export.kinds import kind_of, onnx_needed

    if kind_of(file) != "onnx":
        raise onnx_needed(file) or InputError(f"{file} is not an ONNX file", "Make one: dcp-deploy export")
    facts = inspect_file(file)
    metadata = facts["metadata"]
    story = of_texts(metadata)
    return Contents(
        name=name,
        models={"generator": Model(file, load_runner(file))},
        card=card_of_onnx(name, metadata, story),
        provenance={"command": _command(), **licence_facts(story), "onnx": metadata, "onnx_sha256": facts["sha256"]},
        engines=engines,
    )


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
