"""Several students of one teacher: scored once, built one after the other, timed in turns and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import SHARES, BuildConfig, Effort
from ..errors import UsageError
from ..files import sha256_file, write_json
from ..progress import Progress, Reporter
from .builder import Run, build
from .inputs import resolve_inputs
from .record import adopt
from .timing import time_in_turns, wait_for_quiet

if TYPE_CHECKING:
    from ..report.comparing import RunComparison

Size = Literal["ratio", "target_macs", "target_params"]
BENCH = "bench.json"
DOCUMENT = "compare.json"
PAGE = "compare.html"
_SHARED = ("teacher", "score")  # stages whose results do not depend on the size


@dataclass(frozen=True)
class Sweep:
    """The finished students, in the order of their sizes, and their comparison."""

    directory: Path
    runs: tuple[Run, ...]
    comparison: RunComparison


def sweep(
    config: BuildConfig,
    values: Sequence[float],
    *,
    size: Size = "ratio",
    force: bool = False,
    reporter: Reporter | None = None,
) -> Sweep:
    """Build a student for each value of ``size``, time all of them in turns and compare them.

    The folders lie in ``config.out``, by default ``build/<dataset>-sweep``, with ``compare.json`` and ``compare.html``
    beside them. The teacher is read and scored once. A killed sweep continues where it was when it is started again.

    Raises UsageError for values that :func:`sweep_configs` refuses, and what :func:`~dcp_deploy.build` raises: for any
    of the students before the work on the first.
    """
    reporter = reporter or Reporter()
    configs = sweep_configs(config, values, size)
    for one in configs:
        resolve_inputs(one, Reporter())  # what one of them lacks shows before hours of work on the others
    runs: list[Run] = []
    for index, one in enumerate(configs, 1):
        reporter.message(f"student {index} of {len(configs)}: {one.directory}")
        if runs and not force:
            adopt(runs[0].directory, one.directory, _SHARED)
        runs.append(build(one, force=force, reporter=reporter))
    above, directories = configs[0].directory.parent, [run.directory for run in runs]
    timing = _timed(above / BENCH, directories, config, force, reporter)
    return Sweep(above, tuple(runs), _compared(above, directories, timing))


def sweep_configs(config: BuildConfig, values: Sequence[float], size: Size) -> list[BuildConfig]:
    """Return the config of each student: ``config`` with one value of ``size``, in a folder of its own.

    Raises UsageError for fewer than two values, for one that is given twice, and for one out of range.
    """
    flag = f"--{size.replace('_', '-')}"
    if len(values) < 2:
        raise UsageError(f"{flag} names fewer than two sizes", f"Give for example {flag} 0.5,0.7,0.85.")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UsageError(f"{flag} names {twice:g} twice", "Give each size once.")
    above = config.out if config.out is not None else Path("build") / f"{config.dataset}-sweep"
    plain = config.model_dump(exclude={*SHARES, "out"})
    return [
        BuildConfig.parse({**plain, size: value, "out": above / f"{flag[2:]}-{value:g}"}, verb="sweep")
        for value in values
    ]


def _compared(above: Path, directories: Sequence[Path], timing: dict[str, Any]) -> RunComparison:
    from ..report.comparing import compare
    from ..report.comparing.page import write_page

    comparison = compare(directories, timing=timing)
    write_json(above / DOCUMENT, {"schema": 1, **comparison.to_dict()})
    write_page(above / PAGE, comparison)
    return comparison


def time_students(
    directories: Sequence[Path],
    effort: Effort,
    *,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time the exported students of several runs in turns, with the first run's teacher in torch as baseline.

    Returns the document of ``bench``, in which every student has the name that it has in the comparison. Raises
    InputError for a run without an exported student.
    """
    from ..report.comparing.runs import names_of

    files = {"teacher": [directories[0] / "teacher.safetensors"]}
    files |= {name: [folder / "student.onnx"] for name, folder in zip(names_of(directories), directories, strict=True)}
    return time_in_turns(files, effort, threads=threads, seed=seed, progress=progress)


def _timed(file: Path, directories: Sequence[Path], config: BuildConfig, force: bool, reporter: Reporter) -> Any:
    """Return the benchmark of all students: the recorded one if it is of these files and was stable."""
    hashes = {str(folder.name): sha256_file(folder / "student.onnx") for folder in directories}
    if file.is_file() and not force:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        if recorded.get("students") == hashes and not recorded.get("unstable_because"):
            return recorded
    wait_for_quiet(config.wait, reporter)
    with reporter.task("time all students in turns") as progress:
        timing = time_students(directories, config.counts, threads=config.threads, seed=config.seed, progress=progress)
    write_json(file, {"schema": 1, **timing, "students": hashes})
    return timing
