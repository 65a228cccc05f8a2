"""The verbs that look at models: compare, time, measure quality, find directions, project."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..files import write_text
from ..gates import QUALITY, SPEED, judge, parse_requirements
from .options import (
    Device,
    Lpips,
    Network,
    Out,
    Resize,
    Seed,
    Threads,
    backends,
    count_or_all,
    devices,
    numbers,
    option,
    slot_range,
    values_of,
    whole_numbers,
)
from .output import Output
from .verb import verb

Require = Annotated[
    list[str] | None,
    option('A figure to reach, such as "fid<2": exit code 5 if it is missed. May be repeated.', metavar="COMPARISON"),
]
ReportFile = Annotated[Path | None, option("Also write the JSON document to this file.", "--out", "-o")]


@verb(computes=True)
def verify(
    output: Output,
    a: Annotated[str, typer.Argument(help="The reference: a checkpoint, an ONNX file or a bundle.")],
    b: Annotated[str, typer.Argument(help="The file to compare; for a bundle also http://HOST:PORT or grpc://.")],
    network: Network = None,
    latents: Annotated[int, option("Number of seeds, each compared at every psi.")] = 256,
    psi: Annotated[str, option("Truncations, separated by commas.")] = "0.5,0.7,1",
    precision: Annotated[
        str | None,
        option("Precision whose tolerance to use, by default what the files declare.", complete=values_of("precision")),
    ] = None,
    bisect: Annotated[bool, option("Also compare layer by layer, to find the first that differs.", "--bisect")] = False,
    backend_a: Annotated[str, option("Backend for A: torch, fused, onnxruntime, ...", complete=backends)] = "auto",
    backend_b: Annotated[str, option("Backend for B.", complete=backends)] = "auto",
    device: Annotated[str | None, option("Where torch computes: cpu, cuda, cuda:1.", complete=devices)] = None,
    clients: Annotated[int, option("With a server: number of clients that send requests at the same time.")] = 16,
    requests: Annotated[int, option("With a server: number of requests in all; 0 for no load.")] = 200,
    model: Annotated[str, option("With a server: name of the model to check.")] = "generator",
    worst: Annotated[Path | None, option("PNG to write the worst sample to: A, B and their difference.")] = None,
    out: ReportFile = None,
    seed: Seed = 0,
) -> None:
    """Check that two files generate the same images (the parity gate). Exit code 5 if they do not.

    A running server is checked with the golden images of its bundle, first by one client, then by many at once.

    Example: dcp-deploy verify student.safetensors student.onnx --bisect

    Example: dcp-deploy verify demo-bundle http://127.0.0.1:8000
    """
    from .. import export
    from ..export.serving.endpoint import is_address
    from .tables import checks_table, layers_table

    if is_address(a) or is_address(b):
        if network is not None:
            raise UsageError("--network chooses a generator of a checkpoint, not of a server", "Leave out --network.")
        from .serving import verify_server

        served, *shown = verify_server(a, b, output, model=model, clients=clients, requests=requests)
        output.report(out, served.to_dict(), *shown)
        served.raise_for_failure()
        return
    with output.task("verify") as progress:
        pair = export.load_pair(
            a, b, backend_a=backend_a, backend_b=backend_b, device=device, network=network  # type: ignore[arg-type]
        )  # fmt: skip
        report = export.verify(
            *pair,
            latents=latents,
            psis=numbers("--psi", psi),
            seed=seed,
            precision=precision,
            bisect=bisect,
            progress=progress,
        )
    if worst is not None:
        report.save_worst(worst)
    tables = [checks_table(report), *([layers_table(report.layers)] if report.layers else [])]
    output.report(out, report.to_dict(), *tables, report.verdict)
    report.raise_for_failure()


@verb()
def bench(
    output: Output,
    model: Annotated[list[Path], typer.Argument(help="Checkpoint, ONNX file, engine or bundle, or several.")],
    teacher: Annotated[list[Path] | None, option("File of the baseline. May be repeated.")] = None,
    network: Network = None,
    backends: Annotated[str, option("auto (one for each file), all, or a list such as torch,onnxruntime.")] = "auto",
    batch: Annotated[str, option("Images per call. Several show how the time grows: 1,8,32.")] = "1",
    mode: Annotated[str, option("latency, or single-stream or offline as in MLPerf (not conformant).")] = "latency",
    bound: Annotated[float | None, option("Also find the largest batch with a p99 below this many ms.")] = None,
    isolate: Annotated[bool, option("One process per candidate: measures cold start and memory.", "--isolate")] = False,
    threads: Threads = None,
    wait: Annotated[float, option("First wait up to this many seconds for a quiet machine.")] = 0.0,
    rounds: Annotated[int, option("Minimum number of calls of each candidate.")] = 100,
    seconds: Annotated[float, option("Minimum seconds of measuring in all.")] = 10.0,
    out: ReportFile = None,
    markdown: Annotated[Path | None, option("Also write the tables as Markdown to this file.")] = None,
    plot: Annotated[Path | None, option("Also plot distribution and growth to this PNG or SVG file.")] = None,
    require: Require = None,
    seed: Seed = 0,
) -> None:
    """Time a model, in turns with its teacher if one is given.

    With --backends all, backends that cannot run here are listed with the reason. Several ONNX files or backends of one
    model: names the fastest whose images pass the parity gate. If the run drifted or shared its cores, it shows no
    speed-up and says why.

    Example: dcp-deploy bench student.onnx --teacher teacher.onnx --batch 8 --wait 60

    Example: dcp-deploy bench student.onnx --batch 1,2,4,8,16 --bound 50 --plot growth.svg

    Example: dcp-deploy bench student.safetensors student.onnx bf16.onnx --teacher teacher.safetensors --backends all
    """
    from .. import benchmarks
    from ..report.bench_plot import check_ending, save_plot
    from .tables import gate_lines

    if bound is not None:
        benchmarks.check_bound(bound)
    if plot is not None:
        check_ending(plot)
    requirements = parse_requirements(require or [], [SPEED], teacher=False)
    files = {"model": model} if not teacher else {"teacher": teacher, "model": model}
    batches = whole_numbers("--batch", batch)
    specs, missing = benchmarks.plan_matrix(
        files, backends=backends, batches=batches, threads=threads, seed=seed, network=network
    )
    together = nullcontext(benchmarks.open_candidate)
    with output.task("wait for a quiet machine") if wait > 0 else nullcontext(lambda done, total: None) as waited:
        quiet = benchmarks.wait_until_quiet(wait, progress=waited)
    if not quiet:
        output.message("bench: other processes still use the cores")
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
        write_text(markdown, report.to_markdown())
    if plot is not None:
        save_plot(plot, report.to_dict())
    verdict = benchmarks.judge_speed(requirements, report)
    fastest = benchmarks.fastest_that_passes(report, specs)
    document = {**report.to_dict(), "gates": asdict(verdict), "fastest": fastest and asdict(fastest)}
    found = [fastest.sentence()] if fastest else []
    output.report(out, document, *report.to_tables(), *report.notes, *found, *gate_lines(verdict))
    verdict.raise_for_failure()


@verb()
def bench_compare(
    output: Output,
    a: Annotated[Path, typer.Argument(help="The reference: what bench wrote with --out or printed with --json.")],
    b: Annotated[Path, typer.Argument(help="The same of another run.")],
    fail_above: Annotated[
        float | None,
        option("End with exit code 5 unless every candidate of B takes at most this many times as long as in A."),
    ] = None,
    out: ReportFile = None,
    seed: Seed = 0,
) -> None:
    """Compare two runs of bench: faster, slower or no difference shown, from the raw samples.

    Unstable candidates, and those measured on another machine or in another way, get no verdict.

    Example: dcp-deploy bench compare before.json after.json --fail-above 1.05
    """
    from .. import benchmarks

    if fail_above is not None and not 0 < fail_above < float("inf"):
        raise UsageError(f"--fail-above is {fail_above}", "Write for example 1.05: at most 5 % slower.")
    comparison = benchmarks.compare_runs(benchmarks.read_run(a), benchmarks.read_run(b), seed=seed)
    output.report(out, comparison.to_dict(), comparison.to_table(), *comparison.remarks())
    if fail_above is not None:
        comparison.raise_above(fail_above)


@verb(computes=True)
def evaluate(
    output: Output,
    model: Annotated[Path, typer.Argument(help="A checkpoint, an ONNX file, an engine or a bundle.")],
    teacher: Annotated[Path | None, option("Also compare with this model's images of the same latents.")] = None,
    network: Network = None,
    data: Annotated[Path | None, option("Real images instead of the demo's: a folder, a zip file or an LMDB.")] = None,
    resize: Resize = "error",
    reals: Annotated[str, option("How many images of --data to use at most, or all.")] = "50000",
    mirror_data: Annotated[bool, option("Also use the mirror image of each image of --data.", "--mirror-data")] = False,
    features: Annotated[
        str, option("Network that compares with --data: inception or efficientnet-lite0.")
    ] = "inception",
    inception: Annotated[Path | None, option("Inception weights of torch-fidelity. Downloaded when not given.")] = None,
    lpips: Lpips = None,
    backend: Annotated[str, option("Backend: torch, onnxruntime, openvino, ...", complete=backends)] = "auto",
    directions: Annotated[Path | None, option("Directions whose edits to compare with the teacher's.")] = None,
    samples: Annotated[int | None, option("Images to generate [5000 against the demo's, else 50,000].")] = None,
    psi: Annotated[float, option("Truncation.")] = 1.0,
    batch: Annotated[int, option("Images per call.")] = 64,
    out: ReportFile = None,
    seed: Seed = 0,
    device: Device = "auto",
    require: Require = None,
) -> None:
    """Measure quality: FID, KID, precision, recall, density, coverage, modes, diversity, distance to a teacher.

    Images are compared with the demo's by the demo's own feature network, and with --data by Inception. Inception's
    weights (96 MB) are downloaded once, unless --inception names them. What was not measured is listed with the reason.
    --features efficientnet-lite0 needs no download; its distances are not comparable with published FIDs.
    --reals all gives the fid50k_full of the papers. A generator that makes one image only ends with exit code 5.

    Example: dcp-deploy eval student.onnx --teacher teacher.safetensors --data ffhq256.zip --reals all
    """
    from ..devices import torch_device
    from ..evaluation.quality import Against, evaluate_file
    from .tables import evaluation_lines, gate_lines, modes_table

    requirements = parse_requirements(require or [], QUALITY, teacher=False)
    against = Against(
        teacher, data, resize, directions, inception, lpips,  # type: ignore[arg-type]  # refused there
        reals=count_or_all("--reals", reals), mirrored=mirror_data, network=network,
        features=features,  # type: ignore[arg-type]  # refused there
    )  # fmt: skip
    evaluation = evaluate_file(
        model, against, samples=samples, seed=seed, psi=psi, batch=batch, device=torch_device(device),
        backend=backend, reporter=output,  # type: ignore[arg-type]  # refused there
    )  # fmt: skip
    verdict = judge(requirements, evaluation.figures)
    measured = {**evaluation.to_dict(), "gates": asdict(verdict)}
    tables = [modes_table(measured["modes"])] if "modes" in measured else []
    output.report(out, measured, *evaluation_lines(measured), *tables, *gate_lines(verdict))
    evaluation.raise_for_failure()
    verdict.raise_for_failure()


@verb(computes=True)
def directions(
    output: Output,
    out: Out,
    teacher: Annotated[Path | None, typer.Argument(help="The generator in whose w the directions lie.")] = None,
    model: Annotated[Path | None, option("The same as TEACHER.")] = None,
    network: Network = None,
    foreign: Annotated[Path | None, option("File of directions of another tool, to import.", "--import")] = None,
    layers: Annotated[str | None, option("With --import: slots of ws to move, such as 4-7 [all].")] = None,
    name: Annotated[str | None, option("With --import: name of the direction [the file's].")] = None,
    count: Annotated[int | None, option("Number of directions: by falling variance [10], or to import [all].")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Find editing directions: the principal components of a teacher's w, as in GANSpace. Or import directions.

    InterFaceGAN's boundaries, GANSpace's components, rosinality's SeFa factors and vectors of your own are imported.

    Example: dcp-deploy directions teacher.safetensors -o directions.safetensors

    Example: dcp-deploy directions teacher.safetensors --import age.npy --layers 4-7 -o age.safetensors
    """
    from ..checkpoints import load_generator
    from ..checkpoints.direction_import import read_foreign_directions
    from ..checkpoints.directions import save_directions
    from ..devices import torch_device
    from ..evaluation.editing import COUNT, find_directions, import_directions

    file = teacher or model
    if file is None or (teacher is not None and model is not None):
        raise UsageError("no model" if file is None else "two models", "Give one, as TEACHER or as --model.")
    if foreign is None and (layers or name):
        raise UsageError(f"--{'layers' if layers else 'name'} without --import", "Give the file as --import FILE.")
    slots = None if layers is None else slot_range("--layers", layers)
    found_in = None if foreign is None else read_foreign_directions(foreign, name=name, count=count)
    generator = load_generator(file, network=network).to(torch_device(device))
    if found_in is None:
        found = find_directions(generator, count=COUNT if count is None else count, seed=seed)
    else:
        found = import_directions(generator, found_in, layers=slots, seed=seed)
    save_directions(found, out)
    settings = output.write_settings(out)
    facts = {key: {"layers": list(one.layers), "sigma": one.sigma} for key, one in found.items()}
    layout = None if found_in is None else found_in.layout
    document = {"path": str(out), "directions": facts, "imported": layout, "settings": str(settings)}
    lines = [f"{key}: layers {one.layers[0]}-{one.layers[1]}, sigma {one.sigma:.3g}" for key, one in found.items()]
    output.result(document, *lines, str(out))
    output.finished(out)


@verb(computes=True)
def project(
    output: Output,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[Path, option("Checkpoint of the generator to search.")],
    teacher: Annotated[Path | None, option("Also search this generator, to compare.")] = None,
    network: Network = None,
    out: Annotated[Path, option("Folder to write.", "--out", "-o")] = Path("projection"),
    space: Annotated[str, option("What to search: w (one code for all layers) or w+ (one code per layer).")] = "w",
    steps: Annotated[int, option("Number of steps of the search.")] = 1000,
    rate: Annotated[float, option("Learning rate.")] = 0.1,
    noise: Annotated[bool, option("Also optimise the noise maps, kept free of structure.", "--noise")] = False,
    resize: Resize = "error",
    lpips: Lpips = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Find the codes with which a generator comes closest to given images. Reports MSE and LPIPS of each image.

    Example: dcp-deploy project face.png --model student.safetensors --teacher teacher.safetensors -o projected
    """
    from ..devices import torch_device
    from ..evaluation.projection import ProjectConfig, project_files
    from .tables import facts_lines

    settings = ProjectConfig(space, steps, rate, noise=noise, seed=seed)  # type: ignore[arg-type]  # refused there
    models = {"model": model} if teacher is None else {"model": model, "teacher": teacher}
    document = project_files(
        images, models, out, settings,
        network=network, resize=resize, lpips=lpips, device=torch_device(device), reporter=output,  # type: ignore[arg-type]
    )  # fmt: skip
    output.write_settings(out / "projection.json")
    output.result({**document, "path": str(out)}, *facts_lines(document), str(out))
    output.finished(out)
