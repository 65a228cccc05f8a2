"""What a bundle is made of: the files and records of a run directory, or a single ONNX file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, UsageError
from ..files import read_json
from ..report.run_directory import read_run_directory
from .extra_models import ExtraModels, export_extra_models
from .model_card import card_of_onnx, card_of_run

if TYPE_CHECKING:
    from ..export.bundle.writer import Contents

DOCUMENTS = ("run.json", "config.toml", "parity.json", "bench.json", "metrics.json", "history.json")


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

    ``teacher``: serve the teacher beside the student. ``synthesis``: serve the student's second form, from ws, for
    editing and style mixing. ``directions``: a file of directions in w (:mod:`.checkpoints.directions`); the student's
    mapping and its editor, which moves ws along them, are served too. These forms are exported to ``scratch``, a folder
    to be kept until the bundle is written. ``engines`` come on top of those of the run. Raises InputError when there is
    neither, a file of the run is missing, or directions do not fit the student; UsageError for a teacher or another
    form of an ONNX file.
    """
    if source.is_dir():
        forms = ExtraModels(synthesis, directions, scratch)
        return _of_run(source, name or source.resolve().name, teacher, forms, engines)
    if teacher or synthesis or directions:
        raise UsageError(f"{source} is one ONNX file: no teacher, no other forms", "give a run directory")
    if not source.is_file():
        raise InputError(f"there is no run directory or ONNX file {source}", "check the path")
    return _of_onnx(source, name or source.stem, engines)


def _of_run(directory: Path, name: str, teacher: bool, forms: ExtraModels, engines: Sequence[Path]) -> Contents:
    from ..checkpoints import load_generator, read_checkpoint
    from ..export import load_runner
    from ..export.bundle.writer import Contents, Model

    run = read_run_directory(directory)
    parity = run.parity
    if parity is None or not parity.passed:
        raise InputError(f"{directory} holds no export that passed the parity gate", "finish it: dcp-deploy build")
    student = read_checkpoint(directory / "student.safetensors")
    networks = {"generator": ("student", student.generator)}
    if teacher:
        networks["teacher"] = ("teacher", load_generator(directory / "teacher.safetensors"))
    models = {
        served: Model(directory / f"{file}.onnx", load_runner(network)) for served, (file, network) in networks.items()
    }
    models |= export_extra_models(student.generator, forms)
    record = read_json(directory / "run.json")
    licence = record["teacher"].get("licence") or student.licence
    built = sorted((directory / "engines").glob("*.engine"))
    return Contents(
        name=name,
        models=models,
        card=card_of_run(name, directory, licence),
        provenance={
            "command": _command(),
            "licence": licence,
            "teacher": record["teacher"],
            "origin": student.extra,
            "run": {key: record.get(key) for key in ("command", "started", "finished", "config", "effort", "tool")},
            "environment": record.get("environment"),
            "networks": record.get("networks"),
            "stages": record.get("stages"),
        },
        engines=[*built, *engines],
        directions=forms.directions,
        documents={name: directory / name for name in DOCUMENTS if (directory / name).is_file()},
    )


def _of_onnx(file: Path, name: str, engines: Sequence[Path]) -> Contents:
    from ..evaluation.inspection import inspect_file
    from ..export import load_runner
    from ..export.bundle.writer import Contents, Model

    facts = inspect_file(file)
    if facts["format"] != "onnx":
        raise InputError(f"{file} is a {facts['format']}", "give an ONNX file: dcp-deploy export")
    told = facts["metadata"]
    licence = told.get("licence")
    return Contents(
        name=name,
        models={"generator": Model(file, load_runner(file))},
        card=card_of_onnx(name, told, licence),
        provenance={"command": _command(), "licence": licence, "onnx": told, "onnx_sha256": facts["sha256"]},
        engines=engines,
    )


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
