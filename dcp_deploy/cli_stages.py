"""The verbs that make files: one stage of the pipeline each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_output import ConfigFile, Debug, Device, Json, Output, Quiet, Seed, verb, write_settings
from .errors import UsageError

Out = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
SCORE_HELP = "diversity, gradient, activation, style, weight-in, weight-out or random."
MACS_HELP = "Share of the teacher's MACs to keep, with the best widths for it; instead of --ratio."
PARAMS_HELP = "The same for parameters."
REFINE_HELP = "Adjust weights after pruning: none, reconstruct, svs or svs+reconstruct."

Accumulate = Annotated[int, typer.Option(help="Take every batch in this many parts: less memory, same gradients.")]
Devices = Annotated[int, typer.Option(help="GPUs that distil together, from cuda:0 on.")]
TrainPrecision = Annotated[str, typer.Option(help="Of the convolutions in training: fp32; bf16, fp16 on GPUs.")]
Keep = Annotated[str, typer.Option(help="The student: last; best by FID, else by the distance to the teacher.")]
Tensorboard = Annotated[Path | None, typer.Option(help="Folder for the training's curves and pictures.")]
LpipsWeights = Annotated[Path | None, typer.Option(help="VGG16's weights file: LPIPS as the perceptual loss.")]
DiscriminatorFile = Annotated[
    Path | None, typer.Option(help="Training file (rosinality .pt) whose discriminator to start from.")
]
Mask = Annotated[Path | None, typer.Option(help="Segmentation model (ONNX): losses look at what it finds only.")]
MaskBackground = Annotated[str, typer.Option(help="Classes of the mask model that do not count.")]
MaskInputs = Annotated[str, typer.Option(help="Numbers that the mask model takes: imagenet, unit or signed.")]


@verb
def convert(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A teacher: NVIDIA .pkl, rosinality .pt, TensorFlow .pkl or native.")],
    out: Out,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rewrite a teacher as a native safetensors file, in float32, without running anything from it."""
    from .checkpoints import provenance, read_checkpoint, save_generator

    output = Output(as_json=as_json, quiet=quiet)
    _wants_suffix(out, ".safetensors")
    checkpoint = read_checkpoint(file)
    for line in (*checkpoint.notes, checkpoint.licence):
        if line:
            output.message(f"{file.name}: {line}")
    save_generator(checkpoint.generator, out, extra=provenance(checkpoint, file))
    facts = {"format": checkpoint.format, "notes": list(checkpoint.notes), "licence": checkpoint.licence}
    _written(context, output, out, source=facts)


@verb
def score(
    context: typer.Context,
    teacher: Annotated[Path, typer.Argument(help="The generator whose channels to score.")],
    out: Out,
    method: Annotated[str, typer.Option(help=SCORE_HELP)] = "diversity",
    latents: Annotated[str, typer.Option(help="How many; auto: until two halves agree on what to keep.")] = "1000",
    batch: Annotated[int, typer.Option(help="Latents per batch, a part of the definition.")] = 5,
    directions: Annotated[int, typer.Option(help="Directions per batch of latents.")] = 10,
    alpha: Annotated[float, typer.Option(help="How far along each direction.")] = 5.0,
    psi: Annotated[float, typer.Option(help="Truncation of the latents.")] = 1.0,
    released: Annotated[
        bool, typer.Option("--released", help="As the published code: gradients through both images, random noise.")
    ] = False,
    shard: Annotated[str | None, typer.Option(help="Only a part, for several GPUs: 0/4, 1/4, 2/4, 3/4.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score every channel of a teacher by what it does for the diversity of the images. Resumable."""
    from . import compression
    from .checkpoints import load_generator
    from .stages import torch_device

    output = Output(as_json=as_json, quiet=quiet)
    _wants_suffix(out, ".safetensors")
    generator = load_generator(teacher)
    with output.task("score") as progress:
        scores = compression.score(
            generator,
            method=method,  # type: ignore[arg-type]  # score() refuses what it does not know
            latents="auto" if latents == "auto" else whole_number("--latents", latents),
            directions=directions,
            alpha=alpha,
            batch=batch,
            psi=psi,
            released=released,
            shard=None if shard is None else _shard(shard),
            seed=seed,
            device=torch_device(device),
            state=out.with_name(f"{out.name}.partial"),
            progress=progress,
        )
    compression.save_scores(scores, out)
    shares = scores.settings.get("stability")
    if shares:
        output.message(
            f"two halves of the {scores.settings['latents']} latents keep {sum(shares) / len(shares):.0%} of the same "
            f"channels (70 % pruned), {min(shares):.0%} in the least certain layer"
        )
    _written(context, output, out, scoring=scores.settings)


@verb
def prune(
    context: typer.Context,
    teacher: Annotated[Path, typer.Argument(help="The generator to prune.")],
    out: Out,
    scores: Annotated[
        list[Path] | None, typer.Option(help="A file that dcp-deploy score wrote; every shard, if it was in shards.")
    ] = None,
    score: Annotated[str | None, typer.Option(help=f"Compute scores now instead: {SCORE_HELP}")] = None,
    ratio: Annotated[float, typer.Option(help="Share of channels to remove, 0 to below 1.")] = 0.7,
    align: Annotated[int, typer.Option(help="Keep multiples of this many channels.")] = 8,
    target_macs: Annotated[float | None, typer.Option(help=MACS_HELP)] = None,
    target_params: Annotated[float | None, typer.Option(help=PARAMS_HELP)] = None,
    target_latency: Annotated[
        str | None, typer.Option(help="The same for the time of one image in torch on this device: 3ms.")
    ] = None,
    refine: Annotated[str, typer.Option(help=REFINE_HELP)] = "none",
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove the lowest-scored channels of a teacher."""
    from . import compression
    from .checkpoints import load_generator, save_generator
    from .stages import torch_device

    output = Output(as_json=as_json, quiet=quiet)
    _wants_suffix(out, ".safetensors")
    if bool(scores) == (score is not None):
        raise UsageError("prune needs scores, from one place", "Give either --scores FILE or --score METHOD.")
    generator, chosen = load_generator(teacher), torch_device(device)
    if scores:
        parts = [compression.load_scores(path) for path in scores]
        sharded = len(parts) > 1 or "shard" in parts[0].settings
        found = compression.merge_scores(parts) if sharded else parts[0]
    else:
        with output.task("score") as progress:
            found = compression.score(
                generator, method=score, seed=seed, device=chosen, progress=progress  # type: ignore[arg-type]
            )  # fmt: skip
    generator = generator.to(chosen)
    plan = compression.plan(
        generator, found, ratio=ratio, align=align, target_macs=target_macs, target_params=target_params,
        target_latency=None if target_latency is None else _milliseconds(target_latency),
    )  # fmt: skip
    if dry_run:
        cost = compression.latency_cost(generator)
        before, after = cost(generator.widths), cost(plan.widths)
        words = f"latency: {before:.2f} -> {after:.2f} ms (predicted: one image, torch on {chosen})"
        output.result({**plan.to_dict(), "latency_ms": {"teacher": before, "student": after}}, str(plan), words)
        return
    pruned = compression.prune(generator, plan, refine=refine, seed=seed)  # type: ignore[arg-type]
    save_generator(pruned.cpu(), out)
    output.message(str(plan))
    _written(context, output, out, plan=plan.to_dict())


@verb
def distill(
    context: typer.Context,
    student: Annotated[Path, typer.Argument(help="The pruned generator.")],
    teacher: Annotated[Path, typer.Option(help="The generator it was pruned from.")],
    out: Out,
    dataset: Annotated[
        str, typer.Option(help="demo: real images and features of the demo; else the teacher's own.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Real images: a folder, a zip file or an LMDB.")] = None,
    resize: Annotated[str, typer.Option(help="Images of another size: error; crop to the centre.")] = "error",
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip half of the real images left to right.")] = False,
    effort: Annotated[str, typer.Option(help="quick, standard or paper.")] = "quick",
    steps: Annotated[int | None, typer.Option(help="Steps instead of the effort's.")] = None,
    accumulate: Accumulate = 1,
    devices: Devices = 1,
    train_precision: TrainPrecision = "fp32",
    keep: Keep = "last",
    tensorboard: Tensorboard = None,
    lpips: LpipsWeights = None,
    discriminator: DiscriminatorFile = None,
    mask: Mask = None,
    mask_background: MaskBackground = "0,16",
    mask_inputs: MaskInputs = "imagenet",
    seed: Seed = 0,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a pruned generator after its teacher. A killed run goes on where it was; docs/distillation.md says more.

    Example: dcp-deploy distill pruned.safetensors --teacher teacher.safetensors -o student.safetensors --data faces.zip
    --effort paper --devices 4 --train-precision bf16 --keep best --tensorboard logs
    """
    from .checkpoints import load_generator, save_generator
    from .config import BuildConfig
    from .distilling import distill_student, recipe_of
    from .real_data import open_data, real_facts, real_words
    from .stages import torch_device

    output = Output(as_json=as_json, quiet=quiet)
    _wants_suffix(out, ".safetensors")
    fields = {name: value for name, value in context.params.items() if name in BuildConfig.model_fields}
    del fields["teacher"], fields["out"], fields["dataset"]  # mean something else in a build
    settings = BuildConfig.parse(fields)
    chosen = torch_device(device)
    network = load_generator(teacher)
    images = open_data(settings, network.config)
    if images is not None:
        output.message(f"real images: {real_words(real_facts(images, recipe_of(settings), demo=False))}")
    with output.task("distil") as progress:
        result = distill_student(
            load_generator(student).to(chosen),
            network.to(chosen),
            settings,
            demo=dataset == "demo",
            images=images,
            checkpoints=out.with_name(f"{out.name}.checkpoints"),
            progress=progress,
            reporter=output,
        )
    save_generator(result.generator.cpu(), out)
    real = real_facts(images, recipe_of(settings), demo=dataset == "demo")
    _written(context, output, out, history=result.history, resumed_at=result.resumed_at, images=real)


@verb
def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A native checkpoint.")],
    out: Out,
    teacher: Annotated[
        Path | None, typer.Option(help="Export this one too, the same way, as teacher.onnx beside the other.")
    ] = None,
    inputs: Annotated[str, typer.Option(help="z: latents and psi; ws: codes of every slot, to edit and mix.")] = "z",
    image: Annotated[
        str, typer.Option(help="uint8: [B, H, W, 3], to send on; float: [B, 3, H, W] in [-1, 1].")
    ] = "uint8",
    noise: Annotated[
        str, typer.Option(help="const: baked in; none; input: one map per layer with every call.")
    ] = "const",
    upsample: Annotated[
        str, typer.Option(help="transposed or polyphase: two exact forms; auto: the faster one, measured per layer.")
    ] = "transposed",
    batch: Annotated[str, typer.Option(help="Smallest and largest batch to promise: 1,64. Left out: any.")] = "",
    precision: Annotated[
        str, typer.Option(help="fp32; fp16, bf16: where measured ranges allow; int8: where the images allow.")
    ] = "fp32",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a generator as one ONNX file: z and psi in, images out."""
    from .checkpoints import load_generator
    from .export import export_onnx, precision_report
    from .export.onnx import weights_sha256

    output = Output(as_json=as_json, quiet=quiet)
    beside = out.with_name("teacher.onnx")
    if teacher is not None and out == beside:
        raise UsageError(f"--out {out} is where the teacher goes", "Name it otherwise, for instance student.onnx.")
    bounds = whole_numbers("--batch", batch) if batch else None
    if bounds is not None and len(bounds) != 2:
        raise UsageError(f"--batch {batch!r} is not two numbers", "Write for instance 1,64.")
    options: dict[str, Any] = {"inputs": inputs, "image": image, "noise": noise, "upsample": upsample, "batch": bounds}
    options["precision"] = precision
    generator, facts = load_generator(model), {}
    with output.task("export"):
        if teacher is not None:
            network = load_generator(teacher)
            facts["teacher_sha256"] = weights_sha256(network)
            export_onnx(network, beside, **options)
        export_onnx(generator, out, **options, metadata=facts)
    if report := precision_report(out):
        output.message(report)
    _written(context, output, out, precision=precision, teacher=None if teacher is None else str(beside))


@verb
def engine(
    context: typer.Context,
    onnx: Annotated[Path, typer.Argument(help="A file that dcp-deploy export wrote.")],
    out: Out,
    target: Annotated[str, typer.Option(help='GPUs: "sm89", "RTX 4090,L4"; auto: the one present.')] = "auto",
    flavour: Annotated[str, typer.Option(help="tensorrt-rtx (no GPU needed), tensorrt, or auto.")] = "auto",
    batch: Annotated[str, typer.Option(help="Smallest, best-served and largest batch.")] = "1,8,64",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="For later versions of the same major TensorRT too; slower.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="For every GPU from Ampere on; slower. TensorRT only.")
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be replaced later.")] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Remembers kernels' times from build to build. TensorRT only.")
    ] = None,
    plugins: Annotated[bool, typer.Option(help="Our CUDA kernels in the engine. TensorRT only.")] = True,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Build a TensorRT engine, with its manifest beside it."""
    from .export import EngineOptions, build_engine

    output = Output(as_json=as_json, quiet=quiet)
    sizes = whole_numbers("--batch", batch)
    cache = None if timing_cache is None else str(timing_cache)
    options = EngineOptions(version_compatible, hardware_compatible, refit, cache, plugins)
    with output.task("engine"):
        built = build_engine(
            onnx,
            out,
            target=target,
            flavour=flavour,  # type: ignore[arg-type]
            batch=sizes,  # type: ignore[arg-type]
            options=options,
        )
    _written(context, output, built.path, manifest=built.manifest)


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """ "1,8,64" -> (1, 8, 64); ranges too: "0-3" -> (0, 1, 2, 3). Raises UsageError naming the flag."""
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of whole numbers", "Write for instance 1,8,64 or 0-7.") from None
    return tuple(numbers)


def whole_number(flag: str, text: str) -> int:
    """A number; raises UsageError naming the flag."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no whole number", "Write for instance 1000, or auto.") from None


def _milliseconds(text: str) -> float:
    """ "3ms" or "3" -> 3.0."""
    try:
        return float(text.removesuffix("ms"))
    except ValueError:
        raise UsageError(f"--target-latency {text!r} is no time", "Write for instance 3ms or 0.5ms.") from None


def _shard(text: str) -> tuple[int, int]:
    """ "1/4" -> (1, 4)."""
    first, _, count = text.partition("/")
    try:
        return int(first), int(count)
    except ValueError:
        raise UsageError(f"--shard {text!r} is no part of a whole", "Write 0/4, 1/4, 2/4 and 3/4.") from None


def _wants_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise UsageError(f"--out {path} does not end in {suffix}", f"Name it {path.with_suffix(suffix)}.")


def _written(context: typer.Context, output: Output, path: Path, **facts: object) -> None:
    from .files import sha256_file

    settings = write_settings(context, path)
    about = {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path), "settings": str(settings)}
    output.result({**about, **facts}, str(path))
