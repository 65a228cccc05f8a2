"""The other forms of a student that a bundle may serve: from ws, and the two halves of an edit. Each one is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UsageError

if TYPE_CHECKING:
    import torch

    from .checkpoints.directions import Direction
    from .export.bundle import Model
    from .export.runners import Array, Draw, Runner
    from .generators import Generator


@dataclass(frozen=True)
class Forms:
    """Which forms are wanted, and the folder that they are exported to."""

    synthesis: bool
    directions: Path | None
    scratch: Path | None


def models_of_forms(generator: Generator, forms: Forms) -> dict[str, Model]:
    """Export what is wanted. The images of each form are compared with the generator's own when the bundle is written.

    Raises InputError for directions that do not fit, CorruptFileError and the like for a file that holds none.
    """
    if not forms.synthesis and forms.directions is None:
        return {}
    if forms.scratch is None:
        raise UsageError("other forms have to be exported somewhere", "give a scratch folder")
    from .checkpoints.directions import check_directions, read_directions
    from .export import export_onnx, load_form, load_runner
    from .export.bundle import Model
    from .export.pairs import through_network

    directions = {} if forms.directions is None else read_directions(forms.directions)
    check_directions(directions, generator.config)
    file = export_onnx(generator, forms.scratch / "synthesis.onnx", inputs="ws")
    models = {}
    if forms.synthesis:
        models["synthesis"] = Model(file, load_runner(generator), through_network(load_form(file), generator))
    if directions:
        models |= _editing(generator, directions, file)
    return models


def _editing(generator: Generator, directions: Mapping[str, Direction], synthesis: Path) -> dict[str, Model]:
    """The mapping is checked with the network's own synthesis, the editor with moves along all directions at once."""
    import torch

    from .export import load_runner
    from .export.bundle import Model
    from .export.editing_onnx import STRENGTHS, export_editor, export_mapping
    from .export.sessions import onnx_session

    mapping = export_mapping(generator, synthesis.with_name("mapping.onnx"))
    editor = export_editor(synthesis, directions, synthesis.with_name("editor.onnx"))
    mapped, edited = (onnx_session(file, None, "onnxruntime", None) for file in (mapping, editor))
    step = np.float32(1 / len(directions))

    def through_mapping(z: Array, psi: Array, c: Array | None) -> Array:
        feeds = {"z": z, "psi": psi} if c is None else {"z": z, "psi": psi, "c": c}
        with torch.inference_mode():
            return _pixels(generator.synthesis(torch.from_numpy(mapped.run(["ws"], feeds)[0])))

    def moved(z: Array, psi: Array, c: Array | None) -> Array:
        with torch.inference_mode():
            ws = _codes(generator, z, psi, c)
            for one in directions.values():
                ws = one.move(ws, float(step))
            return _pixels(generator.synthesis(ws))

    def through_editor(z: Array, psi: Array, c: Array | None) -> Array:
        strengths = np.full((len(z), len(directions)), step)
        images: Array = edited.run(["image"], {"ws": _codes(generator, z, psi, c).numpy(), STRENGTHS: strengths})[0]
        return images

    return {
        "mapping": Model(mapping, load_runner(generator), _runner("mapping", generator, through_mapping, "float")),
        "editor": Model(
            editor, _runner("edited", generator, moved, "float"), _runner("editor", generator, through_editor, "uint8")
        ),
    }


def _codes(generator: Generator, z: Array, psi: Array, c: Array | None) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        labels = None if c is None else torch.from_numpy(c)
        return generator.mapping(torch.from_numpy(z), labels, psi=torch.from_numpy(psi))  # type: ignore[no-any-return]


def _pixels(images: torch.Tensor) -> Array:
    pixels: Array = images.numpy()
    return pixels


def _runner(name: str, generator: Generator, draw: Draw, image: Any) -> Runner:
    from .export import Runner

    config = generator.config
    backend = "torch" if image == "float" else "onnxruntime"
    return Runner(name, backend, config.z_dim, config.c_dim, config.resolution, image, draw)
