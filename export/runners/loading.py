"""Make a Runner of a generator, a checkpoint, an ONNX file, a TensorRT engine or a bundle."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from ...devices import check_threads, cpu_threads, torch_device
from ...errors import UsageError, choose
from ...sizes import pixels
from ..kinds import kind_of
from .onnx import onnx_runner
from .runner import Array, Runner
from .sessions import ONNX_BACKENDS

if TYPE_CHECKING:  # running a bundle or an ONNX file needs no torch
    from ...generators import Generator
    from ..fused.generator import FusedGenerator

Backend = Literal[
    "auto", "torch", "fused", "cuda",
    "onnxruntime", "onnxruntime-winograd", "onnxruntime-cuda", "openvino", "openvino-winograd",
]  # fmt: skip

BACKENDS = ("auto", "torch", "fused", "cuda", *ONNX_BACKENDS)
_TORCH = ("torch", "fused", "cuda")


def load_runner(
    source: str | os.PathLike[str] | Generator,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    device: str | None = None,
    network: str | None = None,
) -> Runner:
    """Make a Runner. A file's content decides what it is, not its name.

    ``backend`` for a generator: "torch" (the readable network, which "auto" means), "fused" (the deployable network,
    still in torch) or "cuda" (on a GPU, with our kernels, in float16). For ONNX: "onnxruntime" or "openvino" on the
    CPU, either with "-winograd" appended (a StyleGAN2 in float32 with our CPU operators, compiled on first use), or
    "onnxruntime-cuda". ``threads``: CPU threads of one call, by default all cores. ``device``: where torch computes
    ("cpu", "cuda:1"), on a copy; by default where the generator is. ``network`` chooses among several generators of a
    checkpoint. Raises UsageError for a backend, device or network that does not fit the source, InputError
    (CorruptFileError, UnknownFormatError) for a file that is not a generator of ours, MissingCapabilityError if the
    machine lacks a GPU, a runtime, a compiler, or ONNX Runtime's CUDA provider.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend is {backend!r}", choose(backend, BACKENDS))
    check_threads(threads)
    if not isinstance(source, str | os.PathLike):
        name = f"{source.config.kind} {pixels(source.config.image_size)}"
        return _torch_runner(source, name, backend, threads, device)
    path = Path(source)
    kind = kind_of(path, network=network)
    if kind == "bundle":
        from .bundle import bundle_runner

        return bundle_runner(path, backend, threads)
    if kind == "engine":
        if backend != "auto":
            raise UsageError(f"backend {backend!r} cannot run the TensorRT engine {path}", "Leave it at auto.")
        from .engine import engine_runner

        return engine_runner(path)
    if kind == "onnx":
        return onnx_runner(path, backend, threads)
    from ...checkpoints import load_generator

    return _torch_runner(load_generator(path, network=network), path.name, backend, threads, device)


# ---- torch ----


def _torch_runner(generator: Generator, name: str, backend: str, threads: int | None, wanted: str | None) -> Runner:
    import torch

    from ..fused.generator import FusedGenerator

    if backend not in ("auto", *_TORCH):
        raise UsageError(f"backend {backend!r} cannot run {name}, a torch network", "Export it to ONNX first.")
    if backend == "cuda":
        from .cuda import cuda_runner

        return cuda_runner(generator, name=name)
    backend = "torch" if backend == "auto" else backend
    device = next(generator.parameters()).device if wanted is None else torch.device(torch_device(wanted))
    source: Generator | FusedGenerator
    if backend == "fused":
        source = FusedGenerator(generator).to(device)
    else:
        source = generator if wanted is None else copy.deepcopy(generator).to(device)

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        latents, psis, labels = (None if part is None else torch.from_numpy(part).to(device) for part in (z, psi, c))
        with cpu_threads(threads), torch.inference_mode():
            images = source(latents, psis, labels) if backend == "fused" else source(latents, labels, psi=psis)
        return cast(Array, images.cpu().numpy())

    config = generator.config
    return Runner(name, backend, config.z_dim, config.c_dim, config.image_size, "float", draw, source=source)
