"""From codes to images: every file with a synthesis network of its own, as one call.

from dcp_deploy import load_synthesis
draw = load_synthesis("synthesis.onnx")     # made by: dcp-deploy export CHECKPOINT --inputs ws
images = draw(ws)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...devices import cpu_threads
from ...errors import InputError, UsageError
from ...sizes import pixels
from ..kinds import kind_of
from .bundle import bundled_model
from .forms import FormRunner, load_form
from .loading import Backend
from .runner import NOISE_INPUT, Array, as_floats, no_images

if TYPE_CHECKING:  # torch is not needed to run an ONNX file
    from ...generators import Generator, GeneratorConfig
    from ..fused.generator import ImageForm


@dataclass(frozen=True)
class SynthesisRunner:
    """Generates images from codes. Call it: ``draw(ws)``.

    A code is one vector of ``w_dim`` numbers for each of ``num_ws`` slots, after truncation. ``image`` is the format of
    the result, ``image_size`` is (H, W), as in :class:`~.runner.Runner`. Noise is constant.
    """

    name: str
    backend: str
    num_ws: int
    w_dim: int
    image_size: tuple[int, int]
    image: ImageForm
    draw: Callable[[Array], Array] = field(repr=False)  # for codes that are already checked
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)  # metadata of the file, such as "config"
    largest: int | None = None  # rows that the file takes at once; more are split
    source: Generator | None = field(default=None, repr=False)  # the whole network, if the file has it

    def __call__(self, ws: Array) -> Array:
        """Generate one image per row of ``ws``: float [B, num_ws, w_dim], or [B, w_dim] for one vector in all slots.

        Any B is allowed, 0 too. Raises UsageError for a wrong shape or type, or a value that is not finite.
        """
        ws = np.asarray(ws)
        if ws.ndim == 2:
            ws = np.repeat(as_floats("ws", ws, (None, self.w_dim))[:, None], self.num_ws, axis=1)
        ws = as_floats("ws", ws, (None, self.num_ws, self.w_dim))
        if not len(ws):
            return no_images(self.image, self.image_size)
        step = self.largest or len(ws)
        parts = [self.draw(ws[start : start + step]) for start in range(0, len(ws), step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def config(self) -> GeneratorConfig:
        """The architecture that the file records. InputError if it records none, or one that is not valid."""
        from ...generators import GeneratorConfig

        if self.source is not None:
            return self.source.config
        try:
            return GeneratorConfig.from_dict(json.loads(self.facts["config"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.name} does not record its architecture", "Export it again.") from error


def load_synthesis(
    source: str | os.PathLike[str] | Generator,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    network: str | None = None,
) -> SynthesisRunner:
    """Open a generator of images from codes: an ONNX file or an engine that takes ``ws``, a bundle, or a checkpoint.

    A bundle must serve the model "synthesis" (``bundle --synthesis``). ``backend``, ``threads`` and ``network`` are
    those of :func:`~.loading.load_runner`; a checkpoint runs in torch. Errors as there, and UsageError for a file that
    takes z, or noise beside ``ws``; the remedy names the right export.
    """
    if not isinstance(source, str | os.PathLike):
        name = f"{source.config.kind} {pixels(source.config.image_size)}"
        return _network_synthesis(source, name, backend, threads)
    path = Path(source)
    kind = kind_of(path, network=network)
    if kind == "bundle":
        manifest, file, largest = bundled_model(path, backend, "synthesis")
        form = replace(load_form(file, backend=backend, threads=threads), name=f"{manifest['name']}/synthesis")
        return replace(_form_synthesis(form), largest=largest)
    if kind == "onnx":
        return _form_synthesis(load_form(path, backend=backend, threads=threads))
    if kind == "engine":
        if backend != "auto":
            raise UsageError(f"backend {backend!r} cannot run the TensorRT engine {path}", "Leave it at auto.")
        return _engine_synthesis(path)
    from ...checkpoints import load_generator

    return _network_synthesis(load_generator(path, network=network), path.name, backend, threads)


def _form_synthesis(form: FormRunner) -> SynthesisRunner:
    _check_inputs(form.name, form.inputs)
    num_ws, w_dim = form.inputs["ws"]
    return SynthesisRunner(
        form.name, form.backend, num_ws, w_dim, form.image_size, form.image, lambda ws: form.draw({"ws": ws}),
        facts=form.facts,
    )  # fmt: skip


def _engine_synthesis(path: Path) -> SynthesisRunner:
    from ..tensorrt.manifest import image_size
    from .engine import image_form, open_engine, padded

    manifest, session = open_engine(path)
    profile: Mapping[str, Any] = manifest["profile"]
    _check_inputs(path.name, profile)
    (smallest, num_ws, w_dim), largest = profile["ws"]["min"], profile["ws"]["max"][0]
    facts = {"precision": str(manifest["precision"]), "config": json.dumps(manifest.get("config"))}
    return SynthesisRunner(
        path.name, "tensorrt", num_ws, w_dim, image_size(manifest), image_form(session),
        lambda ws: padded(session, smallest, {"ws": ws}), facts=facts, largest=largest,
    )  # fmt: skip


def _network_synthesis(generator: Generator, name: str, backend: str, threads: int | None) -> SynthesisRunner:
    if backend not in ("auto", "torch"):
        raise UsageError(f"backend {backend!r} cannot draw codes with {name}", "Use torch, or export with --inputs ws.")
    import torch

    device = next(generator.parameters()).device

    def draw(ws: Array) -> Array:
        with cpu_threads(threads), torch.inference_mode():
            return cast(Array, generator.synthesis(torch.from_numpy(ws).to(device)).cpu().numpy())

    config = generator.config
    return SynthesisRunner(
        name, "torch", config.num_ws, config.w_dim, config.image_size, "float", draw, source=generator
    )


def _check_inputs(name: str, inputs: Mapping[str, Any]) -> None:
    """Raise UsageError unless codes are all that the file takes."""
    if "ws" not in inputs:
        raise UsageError(
            f"{name} takes {', '.join(inputs)}, not codes",
            "Give the checkpoint that it was exported from. For saved codes, a file made of it with "
            "dcp-deploy export --inputs ws is enough.",
        )
    if any(one.startswith(NOISE_INPUT) for one in inputs):
        raise UsageError(f"{name} takes noise beside codes", "Load it with load_form, or export without --noise input.")
