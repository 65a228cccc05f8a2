"""The ``dcp-deploy`` command: parse, call the library, print, map errors to exit codes. No logic."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from ..config import BuildConfig
from ..version import __version__
from . import measure, serving, stages
from . import options as flags
from .output import ConfigFile, Debug, Device, Json, Output, Quiet, Seed, Verbs, name_of, verb

app = typer.Typer(
    name="dcp-deploy",
    cls=Verbs,
    help="From a StyleGAN teacher to a measured, deployable student.",
    no_args_is_help=True,
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
    dataset: Annotated[str, flags.offered("A preset; see dcp-deploy datasets.", flags.datasets)] = _DEFAULT.dataset,
    teacher: Annotated[Path | None, typer.Option(help="Start from this generator instead of the preset's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Real images: a folder, a zip file or an LMDB.")] = None,
    resize: flags.Resize = _DEFAULT.resize,
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip half of the real images.")] = _DEFAULT.mirror,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory [build/<dataset>].")] = None,
    ratio: Annotated[float, typer.Option(help="Share of channels to remove, 0 to below 1.")] = _DEFAULT.ratio,
    align: Annotated[int, typer.Option(help="Keep multiples of this many channels.")] = _DEFAULT.align,
    target_macs: Annotated[float | None, typer.Option(help=flags.MACS_HELP)] = None,
    target_params: Annotated[float | None, typer.Option(help=flags.PARAMS_HELP)] = None,
    score: flags.Score = _DEFAULT.score,
    refine: flags.Refine = _DEFAULT.refine,
    effort: flags.EffortOption = _DEFAULT.effort,
    steps: Annotated[int | None, typer.Option(help="Distillation steps instead of the effort's.")] = None,
    accumulate: flags.Accumulate = _DEFAULT.accumulate,
    devices: flags.Devices = _DEFAULT.devices,
    train_precision: flags.TrainPrecision = _DEFAULT.train_precision,
    keep: flags.Keep = _DEFAULT.keep,
    tensorboard: flags.Tensorboard = None,
    lpips: flags.LpipsWeights = None,
    inception: flags.InceptionWeights = None,
    discriminator: flags.DiscriminatorFile = None,
    augment: flags.Augment = _DEFAULT.augment,
    guide: flags.Guide = None,
    feature_gan: flags.FeatureGan = _DEFAULT.feature_gan,
    mask: flags.Mask = None,
    mask_background: flags.MaskBackground = _DEFAULT.mask_background,
    mask_inputs: flags.MaskInputs = _DEFAULT.mask_inputs,
    precision: Annotated[
        str, flags.offered("Of the exported graph: fp32, fp16, bf16, int8.", flags.setting("precision"))
    ] = _DEFAULT.precision,
    target: Annotated[str | None, flags.offered('GPUs of the engine: "sm89", "RTX 4090,L4".', flags.targets)] = None,
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

    Example: dcp-deploy build --dataset demo

    Example: dcp-deploy build --dataset ffhq --teacher ffhq.pkl --data ffhq1024.zip --target "RTX 4090"
    """
    fields = {name: value for name, value in context.params.items() if name in BuildConfig.model_fields}
    settings = BuildConfig.parse(fields)
    output = Output(as_json=as_json, quiet=quiet)
    from ..pipeline import builder, plan
    from ..pipeline.inputs import real_words
    from ..pipeline.summary import summarise
    from .tables import plan_lines, summary_lines

    if dry_run:
        planned = plan.plan_build(settings)
        real = [f"real images: {real_words(planned.facts['images'])}"] if planned.facts.get("images") else []
        output.result(planned.to_dict(), planned.table, *plan_lines(planned.estimate), *real)
        return
    run = builder.build(settings, force=force, reporter=output)
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
    """Say what a file is: architecture, widths, parameters, MACs, sha256. Nothing in it is run.

    Example: dcp-deploy inspect teacher.pkl
    """
    from ..evaluation.inspection import inspect_file
    from .tables import facts_lines

    facts = inspect_file(file)
    Output(as_json=as_json, quiet=quiet).result(facts, *facts_lines(facts))


@verb
def datasets(
    name: Annotated[str | None, typer.Argument(help="One preset, in full.", autocompletion=flags.datasets)] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the presets of --dataset and where their teachers and images come from.

    Example: dcp-deploy datasets ffhq
    """
    from ..teachers.downloads import cached_path
    from ..teachers.presets import DATASETS, find_dataset
    from .tables import DATASETS_NOTE, datasets_table, facts_lines

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
    """Say what works on this machine and how to mend what does not. Exit code 4 when something required is missing.

    Example: dcp-deploy doctor --json
    """
    from ..doctor.diagnosis import diagnose
    from .tables import doctor_table, verbs_table

    diagnosis = diagnose(out)
    Output(as_json=as_json, quiet=quiet).result(diagnosis.to_dict(), doctor_table(diagnosis), verbs_table(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(4)


@verb
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="VERB", help="Whose documents.", autocompletion=flags.verbs)
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of what a verb prints with --json; without a verb, the list of them.

    Example: dcp-deploy schema inspect
    """
    from ..schemas import find_schemas

    found = find_schemas(name)
    shown = [json.dumps(found[name], indent=2)] if name is not None else list(found)
    Output(as_json=as_json, quiet=quiet).result({"schemas": found}, *shown)


for command in (
    build,
    inspect,
    stages.convert,
    stages.score,
    stages.prune,
    stages.distill,
    stages.export,
    stages.engine,
    measure.verify,
    measure.bench,
    measure.bench_compare,
    measure.sample,
    measure.evaluate,
    measure.directions,
    measure.project,
    serving.bundle,
    serving.serve,
    datasets,
    doctor,
    schema,
):
    app.command(name_of(command))(command)
