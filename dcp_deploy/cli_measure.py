"""The verbs that look at models: compare, time, draw, measure quality."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from .cli_output import ConfigFile, Debug, Json, Output, Quiet, Seed, verb, write_settings
from .cli_stages import whole_numbers
from .errors import UsageError
from .files import atomic_path

ReportFile = Annotated[Path | None, typer.Option("--out", "-o", help="Also write the JSON document to this file.")]


@verb
def verify(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="The reference: a checkpoint, an ONNX file or a bundle.")],
    b: Annotated[
        str, typer.Argument(help="What should draw the same; with a bundle also http://HOST:PORT or grpc://.")
    ],
    latents: Annotated[int, typer.Option(help="How many seeds, each at every psi.")] = 256,
    psi: Annotated[str, typer.Option(help="Truncations.")] = "0.5,0.7,1",
    precision: Annotated[str | None, typer.Option(help="Whose limits hold; what the files declare by default.")] = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Compare the layers too: where do they part?")] = False,
    backend_a: Annotated[str, typer.Option(help="What runs A: torch, fused, onnxruntime, ...")] = "auto",
    backend_b: Annotated[str, typer.Option(help="What runs B.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Where torch computes: cpu, cuda, cuda:1.")] = None,
    clients: Annotated[int, typer.Option(help="Of a server: how many ask at once.")] = 16,
    requests: Annotated[int, typer.Option(help="Of a server: how often in all; 0 for no load.")] = 200,
    model: Annotated[str, typer.Option(help="Of a server: which of its models.")] = "generator",
    worst: Annotated[Path | None, typer.Option(help="Write the worst sample as a picture.")] = None,
    out: ReportFile = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The parity gate: do two artefacts draw the same images? Exit code 5 when not.

    A running server is asked for the golden images of its bundle, by one client and then by many at once.
    """
    from . import export
    from .cli_tables import checks_table, layers_table
    from .export.endpoint import is_address

    output = Output(as_json=as_json, quiet=quiet)
    if is_address(a) or is_address(b):
        from .cli_serving import verify_server

        live, *shown = verify_server(a, b, output, model=model, clients=clients, requests=requests)
        _report(context, output, out, live.to_dict(), *shown)
        live.raise_for_failure()
        return
    with output.task("verify"):
        report = export.verify(
            *export.load_pair(a, b, backend_a=backend_a, backend_b=backend_b, device=device),  # type: ignore[arg-type]
            latents=latents,
            psis=numbers("--psi", psi),
            seed=seed,
            precision=precision,
            bisect=bisect,
        )
    if worst is not None:
        report.save_worst(worst)
    tables = [checks_table(report), *([layers_table(report.layers)] if report.layers else [])]
    _report(context, output, out, report.to_dict(), *tables)
    report.raise_for_failure()


@verb
def bench(
    context: typer.Context,
    model: Annotated[list[Path], typer.Argument(help="Checkpoint, ONNX file, engine or bundle; several of one model.")],
    teacher: Annotated[list[Path] | None, typer.Option(help="The baseline; may be given more than once.")] = None,
    backends: Annotated[
        str, typer.Option(help="auto: each file in what it is for; all that there is; or names: torch,onnxruntime.")
    ] = "auto",
    batch: Annotated[str, typer.Option(help="Images per call; several to see how it grows: 1,8,32.")] = "1",
    mode: Annotated[
        str, typer.Option(help="latency; MLPerf-style, not conformant: single-stream, offline.")
    ] = "latency",
    bound: Annotated[
        float | None, typer.Option(help="Also: largest batch and rate that keep p99 under this many milliseconds.")
    ] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="A process each: cold start and memory too.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads of every call; all by default.")] = None,
    rounds: Annotated[int, typer.Option(help="At least this many calls of each.")] = 100,
    seconds: Annotated[float, typer.Option(help="At least this long in all.")] = 10.0,
    out: ReportFile = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables as Markdown to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw distribution and growth: a PNG or SVG file.")] = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time a model, interleaved with its teacher when one is given.

    With --backends all, what cannot run here is listed with the reason.

    Example: dcp-deploy bench student.onnx --teacher teacher.onnx --batch 8

    Example: dcp-deploy bench student.onnx --batch 1,2,4,8,16 --bound 50 --plot growth.svg

    Example: dcp-deploy bench student.safetensors student.onnx --teacher teacher.safetensors --backends all --isolate
    """
    from . import benchmarks
    from .report.bench_plot import check_ending, save_plot

    output = Output(as_json=as_json, quiet=quiet)
    if bound is not None:
        benchmarks.check_bound(bound)
    if plot is not None:
        check_ending(plot)
    files = {"model": model} if not teacher else {"teacher": teacher, "model": model}
    batches = whole_numbers("--batch", batch)
    specs, missing = benchmarks.plan(files, backends=backends, batches=batches, threads=threads, seed=seed)
    together = nullcontext(benchmarks.open_candidate)
    with output.task("bench") as progress, benchmarks.isolated() if isolate else together as open_one:
        candidates, skipped = benchmarks.open_matrix(specs, open_one, tolerant=backends == "all")
        report = benchmarks.benchmark(
            candidates,
            baseline=next(iter(candidates)),
            batch=batches[0],
            mode=mode,
            ceilings=benchmarks.machine_ceilings([one.device for one in candidates.values()], threads),
            skipped=[*missing, *skipped],
            min_rounds=rounds,
            min_seconds=seconds,
            seed=seed,
            progress=progress,
        )
    if bound is not None:
        report = benchmarks.within_bound(report, bound, seed=seed)
    if markdown is not None:
        with atomic_path(markdown) as temporary:
            temporary.write_text(report.to_markdown(), encoding="utf-8")
    if plot is not None:
        save_plot(plot, report.to_dict())
    _report(context, output, out, report.to_dict(), *report.to_tables(), *report.notes)


@verb
def bench_compare(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(help="What bench --out or --json wrote: the reference.")],
    b: Annotated[Path, typer.Argument(help="The same of another run.")],
    fail_above: Annotated[
        float | None,
        typer.Option(help="Exit code 5 unless every candidate is shown to take at most this many times as long in B."),
    ] = None,
    out: ReportFile = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare two runs of bench: faster, slower or no difference shown, from the raw samples.

    Nothing is said of candidates whose run was unstable, or that were measured on another machine or in another way.

    Example: dcp-deploy bench compare before.json after.json --fail-above 1.05
    """
    from . import benchmarks

    if fail_above is not None and not 0 < fail_above < float("inf"):
        raise UsageError(f"--fail-above is {fail_above}", "Write for instance 1.05: at most 5 % slower.")
    comparison = benchmarks.compare_runs(benchmarks.read_run(a), benchmarks.read_run(b), seed=seed)
    output = Output(as_json=as_json, quiet=quiet)
    _report(context, output, out, comparison.to_dict(), comparison.to_table(), *comparison.remarks())
    if fail_above is not None:
        comparison.raise_above(fail_above)


@verb
def sample(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A checkpoint or an ONNX file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("sample.png"),
    seeds: Annotated[str, typer.Option(help="Seeds: 0-15, or 3,5,8.")] = "0-15",
    psi: Annotated[str, typer.Option(help="Truncations; with several, a row each.")] = "1",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw a grid of images for seeds and truncations. Seeds mean what they mean in NVIDIA's scripts."""
    from .export import load_runner
    from .sampling import sample_grid

    output = Output(as_json=as_json, quiet=quiet)
    runner = load_runner(model)
    with output.task("sample") as progress:
        sample_grid(runner, out, seeds=whole_numbers("--seeds", seeds), psis=numbers("--psi", psi), progress=progress)
    settings = write_settings(context, out)
    output.result({"path": str(out), "backend": runner.backend, "settings": str(settings)}, str(out))


@verb
def evaluate(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A checkpoint or an ONNX file of the demo's kind.")],
    samples: Annotated[int, typer.Option(help="Images to draw.")] = 5000,
    psi: Annotated[float, typer.Option(help="Truncation.")] = 1.0,
    out: ReportFile = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure quality against the demo's images: FID, precision, recall, density, coverage, modes."""
    from . import metrics
    from .cli_tables import facts_lines
    from .export import load_runner

    output = Output(as_json=as_json, quiet=quiet)
    runner = load_runner(model)
    with output.task("eval") as progress:
        measured = metrics.evaluate(runner, samples=samples, seed=seed, psi=psi, progress=progress)
    _report(context, output, out, measured.to_dict(), *facts_lines(measured.to_dict()))


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """ "0.5,0.7,1" -> (0.5, 0.7, 1.0). Raises UsageError naming the flag."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of numbers", "Write for instance 0.5,0.7,1.") from None


def _report(
    context: typer.Context, output: Output, out: Path | None, document: dict[str, object], *shown: object
) -> None:
    from .files import write_json

    if out is not None:
        write_json(out, {"schema": 1, **document})
        write_settings(context, out)
    output.result(document, *shown)
