"""A Spec opened: file read, network placed where it computes, inputs fixed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MissingCapabilityError, UsageError
from ...export.runners.loading import load_runner
from ...export.runners.runner import Runner
from ...kernels.cpu.library import find_compiler
from ..machine.roofline import Work
from .candidate import Candidate, fixed_inputs
from .device_steps import Steps, cuda_path_steps, engine_steps, network_steps
from .graph_work import generator_work, onnx_work
from .matrix import BACKENDS, Backend, Spec

if TYPE_CHECKING:
    from ...generators import Generator


def with_fixed_inputs(runner: Runner, batch: int, seed: int) -> Callable[[], object]:
    """The runner as a function without arguments. Checking its inputs is part of every call, a few microseconds."""
    z, psi, c = fixed_inputs(runner.z_dim, runner.c_dim, batch, seed)
    return lambda: runner(z=z, psi=psi, c=c)


def open_candidate(spec: Spec) -> Candidate:
    """What the spec says, ready to be called; of its network's compiling, the first call is done already.

    Raises MissingCapabilityError for what this machine lacks (a GPU, a package, a compiler), UsageError for a model
    that the backend cannot run, InputError for a file that is none of ours.
    """
    backend, path = BACKENDS[spec.backend], Path(spec.path)
    if backend.device == "cuda":
        _require_gpu(backend)
    if backend.takes == "checkpoint":
        return _of_checkpoint(spec, backend, path)
    if backend.takes == "engine":
        steps, precision, build = engine_steps(path, spec.batch, spec.seed, graph=backend.graph)
        return _labelled(spec, steps, precision=precision, build_seconds=build)
    if backend.takes == "bundle":
        runner = load_runner(path, threads=spec.threads)
        return _labelled(spec, _call(runner, spec), precision=runner.facts.get("precision", "fp32"))
    runner = load_runner(path, backend=backend.name, threads=spec.threads)  # type: ignore[arg-type]
    return _labelled(
        spec, _call(runner, spec), precision=runner.facts.get("precision", "fp32"), work=onnx_work(path, spec.batch)
    )


def _of_checkpoint(spec: Spec, backend: Backend, path: Path) -> Candidate:
    from ...checkpoints import load_generator

    generator = load_generator(path).eval().requires_grad_(False)
    config = generator.config
    work = generator_work(config, spec.batch)
    inputs = fixed_inputs(config.z_dim, config.c_dim, spec.batch, spec.seed)
    if backend.name.startswith("cuda-"):
        steps = cuda_path_steps(generator, inputs, precision=backend.precision or "fp16", graph=backend.graph)
        return _labelled(spec, steps, precision=backend.precision or "fp16", work=work)
    if backend.device == "cuda":
        generator = generator.to("cuda")
    compiled = backend.name.startswith("torch-compile")
    if compiled:
        _require_compiler()
        with _quiet():
            generator.compile(dynamic=False)
    run = network_steps(generator, inputs) if backend.device == "cuda" else _torch_call(generator, spec)
    if compiled:
        _compile(run)
    return _labelled(spec, run, work=work)


def _torch_call(generator: Generator, spec: Spec) -> Callable[[], object]:
    return _call(load_runner(generator, threads=spec.threads), spec)


def _call(runner: Runner, spec: Spec) -> Callable[[], object]:
    """The runner's call. UsageError for a batch that its file does not promise to serve."""
    least, most = runner.batch or (1, spec.batch)
    if not least <= spec.batch <= most:
        raise UsageError(f"{runner.name} was made for batches of {least} to {most}, not {spec.batch}", "See --batch.")
    return with_fixed_inputs(runner, spec.batch, spec.seed)


def _require_compiler() -> None:
    if find_compiler() is None:
        raise MissingCapabilityError("torch.compile needs a C++ compiler, and there is none here", "install g++")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of its own old ways when it compiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _compile(run: Callable[[], object]) -> None:
    """The first call, which compiles for the batch size, the device and the number of threads: a minute or so."""
    try:
        with _quiet():
            run()
    except Exception as error:  # whatever its compilers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingCapabilityError(f"torch.compile failed: {reason}", "see its log above") from error


def _labelled(
    spec: Spec,
    run: Callable[[], object],
    *,
    precision: str = "fp32",
    build_seconds: float | None = None,
    work: Work | None = None,
) -> Candidate:
    path, backend = Path(spec.path), BACKENDS[spec.backend]
    return Candidate(
        run,
        spec.model,
        backend.name,
        precision=precision,
        threads=spec.threads,
        file_bytes=file_bytes(path),
        file=path.name,
        device=backend.device,
        build_seconds=build_seconds,
        batch=spec.batch,
        work=work,
        phases=run.phases if isinstance(run, Steps) else None,
    )


def file_bytes(path: Path) -> int:
    """Of a file and the weights that ONNX keeps beside it, or of everything in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _require_gpu(backend: Backend) -> None:
    import torch

    if not torch.cuda.is_available():
        raise MissingCapabilityError(f"{backend.title} needs an NVIDIA GPU, and torch sees none", "use a CPU backend")
