"""One interface over everything that draws: z (and psi, and a class) in, images out, as numpy arrays."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from ...errors import CorruptFileError, InputError, MissingCapabilityError, UsageError
from ..integrity import is_bundle
from .sessions import ONNX_BACKENDS, Values, open_session

if TYPE_CHECKING:  # who runs a bundle with onnxruntime need not have torch, nor wait for it
    import torch

    from ...generators import Generator
    from ..fused.generator import FusedGenerator, ImageForm

Array = npt.NDArray[Any]
Backend = Literal[
    "auto", "torch", "fused", "cuda",
    "onnxruntime", "onnxruntime-winograd", "onnxruntime-cuda", "openvino", "openvino-winograd",
]  # fmt: skip
Draw = Callable[[Array, Array, Array | None], Array]

BACKENDS = ("auto", "torch", "fused", "cuda", *ONNX_BACKENDS)
_TORCH = ("torch", "fused", "cuda")
NOISE_INPUT = "noise."  # before a layer's name, the name of an input of an ONNX file


@dataclass(frozen=True)
class Runner:
    """Something that draws images. Call it: ``runner(z=..., psi=..., c=None)``.

    ``image`` says what comes back: "float" is float32 [B, 3, R, R], nominally in [-1, 1] and not clamped; "uint8" is
    [B, R, R, 3]. ``c_dim`` 0 means unconditional.
    """

    name: str
    backend: str
    z_dim: int
    c_dim: int
    resolution: int
    image: ImageForm
    draw: Draw = field(repr=False)  # arrays already checked
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)  # what the file says about itself: "precision"
    batch: tuple[int, int] | None = None  # the smallest and largest it was made for, where it says so
    source: Generator | FusedGenerator | Path | None = field(default=None, repr=False)  # whose layers may be looked at

    def __call__(self, z: Array, psi: Array | float = 1.0, c: Array | None = None) -> Array:
        """Draw one image per row of z [B, z_dim].

        ``psi``: one number or one per row, [B]. ``c`` [B, c_dim], needed exactly when the model is class-conditional.
        Any B is allowed, 0 too. UsageError when a shape or a type does not fit or a value is not finite.
        """
        z = as_floats("z", z, (None, self.z_dim))
        psi = as_floats("psi", np.full(len(z), float(psi)) if np.ndim(psi) == 0 else psi, (len(z),))
        if c is None and self.c_dim:
            raise UsageError(f"{self.name} is class-conditional", f"give c, one row of {self.c_dim} numbers per image")
        if c is not None and not self.c_dim:
            raise UsageError(f"{self.name} is not class-conditional, but c was given", "leave c out")
        labels = None if c is None else as_floats("c", c, (len(z), self.c_dim))
        if len(z) == 0:
            size = self.resolution
            empty = (0, size, size, 3) if self.image == "uint8" else (0, 3, size, size)
            return np.zeros(empty, np.uint8 if self.image == "uint8" else np.float32)
        return self.draw(z, psi, labels)


def load_runner(
    source: str | os.PathLike[str] | Generator,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    device: str | None = None,
) -> Runner:
    """Make a Runner of a Generator, a checkpoint, an ONNX file or a bundle; content decides which, not the name.

    ``backend`` for a generator: "torch" (the readable network, which "auto" means), "fused" (the deployable form, still
    in torch) or "cuda" (that on a GPU, by our kernels, in float16); for ONNX "onnxruntime" or "openvino" on the CPU,
    the same with "-winograd" after it (a StyleGAN2 in float32 with our CPU operators, compiled on first use), or
    "onnxruntime-cuda". ``threads``: CPU threads of one call, all cores by default. ``device``: where torch computes
    what runs in torch ("cpu", "cuda:1"), on a copy; by default where the generator is. Raises UsageError for a backend
    or device that cannot run the source, InputError (CorruptFileError, UnknownFormatError) for a file that is no
    generator of ours, MissingCapabilityError for what the machine lacks: a GPU, a runtime, a compiler, or ONNX
    Runtime's CUDA provider.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend is {backend!r}", f"use one of: {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", "use 1 or more")
    if not isinstance(source, str | os.PathLike):
        return _torch_runner(source, f"{source.config.kind} {source.config.resolution}px", backend, threads, device)
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
        return onnx_runner(path, onnx_backend(path, backend), threads)
    from ...checkpoints import load_generator

    return _torch_runner(load_generator(path), path.name, backend, threads, device)


def sniff(path: Path) -> Literal["engine", "onnx", "checkpoint"]:
    """What a file holds, by its content. InputError when it cannot be read, CorruptFileError when it is empty.

    Whatever is neither an engine nor ONNX is left to the readers of checkpoints, which say what they read.
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


def latents_of(seeds: Sequence[int], z_dim: int) -> npt.NDArray[np.float32]:
    """The latent of each seed, [N, z_dim], as NVIDIA's scripts draw it: ``RandomState(seed).randn``."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, z_dim), np.float32)


def classes_of(seeds: Sequence[int], c_dim: int) -> npt.NDArray[np.float32] | None:
    """Class ``seed % c_dim`` for each seed, [N, c_dim]; None for an unconditional model."""
    return np.eye(c_dim, dtype=np.float32)[np.asarray(seeds, int) % c_dim] if c_dim else None


def as_floats(name: str, values: Array | float, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    array = np.asarray(values)
    expected = "[" + ", ".join("B" if size is None else str(size) for size in shape) + "]"
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        raise UsageError(f"{name} has shape {list(array.shape)}, expected {expected}")
    if array.dtype.kind != "f":
        raise UsageError(f"{name} is an array of {array.dtype}, expected floating point numbers")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite in float32")
    return array


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
    device = next(generator.parameters()).device if wanted is None else _torch_device(wanted)
    network: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    source: Generator | FusedGenerator
    if backend == "fused":
        network = source = FusedGenerator(generator).to(device)
    else:
        source = readable = generator if wanted is None else copy.deepcopy(generator).to(device)

        def network(z: torch.Tensor, psi: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
            return cast(torch.Tensor, readable(z, c, psi=psi))

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        labels = None if c is None else torch.from_numpy(c).to(device)
        with torch.inference_mode(), _torch_threads(threads):
            images = network(torch.from_numpy(z).to(device), torch.from_numpy(psi).to(device), labels)
        return cast(Array, images.cpu().numpy())

    config = generator.config
    return Runner(name, backend, config.z_dim, config.c_dim, config.resolution, "float", draw, source=source)


def _torch_device(name: str) -> torch.device:
    """UsageError for a word that torch does not know, MissingCapabilityError for a GPU that is not there."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device is {name!r}", "use cpu, cuda or cuda:0") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingCapabilityError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs here", "use cpu")
    return device


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Torch's thread count is global: set it for one call and put it back."""
    import torch

    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- ONNX files ----


def onnx_backend(path: Path, backend: str) -> str:
    """What runs an ONNX file. UsageError for a backend that cannot."""
    if backend not in ("auto", *ONNX_BACKENDS):
        raise UsageError(f"backend {backend!r} cannot run the ONNX file {path}", f"use {', '.join(ONNX_BACKENDS)}")
    return "onnxruntime" if backend == "auto" else backend


def onnx_runner(path: Path, backend: str = "onnxruntime", threads: int | None = None) -> Runner:
    """:func:`load_runner` of a file known to be ONNX."""
    session = open_session(path, backend, threads)
    z_dim, c_dim, resolution, image = _interface(path, session.inputs, session.outputs)

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        return session.draw({"z": z, "psi": psi} if c is None else {"z": z, "psi": psi, "c": c})

    # All others run another graph than the file's: there is nothing to look into.
    source = path if backend in ("onnxruntime", "onnxruntime-cuda") else None
    batch = batch_bounds(path, session.facts)
    return Runner(path.name, backend, z_dim, c_dim, resolution, image, draw, session.facts, batch, source)


def batch_bounds(path: Path, facts: Mapping[str, str]) -> tuple[int, int] | None:
    """The smallest and largest batch that a file promises to serve, None where it names none."""
    if "batch" not in facts:
        return None
    smallest, _, largest = facts["batch"].partition(",")
    if not (smallest.isdecimal() and largest.isdecimal() and 1 <= int(smallest) <= int(largest)):
        raise CorruptFileError(f"{path} promises batches of {facts['batch']!r}", "export it again")
    return int(smallest), int(largest)


def _interface(
    path: Path, inputs: Mapping[str, Values], outputs: Mapping[str, Values]
) -> tuple[int, int, int, ImageForm]:
    """(z_dim, c_dim, resolution, image form) of an ONNX file, or an InputError that names all that is unlike ours."""
    problems = []
    ranks = {"z": 2, "psi": 1, "c": 2}
    others = [name for name in inputs if name == "ws" or name.startswith(NOISE_INPUT)]
    if others:
        raise UsageError(
            f"{path} is of another form: it takes {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}",
            "draw with dcp_deploy.export.load_form, or export with --inputs z and without --noise input",
        )
    for name in sorted({"z", "psi"} - set(inputs)):
        problems.append(f"input {name!r} is missing")
    for name, (kind, shape) in inputs.items():
        if name not in ranks:
            problems.append(f"input {name!r} is not known")
        elif kind != "tensor(float)" or len(shape) != ranks[name] or not all(isinstance(n, int) for n in shape[1:]):
            problems.append(f"input {name!r} is {kind} {shape}, not float with {ranks[name]} dimensions")
        elif isinstance(shape[0], int):
            problems.append(f"the batch of input {name!r} is fixed to {shape[0]}")
    size, image, problem = image_of(outputs)
    problems += [problem] if problem else []
    if problems:
        raise InputError(f"{path} is not a generator of ours: {'; '.join(problems)}", "make it with: dcp-deploy export")
    return inputs["z"][1][1], inputs["c"][1][1] if "c" in inputs else 0, size, image


def image_of(outputs: Mapping[str, Values]) -> tuple[int, ImageForm, str | None]:
    """(resolution, image form, what is unlike ours) of an ONNX file's outputs."""
    kind, shape = outputs.get("image", ("missing", [None] * 4))
    image: ImageForm = "uint8" if kind == "tensor(uint8)" else "float"
    size, channels = (shape[1:3], shape[3:]) if image == "uint8" else (shape[2:], shape[1:2])
    if kind not in ("tensor(uint8)", "tensor(float)") or channels != [3] or len(set(size)) != 1 or len(size) != 2:
        return 0, image, f"output 'image' is {kind} {shape}, not uint8 [B, R, R, 3] or float [B, 3, R, R]"
    return size[0], image, None
