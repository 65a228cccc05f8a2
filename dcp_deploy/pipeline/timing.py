"""The latency of a run's models, measured in turns on a machine that is as quiet as it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..efforts import Effort
from ..errors import DcpDeployError, MissingCapabilityError
from ..files import find_compiler
from ..progress import Progress, Reporter

if TYPE_CHECKING:
    from ..benchmarks.candidates.candidate import Candidate
    from ..benchmarks.candidates.matrix import Spec


def wait_for_quiet(seconds: float, reporter: Reporter) -> None:
    """Wait up to this many seconds for a quiet machine, and say so if it is not quiet even then."""
    from ..benchmarks import wait_until_quiet

    if seconds <= 0:
        return
    reporter.message(f"bench: waits up to {seconds:g} s for a quiet machine")
    if not wait_until_quiet(seconds):
        reporter.message("bench: other processes still use the cores")


OTHER_RUNTIMES = ("onnxruntime-winograd", "openvino", "openvino-winograd")
"""For ONNX files on CPUs, beside ONNX Runtime. None of them has to be installed."""


def time_in_turns(
    files: Mapping[str, Sequence[Path]],
    effort: Effort,
    *,
    in_all: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time all models in turns and return the document of ``bench``.

    On a machine with shared cores it ends early, because such figures are not used.

    ``files``: model -> its checkpoints and ONNX files. The first model in its first backend is the baseline. The ONNX
    file of the model ``in_all`` is also timed in ``OTHER_RUNTIMES``. The document then lists those that cannot run it,
    and names the fastest whose images pass the parity gate. Raises InputError for a file that cannot be read.
    """
    from ..benchmarks import (
        benchmark,
        fastest_that_passes,
        machine_ceilings,
        open_candidate,
        open_matrix,
        plan_matrix,
    )

    specs, _ = plan_matrix(files, threads=threads)
    others: list[Spec] = []
    if in_all is not None:
        others, _ = plan_matrix({in_all: files[in_all]}, backends=",".join(OTHER_RUNTIMES), threads=threads)

    def opened(spec: Spec) -> Candidate:
        return _opened_if_it_runs(spec) if spec in others else open_candidate(spec)

    candidates, skipped = open_matrix([*specs, *others], opened, tolerant=bool(others))
    report = benchmark(
        candidates,
        baseline=next(iter(candidates)),
        ceilings=machine_ceilings(["cpu"], specs[0].threads),
        skipped=skipped,
        extras=[name for name, one in candidates.items() if one.backend in OTHER_RUNTIMES],
        min_rounds=effort.bench_rounds,
        min_seconds=effort.bench_seconds,
        patient=False,
        seed=seed,
        progress=progress,
    )
    fastest = fastest_that_passes(report, [*specs, *others]) if others else None
    document = report.to_dict()
    if fastest is not None:
        document |= {"fastest": asdict(fastest), "notes": [*document["notes"], fastest.sentence()]}
    return document


def other_runtimes() -> dict[str, bool]:
    """Return what ``OTHER_RUNTIMES`` need, and whether this machine has it."""
    return {"openvino": find_spec("openvino") is not None, "compiler": find_compiler() is not None}


def _opened_if_it_runs(spec: Spec) -> Candidate:
    """Open a candidate and call it once. MissingCapabilityError if its runtime fails in any way: ours has the file."""
    from ..benchmarks import open_candidate

    try:
        candidate = open_candidate(spec)
        candidate()
    except DcpDeployError as error:
        raise MissingCapabilityError(error.message, error.remedy) from error
    except Exception as error:  # the types of the runtimes have no common base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingCapabilityError(f"{spec.backend} failed: {reason}", "Use another backend.") from error
    return candidate
