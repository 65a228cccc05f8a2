"""Teacher and student as candidates for the harness: torch eager, and ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

from ..export.runners import load_runner
from ..generators import Generator
from .candidate import Candidate
from .graph_work import generator_work, onnx_work
from .opening import with_fixed_inputs

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


def _candidate(model: str, source: Generator | Path, threads: int | None, batch: int, seed: int) -> Candidate:
    runner = load_runner(source, threads=threads)
    size = source.stat().st_size if isinstance(source, Path) else None
    run = with_fixed_inputs(runner, batch, seed)
    work = onnx_work(source, batch) if isinstance(source, Path) else generator_work(source.config, batch)
    return Candidate(run, model, runner.backend, threads=threads, file_bytes=size, work=work)


def _name(candidate: Candidate) -> str:
    return f"{candidate.model}, {_TITLES.get(candidate.backend, candidate.backend)}"
