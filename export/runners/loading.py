"""Make a Runner of a generator, a checkpoint, an ONNX file, a TensorRT engine or a bundle."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from ...devices import torch_device
from ...errors import CorruptFileError, InputError, UsageError
from ...sizes import pixels
from ..integrity import is_bundle
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
) -> Runner:
    """Make a Runner. A file's content decides what it is, not its name.

    ``backend`` for a generator: "torch" (the readable network, which "auto" means), "fused" (the deployable network,
    still in torch) or "cuda" (on a GPU, with our kernels, in float16). For ONNX: "onnxruntime" or "openvino" on the
    CPU, either with "-winograd" appended (a StyleGAN2 in float32 with our CPU operators, compiled on first use), or
    "onnxruntime-cuda". ``threads``: CPU threads of one call, by default all cores. ``device``: where torch computes
    ("cpu", "cuda:1"), on a copy; by default where the generator is. Raises UsageError for a backend or device that
    cannot run the source, InputError (CorruptFileError, UnknownFormatError) for a file that is not a generator of ours,
    MissingCapabilityError if the machine lacks a GPU, a runtime, a compiler, or ONNX Runtime's CUDA provider.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend is {backend!r}", f"use one of: {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", "use 1 or more")
    if not isinstance(source, str | os.PathLike):
        name = f"{source.config.kind} {pixels(source.config.image_size)}"
        return _torch_runner(source, name, backend, threads, device)
    path = Path(source)
    if is_bundle(path):
        from .bundle import bundle_runner

        return bundle_runner(path, backend, threads)
    kind = sniff(path)
    if kind == "engine":
        if backend != "auto":
            raise UsageError(f"backend {backend!r} cannot run the TensorRT engine {path}", "leave it at auto")
        from .engine import engine_runner

        return engine_runner(path)
    if kind == "onnx":
        return onnx_runner(path, backend, threads)
    from ...checkpoints import load_generator

    return _torch_runner(load_generator(path), path.name, backend, threads, device)


def sniff(path: Path) -> Literal["engine", "onnx", "checkpoint"]:
    """Return the kind of a file by its content. InputError if it cannot be read, CorruptFileError if it is empty.

    A file that is neither an engine nor ONNX counts as a checkpoint; the checkpoint readers report what they can read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error
    if not head:
        raise CorruptFileError(f"{path} is empty", "make or copy it again")
    if head[1:4] == b"trt":  # "ptrt" and "ftrt" by TensorRT, "vtrt" by TensorRT for RTX
        return "engine"
    from ...checkpoints import sniff as sniff_checkpoint

    # Field 1 of an ONNX ModelProto, ir_version, which every writer puts first; a safetensors header may be that long.
    return "onnx" if head[:1] == b"\x08" and sniff_checkpoint(path) == "other" else "checkpoint"


# ---- torch ----


def _torch_runner(generator: Generator, name: str, backend: str, threads: int | None, wanted: str | None) -> Runner:
    import torch

    from ..fused.generator import FusedGenerator

    if backend not in ("auto", *_TORCH):
        raise UsageError(f"backend {backend!r} cannot run {name}, a torch network", "export it to ONNX first")
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
        before = torch.get_num_threads()  # global: changed for this call only
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                images = source(latents, psis, labels) if backend == "fused" else source(latents, labels, psi=psis)
        finally:
            if threads is not None:
                torch.set_num_threads(before)
        return cast(Array, images.cpu().numpy())

    config = generator.config
    return Runner(name, backend, config.z_dim, config.c_dim, config.image_size, "float", draw, source=source)
