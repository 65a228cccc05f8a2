"""The verbs that make files: one stage of the pipeline each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from . import options as flags
from .options import check_dataset, milliseconds, shard_of, wants_suffix, whole_number, whole_numbers
from .output import ConfigFile, Debug, Device, Json, Output, Quiet, Seed, verb, write_settings


@verb
def convert(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A teacher: NVIDIA .pkl, rosinality .pt, TensorFlow .pkl or native.")],
    out: flags.Out,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rewrite a teacher as a native safetensors file, in float32, without running anything from it.

    Example: dcp-deploy convert teacher.pkl -o teacher.safetensors
    """
    from ..checkpoints import provenance, read_checkpoint, save_generator

    output = Output(as_json=as_json, quiet=quiet)
    wants_suffix(out, ".safetensors")
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
    out: flags.Out,
    method: flags.Score = "diversity",
    latents: Annotated[str, typer.Option(help="How many; auto: until two halves agree on what to keep.")] = "1000",
    batch: Annotated[int, typer.Option(help="Latents per batch, a part of the definition.")] = 5,
    directions: Annotated[int, typer.Option(help="Directions per batch of latents.")] = 10,
    alpha: Annotated[float, typer.Option(help="How far along each direction.")] = 5.0,
    psi: Annotated[float, typer.Option(help="Truncation of the latents.")] = 1.0,
    released: Annotated[
        bool, typer.Option("--released", help="As the published code: gradients through both images, random noise.")
    ] = False,
    shard: Annotated[str | None, typer.Option(help="Only a part, for several GPUs: 0/4, 1/4, 2/4, 3/4.")] = None,
    mask: flags.Mask = None,
    mask_background: flags.MaskBackground = "0,16",
    mask_inputs: flags.MaskInputs = "imagenet",
    seed: Seed = 0,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score every channel of a teacher by what it does for the diversity of the images. Resumable.

    Example: dcp-deploy score teacher.pkl -o scores.safetensors --latents 1000
    """
    from .. import compression
    from ..checkpoints import load_generator
    from ..devices import torch_device
    from ..pipeline.distilling import open_mask

    output = Output(as_json=as_json, quiet=quiet)
    wants_suffix(out, ".safetensors")
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
            shard=None if shard is None else shard_of(shard),
            mask=None if mask is None else open_mask(mask, mask_background, mask_inputs),
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
    out: flags.Out,
    scores: Annotated[
        list[Path] | None, typer.Option(help="A file that dcp-deploy score wrote; every shard, if it was in shards.")
    ] = None,
    score: Annotated[
        str | None, flags.offered(f"Compute scores now instead: {flags.SCORE_HELP}", flags.setting("score"))
    ] = None,
    ratio: Annotated[float, typer.Option(help="Share of channels to remove, 0 to below 1.")] = 0.7,
    align: Annotated[int, typer.Option(help="Keep multiples of this many channels.")] = 8,
    target_macs: Annotated[float | None, typer.Option(help=flags.MACS_HELP)] = None,
    target_params: Annotated[float | None, typer.Option(help=flags.PARAMS_HELP)] = None,
    target_latency: Annotated[
        str | None, typer.Option(help="The same for the time of one image in torch on this device: 3ms.")
    ] = None,
    refine: flags.Refine = "none",
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove the lowest-scored channels of a teacher.

    Example: dcp-deploy prune teacher.pkl --scores scores.safetensors --ratio 0.7 -o pruned.safetensors

    Example: dcp-deploy prune teacher.pkl --score weight-out --target-macs 0.1 -o pruned.safetensors --dry-run
    """
    from .. import compression
    from ..checkpoints import load_generator, save_generator
    from ..devices import torch_device

    output = Output(as_json=as_json, quiet=quiet)
    wants_suffix(out, ".safetensors")
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
        target_latency=None if target_latency is None else milliseconds(target_latency),
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
    out: flags.Out,
    dataset: Annotated[
        str,
        flags.offered("demo: real images and features of the demo; else the teacher's own.", flags.one_of("demo")),
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Real images: a folder, a zip file or an LMDB.")] = None,
    resize: flags.Resize = "error",
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip half of the real images left to right.")] = False,
    effort: flags.EffortOption = "quick",
    steps: Annotated[int | None, typer.Option(help="Steps instead of the effort's.")] = None,
    accumulate: flags.Accumulate = 1,
    devices: flags.Devices = 1,
    train_precision: flags.TrainPrecision = "fp32",
    keep: flags.Keep = "last",
    tensorboard: flags.Tensorboard = None,
    lpips: flags.LpipsWeights = None,
    inception: flags.InceptionWeights = None,
    discriminator: flags.DiscriminatorFile = None,
    augment: flags.Augment = False,
    guide: flags.Guide = None,
    feature_gan: flags.FeatureGan = False,
    mask: flags.Mask = None,
    mask_background: flags.MaskBackground = "0,16",
    mask_inputs: flags.MaskInputs = "imagenet",
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
    from ..checkpoints import load_generator, save_generator
    from ..config import BuildConfig
    from ..devices import torch_device
    from ..pipeline.distilling import distill_student, mask_of, recipe_of
    from ..pipeline.inputs import open_data, real_facts, real_words

    output = Output(as_json=as_json, quiet=quiet)
    wants_suffix(out, ".safetensors")
    fields = {name: value for name, value in context.params.items() if name in BuildConfig.model_fields}
    del fields["teacher"], fields["out"], fields["dataset"]  # mean something else in a build
    settings = BuildConfig.parse(fields, verb="distill")
    chosen = torch_device(device)
    network = load_generator(teacher)
    check_dataset(dataset, network.config)
    images = open_data(settings, network.config)
    recipe = recipe_of(settings, demo_recipe=dataset == "demo" and images is None)
    if images is not None:
        output.message(f"real images: {real_words(real_facts(images, recipe, demo_measurable=False))}")
    with output.task("distil") as progress:
        result = distill_student(
            load_generator(student).to(chosen),
            network.to(chosen),
            settings,
            recipe,
            demo_measurable=dataset == "demo",
            mask=mask_of(settings),
            images=images,
            checkpoints=out.with_name(f"{out.name}.checkpoints"),
            progress=progress,
            reporter=output,
        )
    save_generator(result.generator.cpu(), out)
    real = real_facts(images, recipe, demo_measurable=dataset == "demo")
    _written(context, output, out, history=result.history, resumed_at=result.resumed_at, images=real)


@verb
def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A native checkpoint.")],
    out: flags.Out,
    teacher: Annotated[
        Path | None, typer.Option(help="Export this one too, the same way, as teacher.onnx beside the other.")
    ] = None,
    inputs: Annotated[
        str, flags.offered("z: latents and psi; ws: codes of every slot, to edit and mix.", flags.one_of("z", "ws"))
    ] = "z",
    image: Annotated[
        str,
        flags.offered(
            "uint8: [B, H, W, 3], to send on; float: [B, 3, H, W] in [-1, 1].", flags.one_of("uint8", "float")
        ),
    ] = "uint8",
    noise: Annotated[
        str,
        flags.offered(
            "const: baked in; none; input: one map per layer with every call.",
            flags.one_of("const", "none", "input"),
        ),
    ] = "const",
    upsample: Annotated[
        str,
        flags.offered(
            "transposed or polyphase: two exact forms; auto: the faster one, measured per layer.",
            flags.one_of("transposed", "polyphase", "auto"),
        ),
    ] = "transposed",
    batch: Annotated[str, typer.Option(help="Smallest and largest batch to promise: 1,64. Left out: any.")] = "",
    precision: Annotated[
        str,
        flags.offered(
            "fp32; fp16, bf16: where measured ranges allow; int8: where the images allow.",
            flags.setting("precision"),
        ),
    ] = "fp32",
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a generator as one ONNX file: z and psi in, images out.

    Example: dcp-deploy export student.safetensors -o student.onnx --precision fp16
    """
    from ..checkpoints import load_generator
    from ..export import export_onnx, precision_report
    from ..export.onnx.exporter import weights_sha256

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
    out: flags.Out,
    target: Annotated[
        str, flags.offered('GPUs: "sm89", "RTX 4090,L4"; auto: the one present.', flags.targets)
    ] = "auto",
    flavour: Annotated[
        str,
        flags.offered(
            "tensorrt-rtx (no GPU needed), tensorrt, or auto.", flags.one_of("auto", "tensorrt-rtx", "tensorrt")
        ),
    ] = "auto",
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
    """Build a TensorRT engine, with its manifest beside it.

    Example: dcp-deploy engine student.onnx -o student.engine --target "RTX 4090,L4"
    """
    from ..export import EngineOptions, build_engine

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


def _written(context: typer.Context, output: Output, path: Path, **facts: object) -> None:
    from ..files import sha256_file

    settings = write_settings(context, path)
    about = {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path), "settings": str(settings)}
    output.result({**about, **facts}, str(path))
