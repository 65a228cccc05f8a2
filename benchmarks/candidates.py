"""Teacher and student as candidates for the harness, on every backend this issue's tools can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..export.runners import load_runner
from .latency import Candidate

if TYPE_CHECKING:
    from ..generators import Generator

BASELINE = "teacher, torch eager"


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
    """Teacher and student in torch eager (the readable networks) and, where a file is given, ONNX Runtime on the CPU.

    All draw the same images: z from ``seed``, psi 1. ``BASELINE`` is the first of them. ``threads`` is given to every
    backend; None leaves each its own default. Give the same ``batch`` to ``benchmark``.
    """
    sources: list[tuple[str, str, Generator | Path | None]] = [
        ("teacher", "torch", teacher),
        ("student", "torch", student),
        ("teacher", "onnxruntime", teacher_onnx),
        ("student", "onnxruntime", student_onnx),
    ]
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((batch, teacher.config.z_dim)).astype(np.float32)
    return {
        f"{model}, {_TITLES[backend]}": _candidate(model, backend, source, z, threads)
        for model, backend, source in sources
        if source is not None
    }


_TITLES = {"torch": "torch eager", "onnxruntime": "ONNX Runtime"}


def _candidate(
    model: str, backend: str, source: Generator | Path, z: NDArray[np.float32], threads: int | None
) -> Candidate:
    runner = load_runner(source, backend=backend, threads=threads)
    psi = np.ones(len(z), dtype=np.float32)
    size = source.stat().st_size if isinstance(source, Path) else None
    return Candidate(lambda: runner(z=z, psi=psi), model, backend, threads=threads, file_bytes=size)
