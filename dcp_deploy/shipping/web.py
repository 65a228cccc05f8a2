"""Gather the contents of a page for browsers: one ONNX file with directions, made of a run, or a file as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .contents import contents_of, finished_run
from .extra_models import moved_runner

if TYPE_CHECKING:
    from ..checkpoints.directions import Direction
    from ..export.bundle.writer import Contents, Model
    from ..export.runners.runner import Array, Runner
    from ..export.runners.session import Session
    from ..generators import Generator

DIRECTIONS = 6
"""Principal directions of w on the page of a run, unless the user gives others."""


def web_contents_of(
    source: Path, *, name: str | None = None, directions: Path | None = None, scratch: Path
) -> Contents:
    """Gather a page's contents from ``source``, a run directory of ``build`` or an ONNX file of ``export``.

    The student of a run is exported to ``scratch`` once more, in float32, with an input for the strengths of
    directions: those of the file ``directions``, else the first principal directions of w. An ONNX file is used as it
    is, without directions.

    Raises InputError if ``source`` is missing, is not a finished run or has another form, or directions do not fit;
    UsageError for directions of an ONNX file.
    """
    if not source.is_dir():
        if directions is not None:
            raise UsageError(f"{source} is one ONNX file, which cannot be edited", "Give a run directory.")
        return contents_of(source, name=name)
    finished_run(source)
    from ..checkpoints import read_checkpoint
    from ..checkpoints.directions import check_directions, read_directions, save_directions
    from ..checkpoints.provenance import as_texts, full_story
    from ..evaluation.editing import find_directions
    from ..evaluation.inspection import licence_facts
    from ..export.bundle.writer import Contents

    checkpoint = read_checkpoint(source / "student.safetensors")
    student = checkpoint.generator
    if directions is None:
        found = find_directions(student, count=min(DIRECTIONS, student.config.w_dim))
        directions = save_directions(found, scratch / "directions.safetensors")
    vectors = read_directions(directions)
    check_directions(vectors, student.config)
    story = full_story(checkpoint, source / "student.safetensors")
    return Contents(
        name=name or source.resolve().name,
        models=_models(student, vectors, scratch, as_texts(story)),
        card="",
        provenance=licence_facts(story),
        directions=directions,
    )


def _models(
    generator: Generator, directions: Mapping[str, Direction], scratch: Path, metadata: Mapping[str, str]
) -> dict[str, Model]:
    """Export the student to one file, and return it twice: to be checked unedited, and moved along all directions."""
    from ..export import export_onnx, load_runner
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import export_editor, export_mapping, join_editor
    from ..export.runners.sessions import open_session

    synthesis = export_onnx(generator, scratch / "synthesis.onnx", inputs="ws", inline=True, metadata=metadata)
    mapping = export_mapping(generator, scratch / "mapping.onnx", metadata)
    editor = export_editor(synthesis, directions, scratch / "editor.onnx")
    file = join_editor(mapping, editor, scratch / "model.onnx")
    reference, session, count = load_runner(generator), open_session(file), len(directions)
    moved = moved_runner(generator, directions, 1 / count)
    return {
        "generator": Model(file, reference, _through(session, reference, count, 0.0)),
        "edited": Model(file, moved, _through(session, reference, count, 1 / count)),
    }


def _through(session: Session, reference: Runner, count: int, step: float) -> Runner:
    """Return an open file as a Runner that moves every image by ``step`` along all of its ``count`` directions."""
    from ..export.onnx.editing import STRENGTHS
    from ..export.runners.runner import feeds_of

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        return session.draw({**feeds_of(z, psi, c), STRENGTHS: np.full((len(z), count), step, np.float32)})

    return replace(
        reference,
        name=session.path.name,
        backend=session.backend,
        image="uint8",
        draw=draw,
        facts=session.facts,
        source=None,
    )
