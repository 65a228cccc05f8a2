"""Opens the two artefacts of a comparison as runners, one of which may be an ONNX file that needs more inputs than z.

    latents instead of z (``ws``)    come from the other artefact's mapping network
    noise maps as inputs             are the other artefact's stored maps
    exported without noise           the other artefact runs without noise, too

So every form of an export passes the same gate, compared with the network it was made from.

On a CPU images of a StyleGAN2 in torch come from its lean form (:mod:`dcp_deploy.generators.lean`), if that
agrees with the readable one on three latents at the start of the run; otherwise from the readable one.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...errors import UsageError
from ...generators import Generator, StyleGAN2Synthesis
from ...generators.lean import lean_images
from ..graph.file import read_onnx
from ..kinds import kind_of
from ..runners.forms import FormRunner, load_form
from ..runners.loading import Backend, load_runner
from ..runners.onnx import batch_bounds
from ..runners.runner import NOISE_INPUT, Array, Runner, classes_of, feeds_of, latents_of

PROOF_SEEDS = range(3_000_000, 3_000_003)  # far from the gate's own
PROOF_LIMIT = 4e-5

Artifact = Runner | Generator | str | os.PathLike[str]


@dataclass(frozen=True)
class _Opened:
    """An artefact whose checkpoint or bundle is read already; a path is an ONNX file or an engine.

    ``name`` is that of the file, None without one.
    """

    source: Runner | Generator | Path
    name: str | None = None


def load_pair(
    a: Artifact,
    b: Artifact,
    *,
    backend_a: Backend = "auto",
    backend_b: Backend = "auto",
    device: str | None = None,
    network: str | None = None,
) -> tuple[Runner, Runner]:
    """Open both artefacts by ``load_runner`` (a Runner is used as it is), each with what it needs from the other.

    ``network`` chooses among several generators of the checkpoint ``a``. Raises UsageError if ``a`` is not one then, or
    if a file takes ws or noise and the other artefact is not a network in torch, else the errors of
    :func:`~..runners.loading.load_runner`.
    """
    first, second = _opened(a, backend_a, device, network), _opened(b, backend_b, device)
    return _runner_beside(first, second, backend_a, device), _runner_beside(second, first, backend_b, device)


def _opened(source: Artifact, backend: Backend, device: str | None, network: str | None = None) -> _Opened:
    if isinstance(source, Runner | Generator):
        return _Opened(source)
    path = Path(source)
    kind = kind_of(path, network=network)
    if kind == "bundle":  # as a Runner, it has the file's metadata
        return _Opened(load_runner(path, backend=backend, device=device))
    if kind == "checkpoint":
        from ...checkpoints import load_generator

        return _Opened(load_generator(path, network=network), path.name)
    return _Opened(path, path.name)


def _runner_beside(one: _Opened, other: _Opened, backend: Backend, device: str | None) -> Runner:
    source = one.source
    if isinstance(source, Runner):
        return source
    extra, _ = _form(source)
    if extra:
        network = _network(other.source)
        if network is None:
            raise UsageError(
                f"{source} takes {', '.join(extra[:3])}, which cannot be made from a seed",
                "Compare it with the checkpoint that it was exported from.",
            )
        return through_network(load_form(Path(str(source)), backend=backend), network)
    _, without_noise = _form(other.source)
    network = _network(source) if without_noise else None
    if network is None or network.config.layout is not None:  # a StyleGAN3 has no noise
        runner = _network_runner(source, backend, device)
        return replace(runner, name=one.name or runner.name)
    quiet = _network_runner(_quiet(network), backend, device)
    return replace(quiet, name=f"{one.name or quiet.name} without noise")


def through_network(form: FormRunner, network: Generator) -> Runner:
    """Return ``form`` as a Runner from z on; ``network`` supplies ws by its mapping, or noise by its stored maps."""
    config = network.config
    mapping = copy.deepcopy(network.mapping).cpu()
    maps = {
        name: network.synthesis.get_buffer(f"{name.removeprefix(NOISE_INPUT)}.noise_const").cpu().numpy()
        for name in form.inputs
        if name.startswith(NOISE_INPUT)
    }

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        feeds: dict[str, Array] = {name: np.broadcast_to(m, (len(z), 1, *m.shape)) for name, m in maps.items()}
        if "ws" in form.inputs:
            with torch.inference_mode():
                labels = None if c is None else torch.from_numpy(c)
                feeds["ws"] = mapping(torch.from_numpy(z), labels, psi=torch.from_numpy(psi)).numpy()
        else:
            feeds |= feeds_of(z, psi, c)
        return form(feeds)

    return Runner(
        form.name,
        form.backend,
        config.z_dim,
        config.c_dim,
        form.image_size,
        form.image,
        draw,
        facts=form.facts,
        batch=batch_bounds(Path(form.name), form.facts),
    )


def _form(source: Runner | Generator | Path) -> tuple[list[str], bool]:
    """Return the inputs of an ONNX file beyond z, psi and c, and whether it was exported without noise."""
    if isinstance(source, Runner):
        return [], source.facts.get("noise") == "none"
    if isinstance(source, Generator) or kind_of(source) != "onnx":
        return [], False
    model = read_onnx(source)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    names = [value.name for value in model.graph.input]
    return [name for name in names if name == "ws" or name.startswith(NOISE_INPUT)], facts.get("noise") == "none"


def _network(source: Runner | Generator | Path) -> Generator | None:
    """Return the generator in torch that a source is or contains, or None."""
    inside = source.source if isinstance(source, Runner) else source
    return inside if isinstance(inside, Generator) else None


def _network_runner(source: Generator | Path, backend: Backend, device: str | None) -> Runner:
    """Open a source; a StyleGAN2 in torch on a CPU by its lean form, once that is proven on a few images.

    The lean form shares no code with the exporter's, so a fault of the export cannot hide in both.
    """
    readable = load_runner(source, backend=backend, device=device)
    network = readable.source
    if readable.backend != "torch" or not isinstance(network, Generator) or network.config.layout is not None:
        return readable
    if next(network.parameters()).device.type != "cpu":
        return readable
    network = copy.deepcopy(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack this overload
    lean = replace(readable, draw=partial(_draw_lean, network))
    return lean if _alike(readable, lean) else readable


def _draw_lean(network: Generator, z: Array, psi: Array, c: Array | None) -> Array:
    synthesis = network.synthesis
    assert isinstance(synthesis, StyleGAN2Synthesis)
    labels = None if c is None else torch.from_numpy(c)
    with torch.inference_mode():
        ws = network.mapping(torch.from_numpy(z), labels, psi=torch.from_numpy(psi))
        images: Array = lean_images(synthesis, ws).contiguous().numpy()
    return images


def _alike(readable: Runner, lean: Runner) -> bool:
    """Return whether both generate the same images, up to a fifth of what the gate allows in float32."""
    z, c = latents_of(PROOF_SEEDS, readable.z_dim), classes_of(PROOF_SEEDS, readable.c_dim)
    psi = np.linspace(0.5, 1.0, len(z), dtype=np.float32)
    expected, found = (np.clip(runner(z=z, psi=psi, c=c), -1, 1) for runner in (readable, lean))
    return bool(np.abs(found - expected).max() <= PROOF_LIMIT)


def _quiet(network: Generator) -> Generator:
    """Return a copy with noise strengths of 0."""
    network = copy.deepcopy(network)
    for name, value in network.state_dict().items():
        if name.endswith(".noise_strength"):
            value.zero_()
    return network
