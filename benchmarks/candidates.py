"""Teacher and student as candidates for the harness: torch eager, and ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..export.runners import Runner, load_runner
from ..generators import Generator
from .candidate import Candidate

BASELINE = "teacher, torch eager"
_TITLES = {"torch": "torch eager", "onnxruntime": "ONNX Runtime"}


def generator_candidates(
    teacher: Generator,
    student: Generator,
    teacher_onnx: Path | None = None,
    student_onnx: Path | None = None,
    *,
    threads: int | None = None,
    batch: int = 1,
    seed: int = 0,
) -> dict[str, Candidate]:
    """Teacher and student as readable torch networks and, where a file is given, in ONNX Runtime on the CPU.

    All get the same inputs: z [batch, z_dim] normal from ``seed``, psi 1, classes in turn when conditional.
    ``BASELINE`` is the first of them. ``threads`` goes to every backend; None leaves each its own default. Give the
    same ``batch`` to ``benchmark``. Raises what ``load_runner`` does for a file that cannot be run.
    """
    sources = (("teacher", teacher), ("student", student), ("teacher", teacher_onnx), ("student", student_onnx))
    made = (_candidate(model, source, threads, batch, seed) for model, source in sources if source is not None)
    return {_name(candidate): candidate for candidate in made}


def file_candidates(
    files: Mapping[str, Path], *, threads: int | None = None, batch: int = 1, seed: int = 0
) -> dict[str, Candidate]:
    """Model files of any kind ``load_runner`` takes, each on its own backend; inputs as in ``generator_candidates``.

    ``files``: what the model is called ("teacher", "student") -> its file, in the order the rows shall have.
    """
    made = (_candidate(model, path, threads, batch, seed) for model, path in files.items())
    return {_name(candidate): candidate for candidate in made}


def _candidate(model: str, source: Generator | Path, threads: int | None, batch: int, seed: int) -> Candidate:
    runner = load_runner(source, threads=threads)
    size = source.stat().st_size if isinstance(source, Path) else None
    run = _with_fixed_inputs(runner, batch, seed)
    return Candidate(run, model, runner.backend, threads=threads, file_bytes=size)


def _name(candidate: Candidate) -> str:
    return f"{candidate.model}, {_TITLES.get(candidate.backend, candidate.backend)}"


def _with_fixed_inputs(runner: Runner, batch: int, seed: int) -> Callable[[], object]:
    """The runner as a function without arguments. Checking its inputs is part of every call, a few microseconds."""
    z = np.random.default_rng(seed).standard_normal((batch, runner.z_dim)).astype(np.float32)
    psi = np.ones(batch, np.float32)
    classes = np.eye(runner.c_dim, dtype=np.float32)[np.arange(batch) % runner.c_dim] if runner.c_dim else None
    return lambda: runner(z=z, psi=psi, c=classes)
