"""The verbs that set several students side by side: build them, and compare their runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import EFFORTS, SIZES, BuildConfig
from ..errors import UsageError
from ..gates import LATENTS, QUALITY, SPEED, parse_requirements
from .measure import ReportFile, Require
from .options import RUNNING, DryRun, flag_of, numbers, option
from .output import Output
from .verb import verb

DEFAULT = "0.5,0.7,0.85"
_PANEL = "Pruning"
_SETTINGS = tuple(name for name in BuildConfig.model_fields if name not in SIZES)


@verb(*_SETTINGS)
def sweep(
    output: Output,
    ratio: Annotated[
        str | None,
        option(
            f"Shares of the channels of every layer that are removed, a student for each [{DEFAULT}].", panel=_PANEL
        ),
    ] = None,
    target_macs: Annotated[
        str | None, option("Shares of the teacher's MACs to keep, instead of --ratio.", panel=_PANEL)
    ] = None,
    target_params: Annotated[
        str | None, option("Shares of the teacher's parameters to keep, instead of --ratio.", panel=_PANEL)
    ] = None,
    dry_run: DryRun = False,
    force: Annotated[bool, option("Run every stage again.", "--force", panel=RUNNING)] = False,
    **settings: Any,
) -> None:
    """Build students of several sizes, time them in turns, compare them and recommend one.

    The teacher is scored once. Every student has its own run directory inside --out, by default build/DATASET-sweep,
    and compare.html lies beside them. A killed sweep continues where it stopped.

    Example: dcp-deploy sweep --dataset demo --ratio 0.5,0.7,0.85

    Example: dcp-deploy sweep --teacher ffhq.pkl --target-macs 0.05,0.1,0.2 --require "fid<8" --dry-run
    """
    size, values = _sizes(output, {"ratio": ratio, "target_macs": target_macs, "target_params": target_params})
    config = BuildConfig.parse(settings, verb="sweep")
    from ..pipeline import sweeping
    from ..report.comparing.table import notes
    from .tables import comparison_table, sweep_table

    if dry_run:
        planned = sweeping.plan_sweep(config, values, size)  # type: ignore[arg-type]
        fetching = next((one.table for _, one in planned if one.estimate is None), None)
        output.result(
            {"students": [one.to_dict() for _, one in planned]},
            *([] if fetching is None else [fetching]),
            sweep_table(planned),
        )
        return
    done = sweeping.sweep(config, values, size=size, force=force, reporter=output)  # type: ignore[arg-type]
    found = done.comparison
    output.saved = True
    places = {"directory": str(done.directory), "page": str(done.directory / sweeping.PAGE)}
    output.result(
        {**found.to_dict(), **places}, comparison_table(found), *notes(found), found.reason, f"page: {places['page']}"
    )
    output.finished(done.directory, use=None if found.recommended is None else done.directory / found.recommended)
    found.raise_for_failure()


def _sizes(output: Output, given: Mapping[str, str | None]) -> tuple[str, tuple[float, ...]]:
    """Return the setting that makes the sizes, and its values. One on the command line wins over those of --config."""
    named = [name for name, values in given.items() if values is not None]
    named = [name for name in named if output.was_typed(name)] or named
    if len(named) > 1:
        raise UsageError(f"{flag_of(named[0])} and {flag_of(named[1])}", "Give one of them.")
    size = named[0] if named else "ratio"
    text = given[size]
    return size, numbers(flag_of(size), DEFAULT if text is None else text)


@verb()
def compare(
    output: Output,
    runs: Annotated[list[Path], typer.Argument(help="Two or more run directories of build.")],
    html: Annotated[Path | None, option("Also write one HTML page with figures, picture and images.")] = None,
    measure: Annotated[
        bool, option("Time all students in turns now, instead of taking each run's own benchmark.", "--measure")
    ] = False,
    wait: Annotated[
        float, option("With --measure: first wait up to this many seconds for a quiet machine.", min=0)
    ] = 0.0,
    require: Require = None,
    out: ReportFile = None,
) -> None:
    """Compare runs by quality, size and speed, and recommend one.

    Figures that were measured in different ways are shown, but not weighed against each other. With --require, exit
    code 5 if no run meets it.

    Example: dcp-deploy compare build/demo build/demo-standard --html compare.html

    Example: dcp-deploy compare build/demo-sweep/ratio-0.5 build/demo-sweep/ratio-0.7 --require "fid<2" --measure
    """
    from ..pipeline.sweeping import time_students
    from ..pipeline.timing import wait_for_quiet
    from ..report.comparing import compare as compare_runs
    from ..report.comparing.page import write_page
    from ..report.comparing.table import notes
    from .tables import comparison_table

    if wait and not measure:
        raise UsageError(f"--wait {wait:g} does nothing without --measure", "Add --measure, or leave --wait out.")
    requirements = None if require is None else parse_requirements(require, (*QUALITY, *LATENTS, SPEED))
    compare_runs(runs, requirements=requirements)  # a run that cannot be read shows before the measurement
    timing = None
    if measure:
        wait_for_quiet(wait, output)
        with output.task("time all students in turns") as progress:
            timing = time_students(runs, EFFORTS["quick"], progress=progress)
    found = compare_runs(runs, requirements=requirements, timing=timing)
    if html is not None:
        write_page(html, found, folder=Path.cwd() if output.piping else None)
    output.report(out, found.to_dict(), comparison_table(found), *notes(found), found.reason)
    if html is not None:
        output.finished(html)
    if requirements:
        found.raise_for_failure()
