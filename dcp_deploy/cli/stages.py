"""The verbs that make files: one stage of the pipeline each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config import SIZES, BuildConfig
from ..efforts import REFINE, SCORE, Effort
from ..errors import UsageError, choose
from .options import (
    DryRun,
    Network,
    Out,
    Refine,
    check_dataset,
    check_suffix,
    choice,
    help_of,
    option,
    shard_of,
    targets,
    values_of,
    whole_number,
    whole_numbers,
)
from .output import Output
from .verb import verb

if TYPE_CHECKING:
    from ..generators import Generator, GeneratorConfig


@verb()
def convert(
    output: Output,
    file: Annotated[Path, typer.Argument(help="A teacher: NVIDIA .pkl, rosinality .pt, TensorFlow .pkl or native.")],
    out: Out,
    to: Annotated[
        str,
        choice(
            "Layout: native, or one that the loaders of the original code open: rosinality (.pt; also for CAGAN, "
            "StyleKD, DCP-GAN, encoder4editing) or nvidia (.pt or .safetensors).",
            "native",
            "rosinality",
            "nvidia",
        ),
    ] = "native",
    network: Network = None,
) -> None:
    """Rewrite a generator as a native safetensors file or for other code, in float32, without running its code.

    Example: dcp-deploy convert teacher.pkl -o teacher.safetensors

    Example: dcp-deploy convert student.safetensors -o student.pt --to rosinality
    """
    from ..checkpoints import provenance, read_checkpoint, save_generator
    from ..checkpoints.layouts import SUFFIXES, save_layout

    suffixes = {"native": (".safetensors",), **SUFFIXES}
    if to not in suffixes:
        raise UsageError(f"--to {to!r} is not a layout", choose(to, suffixes))
    check_suffix(out, *suffixes[to])
    checkpoint = read_checkpoint(file, network=network)
    for line in (*checkpoint.notes, checkpoint.licence):
        if line:
            output.message(f"{file.name}: {line}")
    origin, notes = provenance(checkpoint, file), []
    if to == "native":
        save_generator(checkpoint.generator, out, extra=origin)
    else:
        notes = save_layout(
            checkpoint.generator, out, to, licence=origin["licence"], provenance=origin  # type: ignore[arg-type]
        )  # fmt: skip
        for line in notes:
            output.message(f"{out.name}: {line}")
    facts = {"format": checkpoint.format, "notes": list(checkpoint.notes), "licence": origin["licence"]}
    output.written(out, layout=to, notes=notes, source=facts)


@verb("mask", "mask_background", "mask_inputs", "hybrid_share", "effort", "seed", "device", computes=True)
def score(
    output: Output,
    teacher: Annotated[Path, typer.Argument(help="The generator whose channels to score.")],
    out: Out,
    method: Annotated[str, option(help_of("score"), "--score", "--method", complete=values_of("score"))] = SCORE,
    latents: Annotated[
        str | None,
        option("Number of latents [that of --effort]; auto, not for change or hybrid: until two halves agree."),
    ] = None,
    batch: Annotated[int, option("Latents per batch. The scores depend on it, but for change and hybrid.")] = 5,
    directions: Annotated[
        int | None,
        option("Random directions per batch of latents [10]; for change, leading ones [99 % of the variance]."),
    ] = None,
    alpha: Annotated[
        float | None,
        option("How far to move a latent along each direction [5]; for change, in standard deviations [3]."),
    ] = None,
    change_weight: Annotated[
        float | None, option("Weight of changes beside values, from 0 to 1 [change: 1, hybrid: 0.5].")
    ] = None,
    psi: Annotated[float, option("Truncation of the latents.")] = 1.0,
    released: Annotated[
        bool, option("Score as the published code does: gradients through both images, random noise.", "--released")
    ] = False,
    shard: Annotated[str | None, option("Compute one part, for several GPUs: 0/4, 1/4, 2/4, 3/4.")] = None,
    network: Network = None,
    **settings: Any,
) -> None:
    """Score every channel of a teacher. Resumable.

    Example: dcp-deploy score teacher.pkl -o scores.safetensors

    Example: dcp-deploy score teacher.pkl -o scores.safetensors --score diversity --latents 1000
    """
    from .. import compression
    from ..checkpoints import load_generator
    from ..devices import torch_device
    from ..pipeline.distilling import open_mask

    generator = load_generator(teacher, network=network)
    mask, count = settings["mask"], _score_latents(latents, settings["effort"], generator.config, method)
    with output.task("score") as progress:
        scores = compression.score(
            generator,
            method=method,
            latents=count,
            directions=directions,
            alpha=alpha,
            batch=batch,
            psi=psi,
            released=released,
            change_weight=change_weight,
            hybrid_share=settings["hybrid_share"],
            shard=None if shard is None else shard_of("--shard", shard),
            mask=None if mask is None else open_mask(mask, settings["mask_background"], settings["mask_inputs"]),
            seed=settings["seed"],
            device=torch_device(settings["device"]),
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
    output.written(out, scoring=scores.settings)


def _score_latents(given: str | None, effort: str, config: GeneratorConfig, method: str) -> int | Literal["auto"]:
    """Return --latents, by default those of the effort for a generator of this size, as in ``build``."""
    if given is None:
        return _counts(effort, config, "score").latents_for(method)
    return "auto" if given == "auto" else whole_number("--latents", given)


def _counts(effort: str, config: GeneratorConfig, verb: str) -> Effort:
    from ..generators import count_macs

    return BuildConfig.parse({"effort": effort}, verb=verb).counts.for_teacher(count_macs(config))


@verb("hybrid_share", *SIZES, "align", "effort", "seed", "device", computes=True)
def prune(
    output: Output,
    teacher: Annotated[Path, typer.Argument(help="The generator to prune.")],
    out: Out,
    scores: Annotated[list[Path] | None, option("File that dcp-deploy score wrote. Repeat it for every shard.")] = None,
    score: Annotated[
        str | None,
        option(f"Without --scores: compute them now [{SCORE}]. {help_of('score')}", complete=values_of("score")),
    ] = None,
    network: Network = None,
    refine: Refine = REFINE,
    dry_run: DryRun = False,
    **settings: Any,
) -> None:
    """Remove the lowest-scored channels of a teacher.

    Example: dcp-deploy prune teacher.pkl --scores scores.safetensors --ratio 0.7 -o pruned.safetensors

    Example: dcp-deploy prune teacher.pkl --target-macs 0.1 -o pruned.safetensors --dry-run
    """
    from .. import compression
    from ..checkpoints import load_checkpoint, save_generator
    from ..devices import torch_device
    from ..pipeline.pruning import prune_with_story

    if scores and score is not None:
        raise UsageError("--scores and --score", "Give one of them: a file of scores, or how to compute them now.")
    if scores and output.was_typed("hybrid_share"):
        raise UsageError("--hybrid-share, and --scores are computed already", "Give it to dcp-deploy score.")
    seed, device = settings.pop("seed"), torch_device(settings.pop("device"))
    hybrid_share = settings.pop("hybrid_share")
    checkpoint = load_checkpoint(teacher, network=network)
    generator = checkpoint.generator
    counts = _counts(settings.pop("effort"), generator.config, "prune")
    if scores:
        parts = [compression.load_scores(path) for path in scores]
        sharded = len(parts) > 1 or "shard" in parts[0].settings
        found = compression.merge_scores(parts, generator) if sharded else parts[0]
    else:
        with output.task("score") as progress:
            found = compression.score(
                generator, method=score or SCORE, latents=counts.latents_for(score or SCORE),
                hybrid_share=hybrid_share, seed=seed, device=device, progress=progress,
            )  # fmt: skip
    generator = generator.to(device)
    config = BuildConfig.parse(settings, verb="prune")
    with output.task("plan"):
        plan = compression.plan(generator, found, **config.plan_arguments)
    for caveat in plan.caveats:
        output.message(f"prune: {caveat}")
    if dry_run:
        cost = compression.latency_cost(generator)
        before, after = cost(generator.widths), cost(plan.widths)
        words = f"latency: {before:.2f} -> {after:.2f} ms (predicted: one image, torch on {device})"
        output.result({**plan.to_dict(), "latency_ms": {"teacher": before, "student": after}}, str(plan), words)
        return
    with output.task("prune, layer by layer") as progress:
        pruned, story = prune_with_story(
            checkpoint, teacher, plan, found,
            refine=refine, latents=counts.refine_latents, seed=seed, progress=progress,
        )  # fmt: skip
    save_generator(pruned.cpu(), out, extra=story)
    output.table(str(plan))
    output.written(out, plan=plan.to_dict())


def _dataset_of(teacher: Generator, given: str | None) -> str | None:
    """Return the data set whose images and features the training uses: the given one, else the demo for its teacher."""
    from importlib import resources

    from ..checkpoints import load_generator
    from ..checkpoints.provenance import tensors_sha256
    from ..config import DATASETS

    if given == "none":
        return None
    if given is not None:
        check_dataset(given, teacher.config)
        return given
    asset = Path(str(resources.files("dcp_deploy") / "assets" / DATASETS["demo"].teacher.file))
    of_demo = asset.is_file() and tensors_sha256(teacher) == tensors_sha256(load_generator(asset))
    return "demo" if of_demo else None


DISTILL_SETTINGS = (
    "network", "data", "resize", "mirror", "steps", "accumulate", "devices", "train_precision", "keep", "logger",
    "tensorboard", "loss", "lpips", "discriminator", "mask", "mask_background", "mask_inputs", "inception", "effort",
    "seed", "threads", "device",
)  # fmt: skip


@verb(*DISTILL_SETTINGS)
def distill(
    output: Output,
    student: Annotated[Path, typer.Argument(help="The pruned generator.")],
    teacher: Annotated[Path, option("The generator that the student was pruned from.")],
    out: Out,
    dataset: Annotated[
        str | None,
        choice(
            "demo: train with its images and perceptual features; none: without [demo for the demo's teacher].",
            "demo",
            "none",
        ),
    ] = None,
    force_teacher: Annotated[
        bool, option("Accept a teacher that the student was not pruned from.", "--force-teacher")
    ] = False,
    **settings: Any,
) -> None:
    """Train a pruned generator to match its teacher. A killed run continues where it stopped.

    docs/distillation.md explains the recipe and its options.

    Example: dcp-deploy distill pruned.safetensors --teacher teacher.safetensors -o student.safetensors --data faces.zip
    --effort paper --devices 4 --train-precision bf16 --keep best --tensorboard logs
    """
    from ..checkpoints import load_checkpoint, save_generator
    from ..checkpoints.provenance import check_teacher, distilled_story
    from ..devices import torch_device
    from ..pipeline.distilling import distill_student, distillation_facts, mask_of, open_loggers, recipe_of
    from ..pipeline.inputs import open_data, real_facts, real_words

    config = BuildConfig.parse(settings, verb="distill")
    device = torch_device(config.device)
    loggers = open_loggers(config, out.with_name(f"{out.name}.logs"), output)
    pruned, original = load_checkpoint(student), load_checkpoint(teacher, network=config.network)
    if doubt := check_teacher(pruned, student, original, teacher, force=force_teacher):
        output.message(f"distill: {doubt}")
    dataset = _dataset_of(original.generator, dataset)
    images, mask = open_data(config, original.generator.config), mask_of(config)
    recipe = recipe_of(config, demo_recipe=dataset == "demo" and images is None)
    if images is not None:
        output.message(f"real images: {real_words(real_facts(images, recipe, demo_measurable=False))}")
    with output.task("distil") as progress:
        result = distill_student(
            pruned.generator.to(device),
            original.generator.to(device),
            config,
            recipe,
            demo_measurable=dataset == "demo",
            mask=mask,
            images=images,
            checkpoints=out.with_name(f"{out.name}.checkpoints"),
            loggers=loggers,
            progress=progress,
            reporter=output,
        )
    facts = distillation_facts(
        config, recipe, result, demo_measurable=dataset == "demo", mask=mask, images=images
    )  # fmt: skip
    save_generator(result.generator.cpu(), out, extra=distilled_story(pruned, original, teacher, facts))
    real = real_facts(images, recipe, demo_measurable=dataset == "demo")
    output.written(out, history=result.history, resumed_at=result.resumed_at, images=real)


@verb(computes=True)
def export(
    output: Output,
    model: Annotated[Path, typer.Argument(help="A checkpoint in any format.")],
    out: Out,
    teacher: Annotated[Path | None, option("Generator to export too, as teacher.onnx in the same folder.")] = None,
    network: Network = None,
    inputs: Annotated[str, choice("Input: z (latents and psi) or ws (codes of every slot).", "z", "ws")] = "z",
    image: Annotated[
        str, choice("Output: uint8 [B, H, W, 3], or float [B, 3, H, W] in [-1, 1].", "uint8", "float")
    ] = "uint8",
    noise: Annotated[
        str, choice("Noise maps: const (in the file), none, or input (given with each call).", "const", "none", "input")
    ] = "const",
    upsample: Annotated[
        str,
        choice("Method of up-sampling, transposed or polyphase. Both give the same images.", "transposed", "polyphase"),
    ] = "transposed",
    batch: Annotated[
        str,
        option(
            "Batches that the file accepts, smallest and largest: 1,64. One number fixes all shapes. By default any."
        ),
    ] = "",
    precision: Annotated[
        str, option("Number format of convolutions: fp32, fp16, bf16 or int8.", complete=values_of("precision"))
    ] = "fp32",
    opset: Annotated[int | None, option("ONNX opset. [lowest that the network needs]")] = None,
    ir: Annotated[int | None, option("ONNX IR version. [lowest that the network needs]")] = None,
    inline: Annotated[
        bool, option("Write standard operators in place of functions, for converters without them.", "--inline")
    ] = False,
) -> None:
    """Write a generator as one ONNX file: z and psi in, images out.

    Example: dcp-deploy export student.safetensors -o student.onnx --precision fp16
    """
    from ..checkpoints import load_checkpoint
    from ..checkpoints.provenance import as_texts, full_story
    from ..export import export_onnx, precision_report
    from ..export.graph.file import read_onnx
    from ..export.graph.releases import runtime_words
    from ..export.graph.versions import versions_of
    from ..export.onnx.exporter import weights_sha256

    beside = out.with_name("teacher.onnx")
    if teacher is not None and out == beside:
        raise UsageError(f"--out {out} is where the teacher goes", "Give another name, for example student.onnx.")
    sizes = whole_numbers("--batch", batch) if batch else ()
    if len(sizes) > 2:
        raise UsageError(f"--batch {batch!r} is more than two numbers", "Write for example 1,64, or 1 to fix it.")
    options: dict[str, Any] = {
        "inputs": inputs, "image": image, "noise": noise, "upsample": upsample, "precision": precision,
        "batch": sizes[0] if len(sizes) == 1 else sizes or None, "opset": opset, "ir": ir, "inline": inline,
    }  # fmt: skip
    checkpoint = load_checkpoint(model, network=network if teacher is None else None)
    facts = as_texts(full_story(checkpoint, model))
    with output.task("export") as progress:
        if teacher is not None:
            original = load_checkpoint(teacher, network=network)
            facts["teacher_sha256"] = weights_sha256(original.generator)
            about = as_texts(full_story(original, teacher))
            export_onnx(original.generator, beside, **options, metadata=about, progress=progress)
        export_onnx(checkpoint.generator, out, **options, metadata=facts, progress=progress)
    if report := precision_report(out):
        output.table(report)
    written = read_onnx(out)
    ir_version, opset = versions_of(written)
    words = runtime_words(ir_version, opset)
    output.message(f"{out} has IR version {ir_version} and opset {opset}. It runs in {words}.")
    output.written(
        out,
        precision=precision,
        ir_version=ir_version,
        opset=opset,
        runs_in=words,
        batch=[sizes[0], sizes[-1]] if sizes else None,
        inlined=not written.functions,
        teacher=None if teacher is None else str(beside),
    )


@verb()
def engine(
    output: Output,
    onnx: Annotated[Path, typer.Argument(help="A file that dcp-deploy export wrote.")],
    out: Out,
    target: Annotated[
        str, option('GPUs to build for, such as sm89 or "RTX 4090,L4"; auto: the GPU here.', complete=targets)
    ] = "auto",
    flavour: Annotated[
        str, choice("tensorrt-rtx (needs no GPU), tensorrt or auto.", "auto", "tensorrt-rtx", "tensorrt")
    ] = "auto",
    batch: Annotated[str, option("Smallest, most frequent and largest batch.")] = "1,8,64",
    version_compatible: Annotated[
        bool, option("Also run on later versions of the same major TensorRT; slower.", "--version-compatible")
    ] = False,
    hardware_compatible: Annotated[
        bool, option("Run on every GPU from Ampere on; slower. TensorRT only.", "--hardware-compatible")
    ] = False,
    refit: Annotated[bool, option("Allow replacing the weights later.", "--refit")] = False,
    timing_cache: Annotated[Path | None, option("File of kernel times for later builds. TensorRT only.")] = None,
    plugins: Annotated[bool, option("Use our CUDA kernels in the engine. TensorRT only.")] = True,
) -> None:
    """Build a TensorRT engine, with its manifest in the same folder.

    Example: dcp-deploy engine student.onnx -o student.engine --target "RTX 4090,L4"
    """
    from ..export import EngineOptions, build_engine

    sizes = whole_numbers("--batch", batch)
    cache = None if timing_cache is None else str(timing_cache)
    options = EngineOptions(version_compatible, hardware_compatible, refit, cache, plugins)
    with output.task("engine"):
        built = build_engine(
            onnx, out, target=target, flavour=flavour, batch=sizes, options=options  # type: ignore[arg-type]
        )  # fmt: skip
    output.written(built.path, manifest=built.manifest)
