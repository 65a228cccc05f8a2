"""The latency of a run's models, measured in turns on a machine that is as quiet as it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..efforts import Effort
from ..progress import Progress, Reporter


def wait_for_quiet(seconds: float, reporter: Reporter) -> None:
    """Wait up to this many seconds for a quiet machine, and say so if it is not quiet even then."""
    from ..benchmarks import wait_until_quiet

    if seconds <= 0:
        return
    reporter.message(f"bench: waits up to {seconds:g} s for a quiet machine")
    if not wait_until_quiet(seconds):
        reporter.message("bench: other processes still use the cores")


def time_in_turns(
    files: Mapping[str, Sequence[Path]],
    effort: Effort,
    *,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time all models in turns and return the document of ``bench``.

    On a machine with shared cores it ends early, because such figures are not used.

    ``files``: model -> its checkpoints and ONNX files. The first model in its first backend is the baseline. Raises
    InputError for a file that cannot be read.
    """
    from ..benchmarks import benchmark, machine_ceilings, open_candidate, open_matrix, plan_matrix

    specs, _ = plan_matrix(files, threads=threads)
    candidates, _ = open_matrix(specs, open_candidate, tolerant=False)
    report = benchmark(
        candidates,
        baseline=next(iter(candidates)),
        ceilings=machine_ceilings(["cpu"], specs[0].threads),
        min_rounds=effort.bench_rounds,
        min_seconds=effort.bench_seconds,
        patient=False,
        seed=seed,
        progress=progress,
    )
    return report.to_dict()
