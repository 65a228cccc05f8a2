"""The verbs about files that dcp-deploy keeps outside of run directories."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DryRun, one_of
from .output import Output
from .verb import verb

if TYPE_CHECKING:
    from ..doctor.caches import Cache


@verb()
def cache_list(output: Output) -> None:
    """List what is cached: fetched teachers, features of real images, ONNX Runtime Web, compiled kernels.

    DCP_DEPLOY_CACHE names another folder than the user's cache folder.

    Example: dcp-deploy cache list
    """
    from ..doctor.caches import list_caches

    _show(output, list_caches(), removed=False)


@verb()
def cache_clear(
    output: Output,
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            help="teachers, statistics, web or kernels; by default all.",
            autocompletion=one_of("teachers", "statistics", "web", "kernels"),
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Remove cached files. They are fetched, computed or compiled again when they are needed.

    Example: dcp-deploy cache clear kernels
    """
    from ..doctor.caches import clear_caches

    _show(output, clear_caches(kinds or (), dry_run=dry_run), removed=not dry_run)


def _show(output: Output, caches: list[Cache], *, removed: bool) -> None:
    from .tables import caches_table

    output.result({"caches": [asdict(one) for one in caches], "removed": removed}, caches_table(caches))
    if removed:
        output.message(f"removed {sum(one.files for one in caches)} files")
