"""The other forms of a student that a bundle may serve: from ws, and the two halves of an edit. Each one is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from ..checkpoints.directions import Direction
    from ..export import FormRunner
    from ..export.bundle.writer import Model
    from ..export.runners.runner import Array
    from ..generators import Generator


@dataclass(frozen=True)
class ExtraModels:
    """Which forms are wanted, and the folder that they are exported to."""

    synthesis: bool
    directions: Path | None
    scratch: Path | None


def export_extra_models(generator: Generator, forms: ExtraModels) -> dict[str, Model]:
    """Export what is wanted. The images of each form are compared with the generator's own when the bundle is written.

    Raises InputError for directions that do not fit, CorruptFileError and the like for a file that holds none.
    """
    if not forms.synthesis and forms.directions is None:
        return {}
    if forms.scratch is None:
        raise UsageError("other forms have to be exported somewhere", "give a scratch folder")
    from ..checkpoints.directions import check_directions, read_directions
    from ..export import export_onnx, load_form, load_runner
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import export_editor
    from ..export.parity.artifacts import through_network

    directions = {} if forms.directions is None else read_directions(forms.directions)
    check_directions(directions, generator.config)
    file = export_onnx(generator, forms.scratch / "synthesis.onnx", inputs="ws")
    form, models = load_form(file), {}
    if forms.synthesis:
        models["synthesis"] = Model(file, load_runner(generator), through_network(form, generator))
    if directions:
        models["mapping"] = _mapping(generator, file.with_name("mapping.onnx"))
        editor = export_editor(file, directions, file.with_name("editor.onnx"))
        models["editor"] = _editor(generator, directions, form, editor)
    return models


def _mapping(generator: Generator, file: Path) -> Model:
    """Checked with the network's own synthesis."""
    import torch

    from ..export import load_runner
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import export_mapping
    from ..export.runners.sessions import onnx_session

    session = onnx_session(export_mapping(generator, file), None, "onnxruntime", None)
    reference = load_runner(generator)

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        feeds = {"z": z, "psi": psi} if c is None else {"z": z, "psi": psi, "c": c}
        with torch.inference_mode():
            images: Array = generator.synthesis(torch.from_numpy(session.run(["ws"], feeds)[0])).numpy()
        return images

    return Model(file, reference, replace(reference, name="mapping", draw=draw, source=None))


def _editor(generator: Generator, directions: Mapping[str, Direction], synthesis: FormRunner, file: Path) -> Model:
    """Checked with moves along all directions at once: the network's own, and the strengths that the editor takes."""
    import torch

    from ..export import load_runner
    from ..export.bundle.writer import Model
    from ..export.onnx.editing import STRENGTHS
    from ..export.parity.artifacts import through_network
    from ..export.runners.sessions import onnx_session

    session = onnx_session(file, None, "onnxruntime", None)
    step = np.float32(1 / len(directions))

    def moved(z: Array, psi: Array, c: Array | None) -> Array:
        with torch.inference_mode():
            labels = None if c is None else torch.from_numpy(c)
            ws = generator.mapping(torch.from_numpy(z), labels, psi=torch.from_numpy(psi))
            for one in directions.values():
                ws = one.move(ws, float(step))
            images: Array = generator.synthesis(ws).numpy()
        return images

    def with_strengths(feeds: Mapping[str, Array]) -> Array:
        strengths = np.full((len(feeds["ws"]), len(directions)), step)
        images: Array = session.run(["image"], {**feeds, STRENGTHS: strengths})[0]
        return images

    reference = replace(load_runner(generator), name="edited", draw=moved, source=None)
    edited = replace(synthesis, name="editor", draw=with_strengths)
    return Model(file, reference, through_network(edited, generator))
