"""Several students of one teacher: scored once, built one after the other, timed in turns and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import SIZES, BuildConfig, Effort
from ..devices import default_threads
from ..errors import GateError, UsageError
from ..files import is_run_directory, read_json, sha256_file, write_json
from ..progress import Progress, Reporter
from .builder import Run, build
from .inputs import resolve_inputs
from .plan import BuildPlan, plan_build
from .record import adopt, locked, stage_key
from .timing import time_in_turns, wait_for_quiet

if TYPE_CHECKING:
    from ..gates import Requirement
    from ..report.comparing import RunComparison

Size = Literal["ratio", "target_macs", "target_params"]
BENCH = "bench.json"
DOCUMENT = "compare.json"
PAGE = "compare.html"
_SHARED = ("teacher", "score")  # stages whose results do not depend on the size


@dataclass(frozen=True)
class Sweep:
    """The finished students, in the order of their sizes, and the comparison of all."""

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
    A student that fails a gate (parity, collapse) does not stop the others.

    Raises UsageError for values that :func:`sweep_configs` refuses, for two that give the same student, and for a
    folder that holds something else; and what :func:`~dcp_deploy.build` raises: for any of the students before the work
    on the first. GateError if no student passes.
    """
    reporter = reporter or Reporter()
    configs = sweep_configs(config, values, size)
    above = configs[0].directory.parent
    _check_folder(above, configs)
    inputs = [resolve_inputs(one, reporter) for one in configs]  # what one lacks shows before hours of work on others
    if size == "ratio":  # under a budget the scores decide the widths
        _check_apart(configs, [one.pruning_plan.widths for one in inputs])
    with locked(above):
        for one in configs:
            with locked(one.directory):  # another build in one of the folders shows now, too
                pass
        runs = _built(configs, force, reporter)
        timing = _timed(above / BENCH, [run.directory for run in runs], config, force, reporter)
        compared = _compared(above, [one.directory for one in configs], timing, inputs[0].requirements)
    return Sweep(above, tuple(runs), compared)


def plan_sweep(config: BuildConfig, values: Sequence[float], size: Size) -> list[tuple[BuildConfig, BuildPlan]]:
    """Plan every student. Writes and fetches nothing. Raises the same errors as :func:`sweep` before its work."""
    configs = sweep_configs(config, values, size)
    _check_folder(configs[0].directory.parent, configs)
    plans = [plan_build(one) for one in configs]
    if size == "ratio":
        _check_apart(configs, [one.facts["student"]["widths"] for one in plans if one.estimate is not None])
    return list(zip(configs, plans, strict=True))


def sweep_configs(config: BuildConfig, values: Sequence[float], size: Size) -> list[BuildConfig]:
    """Return the config of each student: ``config`` with one value of ``size``, in a folder of its own.

    Raises UsageError for fewer than two values, for one that is given twice, and for one out of range.
    """
    flag = f"--{size.replace('_', '-')}"
    if len(values) < 2:
        raise UsageError(f"{flag} names fewer than two sizes", f"Give for example {flag} 0.5,0.7,0.85.")
    names = [f"{float(value):.15g}" for value in values]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{flag} names {twice} twice", "Give each size once.")
    above = config.out if config.out is not None else Path("build") / f"{config.dataset}-sweep"
    plain = config.model_dump(exclude={*SIZES, "out"})
    return [
        BuildConfig.parse({**plain, size: value, "out": above / f"{flag[2:]}-{name}"}, verb="sweep")
        for name, value in zip(names, values, strict=True)
    ]


def _check_folder(above: Path, configs: Sequence[BuildConfig]) -> None:
    """Raise UsageError for a folder in which the sweep's files would replace others."""
    file = next((one.directory for one in configs if one.directory.exists() and not one.directory.is_dir()), None)
    if file is not None:
        raise UsageError(
            f"{file} is a file, where a student's folder belongs", "Give another --out, or move that file."
        )
    if is_run_directory(above):
        raise UsageError(f"{above} is the run directory of one build", f"Give another --out, such as {above}-sweep.")
    file = above / BENCH
    if file.exists() and "students" not in _document(file):
        raise UsageError(f"{file} is not of a sweep, which would replace it", "Give another --out, or move that file.")


def _check_apart(configs: Sequence[BuildConfig], widths: Sequence[Sequence[int]]) -> None:
    """Raise UsageError if two students would have the same widths, and so be the same."""
    folders: dict[tuple[int, ...], str] = {}
    for one, found in zip(configs, widths, strict=False):  # none are known of a teacher that has to be fetched
        other = folders.setdefault(tuple(found), name := one.directory.name)
        if other != name:
            raise UsageError(
                f"{other} and {name} are the same student: their channels are equal with --align {one.align}",
                "Give sizes further apart, or a smaller --align.",
            )


def _built(configs: Sequence[BuildConfig], force: bool, reporter: Reporter) -> list[Run]:
    """Build the students; leave out those that fail a gate. Raises the last one's error if all do."""
    runs: list[Run] = []
    first = configs[0].directory
    for index, one in enumerate(configs, 1):
        reporter.message(f"student {index} of {len(configs)}: {one.directory}")
        if one is not configs[0]:
            adopt(first, one.directory, _SHARED)
        try:
            runs.append(build(one, force=force, spared=() if one is configs[0] else _SHARED, reporter=reporter))
        except GateError as error:
            if one is configs[-1] and not runs:
                raise
            reporter.message(f"student {index} of {len(configs)} failed: {error.message}")
    return runs


def _compared(
    above: Path, directories: Sequence[Path], timing: dict[str, Any], requirements: Sequence[Requirement]
) -> RunComparison:
    from ..report.comparing import compare
    from ..report.comparing.page import write_page

    comparison = compare(directories, timing=timing, requirements=requirements)
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


def _timed(
    file: Path, directories: Sequence[Path], config: BuildConfig, force: bool, reporter: Reporter
) -> dict[str, Any]:
    """Return the benchmark of all students: the recorded one if it is of these files and this machine, and stable."""
    hashes = {folder.name: sha256_file(folder / "student.onnx") for folder in directories}
    key = _bench_key(config, {**hashes, "teacher": sha256_file(directories[0] / "teacher.safetensors")})
    recorded = {} if force else _document(file)
    if recorded.get("key") == key and not recorded.get("unstable_because"):
        return recorded
    wait_for_quiet(config.wait, reporter)
    with reporter.task("time all students in turns") as progress:
        timing = time_students(directories, config.counts, threads=config.threads, seed=config.seed, progress=progress)
    write_json(file, {"schema": 1, **timing, "students": hashes, "key": key})
    return timing


def _bench_key(config: BuildConfig, files: Mapping[str, str]) -> str:
    """Return the cache key of a benchmark of these files with these settings on this machine."""
    from ..benchmarks import capture_environment

    here = capture_environment()
    settings = {name: getattr(here, name) for name in ("cpu", "usable_cores", "cpu_quota", "gpu", "packages")}
    settings |= {name: getattr(config.counts, name) for name in ("bench_rounds", "bench_seconds")}
    settings |= {"threads": config.threads or default_threads(), "seed": config.seed}
    return stage_key("bench of a sweep", settings, files)


def _document(file: Path) -> dict[str, Any]:
    """Read a benchmark; empty if there is none that can be read."""
    from ..report.run_directory import Bench

    try:
        document = read_json(file)
        Bench.model_validate(document)
    except (OSError, ValueError):
        return {}
    return dict(document)
