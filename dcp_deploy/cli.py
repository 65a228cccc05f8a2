"""The ``dcp-deploy`` command: parse, call the library, print, map errors to exit codes. No logic."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, cli_measure, cli_serving, cli_stages
from .cli_output import ConfigFile, Debug, Device, Json, Output, Quiet, Seed, verb
from .config import EFFORTS, BuildConfig

app = typer.Typer(
    name="dcp-deploy",
    help="From a StyleGAN teacher to a measured, deployable student.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 unexpected, 2 usage, 3 bad file, 4 something is missing here, 5 a gate failed, "
    "6 stale file, 130 interrupted.",
)

_DEFAULT = BuildConfig()


def main() -> None:
    """Entry point of the ``dcp-deploy`` command. A polite kill (SIGTERM) ends like Ctrl-C: exit code 130, resumable."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="dcp-deploy")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dcp-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@verb
def build(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="A preset; see dcp-deploy datasets.")] = _DEFAULT.dataset,
    teacher: Annotated[Path | None, typer.Option(help="Start from this generator instead of the preset's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Real images: a folder, a zip file or an LMDB.")] = None,
    resize: Annotated[str, typer.Option(help="Images of another size: error; crop to the centre.")] = _DEFAULT.resize,
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip half of the real images.")] = _DEFAULT.mirror,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory [build/<dataset>].")] = None,
    ratio: Annotated[float, typer.Option(help="Share of channels to remove, 0 to below 1.")] = _DEFAULT.ratio,
    align: Annotated[int, typer.Option(help="Keep multiples of this many channels.")] = _DEFAULT.align,
    target_macs: Annotated[float | None, typer.Option(help=cli_stages.MACS_HELP)] = None,
    target_params: Annotated[float | None, typer.Option(help=cli_stages.PARAMS_HELP)] = None,
    score: Annotated[str, typer.Option(help=cli_stages.SCORE_HELP)] = _DEFAULT.score,
    refine: Annotated[str, typer.Option(help=cli_stages.REFINE_HELP)] = _DEFAULT.refine,
    effort: Annotated[str, typer.Option(help=f"How long to work: {', '.join(EFFORTS)}.")] = _DEFAULT.effort,
    steps: Annotated[int | None, typer.Option(help="Distillation steps instead of the effort's.")] = None,
    accumulate: cli_stages.Accumulate = _DEFAULT.accumulate,
    devices: cli_stages.Devices = _DEFAULT.devices,
    train_precision: cli_stages.TrainPrecision = _DEFAULT.train_precision,
    keep: cli_stages.Keep = _DEFAULT.keep,
    tensorboard: cli_stages.Tensorboard = None,
    lpips: cli_stages.LpipsWeights = None,
    discriminator: cli_stages.DiscriminatorFile = None,
    mask: cli_stages.Mask = None,
    mask_background: cli_stages.MaskBackground = _DEFAULT.mask_background,
    mask_inputs: cli_stages.MaskInputs = _DEFAULT.mask_inputs,
    precision: Annotated[str, typer.Option(help="Of the exported graph: fp32, fp16, bf16, int8.")] = _DEFAULT.precision,
    target: Annotated[str | None, typer.Option(help='GPUs of the engine: "sm89", "RTX 4090,L4".')] = None,
    seed: Seed = _DEFAULT.seed,
    device: Device = _DEFAULT.device,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run every stage again.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the whole pipeline: score, prune, distil, export, verify, measure, report.

    Stages whose inputs and settings have not changed are reused, and a killed run goes on where it was.
    """
    fields = {name: value for name, value in context.params.items() if name in BuildConfig.model_fields}
    settings = BuildConfig.parse(fields)
    output = Output(as_json=as_json, quiet=quiet)
    from . import pipeline
    from .cli_tables import plan_lines, summary_lines
    from .real_data import real_words
    from .summary import summarise

    if dry_run:
        plan = pipeline.plan_build(settings)
        real = [f"real images: {real_words(plan.facts['images'])}"] if plan.facts.get("images") else []
        output.result(plan.to_dict(), plan.table, *plan_lines(plan.estimate), *real)
        return
    run = pipeline.build(settings, force=force, reporter=output)
    facts = summarise(run.directory)
    output.result({"summary": facts, "run": run.to_dict()}, *summary_lines(facts))


@verb
def inspect(
    file: Annotated[Path, typer.Argument(help="A teacher or student in any format, an ONNX file or an engine.")],
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what a file is: architecture, widths, parameters, MACs, sha256. Nothing in it is run."""
    from .cli_tables import facts_lines
    from .inspection import inspect_file

    facts = inspect_file(file)
    Output(as_json=as_json, quiet=quiet).result(facts, *facts_lines(facts))


@verb
def datasets(
    name: Annotated[str | None, typer.Argument(help="One preset, in full.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the presets of --dataset and where their teachers and images come from."""
    from .cli_tables import DATASETS_NOTE, datasets_table, facts_lines
    from .downloads import cached_path
    from .presets import DATASETS, find_dataset

    output = Output(as_json=as_json, quiet=quiet)
    listed = [find_dataset(name)] if name is not None else list(DATASETS.values())
    here = {preset.name: str(path) for preset in listed if (path := cached_path(preset.teacher)) is not None}
    facts = [{**preset.to_dict(), "cached": here.get(preset.name)} for preset in listed]
    if name is not None:
        output.result(facts[0], *facts_lines(facts[0]))
        return
    output.result({"datasets": facts}, datasets_table(listed, here), DATASETS_NOTE)


@verb
def doctor(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where results would be written.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what works on this machine and how to mend what does not. Exit code 4 when something required is missing."""
    from .cli_tables import doctor_table
    from .doctor import diagnose

    diagnosis = diagnose(out)
    Output(as_json=as_json, quiet=quiet).result(diagnosis.to_dict(), doctor_table(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(4)


for command in (
    build,
    inspect,
    cli_stages.convert,
    cli_stages.score,
    cli_stages.prune,
    cli_stages.distill,
    cli_stages.export,
    cli_stages.engine,
    cli_measure.verify,
    cli_measure.bench,
    cli_measure.sample,
    cli_measure.evaluate,
    cli_serving.bundle,
    cli_serving.serve,
    datasets,
    doctor,
):
    app.command("eval" if command is cli_measure.evaluate else None)(command)
