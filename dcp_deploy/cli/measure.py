"""The verbs that look at models: compare, time, draw, measure quality, edit, project."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..files import atomic_path
from . import options as flags
from .options import numbers, wants_suffix, whole_numbers
from .output import ConfigFile, Debug, Device, Json, Output, Quiet, Seed, verb, write_settings

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
    from .. import export
    from ..export.serving.endpoint import is_address
    from .tables import checks_table, layers_table

    output = Output(as_json=as_json, quiet=quiet)
    if is_address(a) or is_address(b):
        from .serving import verify_server

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
        float | None, typer.Option(help="Also: the largest batch that keeps p99 under this many milliseconds.")
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
    from .. import benchmarks
    from ..report.bench_plot import check_ending, save_plot

    output = Output(as_json=as_json, quiet=quiet)
    if bound is not None:
        benchmarks.check_bound(bound)
    if plot is not None:
        check_ending(plot)
    files = {"model": model} if not teacher else {"teacher": teacher, "model": model}
    batches = whole_numbers("--batch", batch)
    specs, missing = benchmarks.plan_matrix(files, backends=backends, batches=batches, threads=threads, seed=seed)
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
        report = benchmarks.within_bound(report, bound)
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
    from .. import benchmarks

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
    direction: Annotated[
        list[str] | None, typer.Option(metavar="NAME=STRENGTH", help="Edit along it, in standard deviations: pc0=2.")
    ] = None,
    directions: Annotated[Path | None, typer.Option(help="Where they are: dcp-deploy directions writes it.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw a grid of images for seeds and truncations. Seeds mean what they mean in NVIDIA's scripts.

    Example: dcp-deploy sample student.onnx -o grid.png --seeds 0-7 --psi 0.5,0.7,1
    """
    from ..export import load_runner
    from ..export.runners.sampling import sample_grid

    output = Output(as_json=as_json, quiet=quiet)
    runner = load_runner(model)
    if direction:
        from ..checkpoints.directions import read_directions
        from ..evaluation.editing import edited_runner, parse_edits

        if directions is None:
            raise UsageError("--direction needs a file of directions", "Give it as --directions FILE.")
        runner = edited_runner(runner, parse_edits(direction, read_directions(directions)))
    with output.task("sample") as progress:
        sample_grid(runner, out, seeds=whole_numbers("--seeds", seeds), psis=numbers("--psi", psi), progress=progress)
    settings = write_settings(context, out)
    output.result({"path": str(out), "backend": runner.backend, "settings": str(settings)}, str(out))


@verb
def evaluate(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A checkpoint, an ONNX file, an engine or a bundle.")],
    teacher: Annotated[Path | None, typer.Option(help="Compare the images of equal latents with this one's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Real images, instead of the demo's: folder, zip or LMDB.")] = None,
    resize: flags.Resize = "error",
    inception: Annotated[Path | None, typer.Option(help="torch-fidelity's weights; fetched when not given.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="torchvision's vgg16-397923af.pth, for LPIPS.")] = None,
    backend: Annotated[str, flags.offered("What runs it: torch, onnxruntime, openvino, ...", flags.backends)] = "auto",
    directions: Annotated[Path | None, typer.Option(help="Does editing along these survive? With --teacher.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Images to draw [5000 against the demo's, 50,000 against --data].")
    ] = None,
    psi: Annotated[float, typer.Option(help="Truncation.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Images per call.")] = 64,
    out: ReportFile = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure quality: FID, KID, precision, recall, density, coverage, modes, diversity, likeness to a teacher.

    Against the demo's images by their own reader, against --data by Inception, whose weights (96 MB) are fetched once
    unless --inception names them. What was not measured says why.

    Example: dcp-deploy eval student.onnx --teacher teacher.safetensors --data ffhq256.zip
    """
    from ..devices import torch_device
    from ..evaluation.quality import Against, evaluate_file
    from .tables import evaluation_lines, modes_table

    output = Output(as_json=as_json, quiet=quiet)
    against = Against(teacher, data, resize, directions, inception, lpips)  # type: ignore[arg-type]  # refused there
    measured = evaluate_file(
        model, against, samples=samples, seed=seed, psi=psi, batch=batch, device=torch_device(device),
        backend=backend, reporter=output,  # type: ignore[arg-type]  # refused there
    ).to_dict()  # fmt: skip
    tables = [modes_table(measured["modes"])] if "modes" in measured else []
    _report(context, output, out, measured, *evaluation_lines(measured), *tables)


@verb
def directions(
    context: typer.Context,
    teacher: Annotated[Path, typer.Argument(help="The generator whose w is looked at.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .safetensors.")],
    count: Annotated[int, typer.Option(help="How many, by falling variance.")] = 10,
    seed: Seed = 0,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find editing directions: the principal components of a teacher's w, as GANSpace does.

    Example: dcp-deploy directions teacher.safetensors -o directions.safetensors
    """
    from ..checkpoints import load_generator
    from ..checkpoints.directions import save_directions
    from ..devices import torch_device
    from ..evaluation.editing import find_directions

    output = Output(as_json=as_json, quiet=quiet)
    wants_suffix(out, ".safetensors")
    found = find_directions(load_generator(teacher).to(torch_device(device)), count=count, seed=seed)
    save_directions(found, out)
    settings = write_settings(context, out)
    facts = {name: {"layers": list(one.layers), "sigma": one.sigma} for name, one in found.items()}
    output.result({"path": str(out), "directions": facts, "settings": str(settings)}, str(out))


@verb
def project(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[Path, typer.Option(help="The generator to find them in: a checkpoint.")],
    teacher: Annotated[Path | None, typer.Option(help="Find them in this one too, to compare.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("projection"),
    space: Annotated[str, typer.Option(help="w: one code for all layers; w+: one for each.")] = "w",
    steps: Annotated[int, typer.Option(help="Of the search.")] = 1000,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 0.1,
    noise: Annotated[
        bool, typer.Option("--noise", help="Optimise the noise maps too, kept free of structure.")
    ] = False,
    resize: flags.Resize = "error",
    lpips: Annotated[Path | None, typer.Option(help="torchvision's vgg16-397923af.pth, for LPIPS.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find images again in a generator: how close can it come? MSE and LPIPS of each, and the codes.

    Example: dcp-deploy project face.png --model student.safetensors --teacher teacher.safetensors -o projected
    """
    from ..devices import torch_device
    from ..evaluation.projection import ProjectConfig, project_files
    from .tables import facts_lines

    output = Output(as_json=as_json, quiet=quiet)
    settings = ProjectConfig(space, steps, rate, noise=noise, seed=seed)  # type: ignore[arg-type]  # refused there
    models = {"model": model} if teacher is None else {"model": model, "teacher": teacher}
    document = project_files(
        images, models, out, settings,
        resize=resize, lpips=lpips, device=torch_device(device), reporter=output,  # type: ignore[arg-type]
    )  # fmt: skip
    write_settings(context, out / "projection.json")
    output.result({**document, "path": str(out)}, *facts_lines(document), str(out))


def _report(
    context: typer.Context, output: Output, out: Path | None, document: dict[str, object], *shown: object
) -> None:
    from ..files import write_json

    if out is not None:
        write_json(out, {"schema": 1, **document})
        write_settings(context, out)
    output.result(document, *shown)
