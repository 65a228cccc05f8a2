"""The extra models of a bundle: the student from ws, and the two halves of an edit. Each one is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from ..checkpoints.directions import Direction
    from ..export import FormRunner
    from ..export.bundle.writer import Model
    from ..export.runners.runner import Array, Runner
    from ..generators import Generator


def export_extra_models(
    generator: Generator,
    *,
    synthesis: bool,
    directions: Path | None,
    scratch: Path | None,
    metadata: Mapping[str, str],
) -> dict[str, Model]:
    """Export the wanted models to ``scratch``, each with a reference to compare with when the bundle is written.

    ``synthesis``: the student from ws. ``directions``: a file of directions, for a mapping and an editor that moves ws
    along them. ``metadata``, the student's licence and story, is added to that of the files. Raises InputError for
    directions that do not fit, and what reading their file raises.
    """
    if not synthesis and directions is None:
        return {}
    if scratch is None:
        raise UsageError("extra models need a folder to be exported to", "Give a scratch folder.")
    from ..checkpoints.directions import check_directions, read_directions
    from ..export import export_onnx, load_form, load_runner
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import export_editor
    from ..export.parity.artifacts import through_network

    vectors = {} if directions is None else read_directions(directions)
    check_directions(vectors, generator.config)
    file = export_onnx(generator, scratch / "synthesis.onnx", inputs="ws", metadata=metadata)
    form, models = load_form(file), {}
    if synthesis:
        models["synthesis"] = Model(file, load_runner(generator), through_network(form, generator))
    if vectors:
        models["mapping"] = _mapping(generator, file.with_name("mapping.onnx"), metadata)
        editor = export_editor(file, vectors, file.with_name("editor.onnx"))
        models["editor"] = _editor(generator, vectors, form, editor)
    return models


def _mapping(generator: Generator, file: Path, metadata: Mapping[str, str]) -> Model:
    """Export the mapping; its ws are checked by the images that the network's own synthesis makes of them."""
    import torch

    from ..export import load_runner
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import export_mapping
    from ..export.runners.runner import feeds_of
    from ..export.runners.sessions import onnx_session

    session = onnx_session(export_mapping(generator, file, metadata), None, "onnxruntime", None)
    reference = load_runner(generator)

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        with torch.inference_mode():
            images: Array = generator.synthesis(torch.from_numpy(session.run(["ws"], feeds_of(z, psi, c))[0])).numpy()
        return images

    return Model(file, reference, replace(reference, name="mapping", draw=draw, source=None))


def moved_runner(generator: Generator, directions: Mapping[str, Direction], step: float) -> Runner:
    """Return the network as a Runner whose every image is moved by ``step`` along all directions."""
    import torch

    from ..export import load_runner

    def moved(z: Array, psi: Array, c: Array | None) -> Array:
        with torch.inference_mode():
            labels = None if c is None else torch.from_numpy(c)
            ws = generator.mapping(torch.from_numpy(z), labels, psi=torch.from_numpy(psi))
            for direction in directions.values():
                ws = direction.move(ws, step)
            images: Array = generator.synthesis(ws).numpy()
        return images

    return replace(load_runner(generator), name="edited", draw=moved, source=None)


def _editor(generator: Generator, directions: Mapping[str, Direction], synthesis: FormRunner, file: Path) -> Model:
    """Check the editor by a move along all directions at once, against the same move in the network."""
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import STRENGTHS
    from ..export.parity.artifacts import through_network
    from ..export.runners.sessions import onnx_session

    session = onnx_session(file, None, "onnxruntime", None)
    step = np.float32(1 / len(directions))

    def with_strengths(feeds: Mapping[str, Array]) -> Array:
        strengths = np.full((len(feeds["ws"]), len(directions)), step)
        images: Array = session.run(["image"], {**feeds, STRENGTHS: strengths})[0]
        return images

    edited = replace(synthesis, name="editor", draw=with_strengths)
    return Model(file, moved_runner(generator, directions, float(step)), through_network(edited, generator))
