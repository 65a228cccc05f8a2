"""The ``dcp-deploy`` command: it parses, calls the library, prints, and maps errors to exit codes. No logic."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import BuildConfig
from ..files import is_run_directory
from ..version import __version__
from . import caches, comparing, measure, options, publishing, sample, serving, stages
from .launching import launch
from .options import RUNNING, DryRun, option
from .output import Output
from .streams import ended, open_streams
from .verb import Verbs, name_of, verb

app = typer.Typer(
    name="dcp-deploy",
    cls=Verbs,
    help="Make a small, measured, deployable student of a StyleGAN teacher.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="dcp-deploy help VERB shows the help of a verb. "
    "Exit codes: 0 fine, 1 unexpected error, 2 wrong usage, 3 bad file, 4 something is missing on this machine, "
    "5 a gate failed, 6 stale file, 130 interrupted.",
)


def main() -> None:
    """Run the ``dcp-deploy`` command. SIGTERM ends it like Ctrl-C: exit code 130, resumable.

    Of processes that torchrun or srun started, the first runs it with the help of the others.
    """
    open_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(launch(partial(ended, partial(app, prog_name="dcp-deploy"))))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dcp-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, option("Print the version and stop.", "--version", "-V", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@verb(*BuildConfig.model_fields)
def build(
    output: Output,
    dry_run: DryRun = False,
    force: Annotated[bool, option("Run every stage again.", "--force", panel=RUNNING)] = False,
    **settings: Any,
) -> None:
    """Run the whole pipeline: score, prune, distil, export, verify, measure, report.

    Stages whose inputs and settings have not changed are reused. A killed run continues where it stopped.

    Example: dcp-deploy build --dataset demo --require "fid<2" --require "recall>=0.9*teacher"

    Example: dcp-deploy build --dataset ffhq --teacher ffhq.pkl --data ffhq1024.zip --target "RTX 4090"
    """
    config = BuildConfig.parse(settings)
    from ..pipeline import builder, plan
    from ..pipeline.inputs import real_words
    from ..pipeline.summary import summarise
    from .tables import plan_lines, summary_lines

    if dry_run:
        planned = plan.plan_build(config, output)
        real = [f"real images: {real_words(planned.facts['images'])}"] if planned.facts.get("images") else []
        output.result(planned.to_dict(), planned.table, *plan_lines(planned.estimate), *real)
        return
    run = builder.build(config, force=force, reporter=output)
    output.saved = True
    facts = summarise(run.directory)
    output.result({"summary": facts, "run": run.to_dict()}, *summary_lines(facts))
    output.finished(run.directory)
    run.verdict.raise_for_failure()


@verb()
def inspect(
    output: Output,
    file: Annotated[
        Path,
        typer.Argument(
            help="A teacher or student in any format, an ONNX file, an engine, a bundle or a run directory of build."
        ),
    ],
    network: options.Network = None,
) -> None:
    """Describe a file: architecture, widths, parameters, MACs, sha256, the networks in it. Nothing in it is run.

    Example: dcp-deploy inspect teacher.pkl

    Example: dcp-deploy inspect build/demo
    """
    from ..evaluation.inspection import inspect_file
    from ..pipeline.summary import describe_run
    from .tables import inspected_lines, run_lines

    if network is None and is_run_directory(file):
        facts = describe_run(file)
        output.result(facts, *run_lines(facts))
        return
    facts = inspect_file(file, network=network)
    output.result(facts, *inspected_lines(facts))


@verb()
def datasets(
    output: Output,
    name: Annotated[
        str | None, typer.Argument(help="Show only this preset, in full.", autocompletion=options.datasets)
    ] = None,
) -> None:
    """List the presets of --dataset and where their teachers and images come from.

    Example: dcp-deploy datasets ffhq
    """
    from ..teachers.downloads import cached_path
    from ..teachers.presets import DATASETS, find_dataset
    from .tables import DATASETS_NOTE, datasets_table, facts_lines

    listed = [find_dataset(name)] if name is not None else list(DATASETS.values())
    files = {preset.name: str(path) for preset in listed if (path := cached_path(preset.teacher)) is not None}
    facts = [{**preset.to_dict(), "cached": files.get(preset.name)} for preset in listed]
    if name is not None:
        output.result(facts[0], *facts_lines(facts[0]))
        return
    output.result({"datasets": facts}, datasets_table(listed, files), DATASETS_NOTE)


@verb()
def doctor(
    output: Output,
    out: Annotated[Path | None, option("Folder where results would be written.", "--out", "-o")] = None,
) -> None:
    """Check what works on this machine and how to fix what does not. Exit code 4: something required is missing.

    Example: dcp-deploy doctor --json
    """
    from ..doctor.diagnosis import diagnose
    from .tables import doctor_table, verbs_table

    diagnosis = diagnose(out)
    output.result(diagnosis.to_dict(), doctor_table(diagnosis), verbs_table(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(4)


@verb()
def schema(
    output: Output,
    name: Annotated[
        str | None,
        typer.Argument(metavar="VERB", help="Verb whose documents to describe.", autocompletion=options.verbs),
    ] = None,
) -> None:
    """Print the JSON Schema of what a verb prints with --json. Without a verb, list the verbs.

    Example: dcp-deploy schema inspect
    """
    from ..schemas import find_schemas

    found = find_schemas(name)
    shown = [json.dumps(found[name], indent=2)] if name is not None else list(found)
    output.result({"schemas": found}, *shown)


for command in (
    build, comparing.sweep, comparing.compare, inspect, stages.convert, stages.score, stages.prune, stages.distill,
    stages.export, stages.engine, measure.verify, measure.bench, measure.bench_compare, sample.sample, measure.evaluate,
    measure.directions, measure.project, serving.bundle, serving.bundle_verify, serving.serve, publishing.push,
    datasets, doctor, caches.cache_list, caches.cache_clear, schema,
):  # fmt: skip
    app.command(name_of(command))(command)
