"""Open a Spec: read its file, place the network on its device, fix the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import MissingCapabilityError, UsageError
from ...export.runners.loading import load_runner
from ...export.runners.runner import Runner
from ...files import find_compiler
from .candidate import Candidate, fixed_inputs
from .device_steps import Steps, cuda_path_steps, engine_steps, network_steps
from .graph_work import generator_work, onnx_work
from .matrix import BACKENDS, Backend, Spec


def open_candidate(spec: Spec) -> Candidate:
    """Open the candidate of a spec, compiled already where its backend compiles on the first call.

    Raises MissingCapabilityError for what this machine lacks (a GPU, a package, a compiler), UsageError for a model
    that the backend cannot run, InputError for a file of an unknown format.
    """
    backend, path = BACKENDS[spec.backend], Path(spec.path)
    if backend.device == "cuda":
        require_gpu(backend.title)
    if backend.takes == "checkpoint":
        return _open_checkpoint(spec, backend, path)
    if backend.takes == "engine":
        steps, precision, build = engine_steps(path, spec.batch, spec.seed, graph=backend.graph)
        return _candidate(spec, steps, precision=precision, build_seconds=build)
    runtime = "auto" if backend.takes == "bundle" else backend.name
    runner = load_runner(path, backend=runtime, threads=spec.threads)  # type: ignore[arg-type]
    work = onnx_work(path, spec.batch) if backend.takes == "onnx" else None
    return _candidate(spec, _call(runner, spec), precision=runner.facts.get("precision", "fp32"), work=work)


def _open_checkpoint(spec: Spec, backend: Backend, path: Path) -> Candidate:
    from ...checkpoints import load_generator

    generator = load_generator(path, network=spec.network).eval().requires_grad_(False)
    config = generator.config
    work = generator_work(config, spec.batch)
    inputs = fixed_inputs(config.z_dim, config.c_dim, spec.batch, spec.seed)
    if backend.name.startswith("cuda-"):
        precision = backend.precision or "fp16"
        steps = cuda_path_steps(generator, inputs, precision=precision, graph=backend.graph)
        return _candidate(spec, steps, precision=precision, work=work)
    if backend.device == "cuda":
        generator = generator.to("cuda")
    compiled = backend.name.startswith("torch-compile")
    if compiled and find_compiler() is None:
        raise MissingCapabilityError("torch.compile needs a C++ compiler, and this machine has none", "Install g++.")
    with warnings.catch_warnings():
        if compiled:
            warnings.simplefilter("ignore")  # torch warns of its own deprecations when it compiles
            generator.compile(dynamic=False)
        on_gpu = backend.device == "cuda"
        run = network_steps(generator, inputs) if on_gpu else _call(load_runner(generator, threads=spec.threads), spec)
        if compiled:
            _compile(run)
    return _candidate(spec, run, work=work)


def _call(runner: Runner, spec: Spec) -> Callable[[], object]:
    """Return the runner's call on fixed inputs, which it checks on every call, for a few microseconds.

    Raises UsageError for a batch outside the range that its file was made for.
    """
    least, most = runner.batch or (1, spec.batch)
    if not least <= spec.batch <= most:
        taken = f"{least} to {most}" if least < most else str(least)
        message = f"{runner.name} was made for batches of {taken}, not {spec.batch}"
        raise UsageError(message, f"Use --batch {least}, or export it for other batches.")
    z, psi, c = fixed_inputs(runner.z_dim, runner.c_dim, spec.batch, spec.seed)
    return lambda: runner(z=z, psi=psi, c=c)


def _compile(run: Callable[[], object]) -> None:
    """Make the first call, which compiles for the batch size, the device and the threads: about a minute."""
    try:
        run()
    except Exception as error:  # the compilers raise errors of any class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingCapabilityError(f"torch.compile failed: {reason}", "See its log above.") from error


def _candidate(spec: Spec, run: Callable[[], object], **facts: Any) -> Candidate:
    phases = run.phases if isinstance(run, Steps) else None
    return spec.candidate(run, file_bytes=file_bytes(Path(spec.path)), phases=phases, **facts)


def file_bytes(path: Path) -> int:
    """Return the bytes of a file with the weights that ONNX keeps beside it, or of everything in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def require_gpu(user: str) -> None:
    """Raise MissingCapabilityError unless torch sees an NVIDIA GPU; ``user`` is what needs it."""
    import torch

    if not torch.cuda.is_available():
        remedy = "Use a CPU backend, or run this where nvidia-smi lists a GPU."
        raise MissingCapabilityError(f"{user} needs an NVIDIA GPU, and torch sees none", remedy)
