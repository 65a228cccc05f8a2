"""The verbs that look at models: compare, time, draw, measure quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import cli_options as flags
from .cli_output import ConfigFile, Debug, Json, Output, Quiet, Seed, verb, write_settings
from .cli_values import numbers, whole_numbers

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
    precision: Annotated[
        str | None,
        flags.offered("Whose limits hold; what the files declare by default.", flags.setting("precision")),
    ] = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Compare the layers too: where do they part?")] = False,
    backend_a: Annotated[str, flags.offered("What runs A: torch, fused, onnxruntime, ...", flags.backends)] = "auto",
    backend_b: Annotated[str, flags.offered("What runs B.", flags.backends)] = "auto",
    device: Annotated[str | None, flags.offered("Where torch computes: cpu, cuda, cuda:1.", flags.devices)] = None,
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

    Example: dcp-deploy verify student.safetensors student.onnx --bisect

    Example: dcp-deploy verify demo-bundle http://127.0.0.1:8000
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
    model: Annotated[Path, typer.Argument(help="A checkpoint or an ONNX file.")],
    teacher: Annotated[Path | None, typer.Option(help="The baseline to compare with.")] = None,
    batch: Annotated[int, typer.Option(help="Images per call.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads of every call; all by default.")] = None,
    rounds: Annotated[int, typer.Option(help="At least this many calls of each.")] = 100,
    seconds: Annotated[float, typer.Option(help="At least this long in all.")] = 10.0,
    out: ReportFile = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time a model, interleaved with its teacher when one is given.

    Example: dcp-deploy bench student.onnx --teacher teacher.onnx --batch 8
    """
    from . import benchmarks

    output = Output(as_json=as_json, quiet=quiet)
    files = {"model": model} if teacher is None else {"teacher": teacher, "model": model}
    candidates = benchmarks.file_candidates(files, threads=threads, batch=batch, seed=seed)
    with output.task("bench") as progress:
        report = benchmarks.benchmark(
            candidates,
            baseline=next(iter(candidates)),
            batch=batch,
            min_rounds=rounds,
            min_seconds=seconds,
            seed=seed,
            progress=progress,
        )
    _report(context, output, out, report.to_dict(), report.to_table(), *report.notes)


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
    """Draw a grid of images for seeds and truncations. Seeds mean what they mean in NVIDIA's scripts.

    Example: dcp-deploy sample student.onnx -o grid.png --seeds 0-7 --psi 0.5,0.7,1
    """
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
    """Measure quality against the demo's images: FID, precision, recall, density, coverage, modes.

    Example: dcp-deploy eval build/demo/student.onnx --samples 3000
    """
    from . import metrics
    from .cli_tables import facts_lines
    from .export import load_runner

    output = Output(as_json=as_json, quiet=quiet)
    runner = load_runner(model)
    with output.task("eval") as progress:
        measured = metrics.evaluate(runner, samples=samples, seed=seed, psi=psi, progress=progress)
    _report(context, output, out, measured.to_dict(), *facts_lines(measured.to_dict()))


def _report(
    context: typer.Context, output: Output, out: Path | None, document: dict[str, object], *shown: object
) -> None:
    from .files import write_json

    if out is not None:
        write_json(out, {"schema": 1, **document})
        write_settings(context, out)
    output.result(document, *shown)
