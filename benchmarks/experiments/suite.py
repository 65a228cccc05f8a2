"""Measure the standing matrix of latencies.

    python -m dcp_deploy.benchmarks.experiments.suite FOLDER [--quick] [--network NAME] [--pair] [--files FILES]

    for each network, StyleGAN2 and 3 at 256 and 1024 px, with random weights:
        its teacher in torch, ONNX Runtime and OpenVINO, and a student for each ratio and alignment in the latter two;
        StyleGAN2 also with our CPU operators, and at 256 px one student in bf16 and int8
        one interleaved run of all of them -> FOLDER/<network>.json and .md

All candidates of a network share one run, so alignments are compared under the same load. Operations are listed beside
the times, since rounding widths up adds some. A network that has its document is not measured again. Install OpenVINO
first, because candidates that cannot run are only listed as skipped. ``--quick`` has an eighth of the channels at 64 px
and takes minutes. ``--pair`` measures the teacher and one student only, of ratio 0.7 in multiples of 16, in every
precision, and writes ``<network>-pair.json``. ``--files`` keeps the exported files and takes those that are there, so
that a second run only measures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from ...checkpoints import save_generator
from ...compression.scoring.channel_scores import kept_width
from ...export import export_onnx
from ...export.parity.tolerance import Precision
from ...files import write_json, write_text
from ...generators import Generator, GeneratorConfig, StyleGAN2Synthesis
from ..candidates.loading import open_candidate
from ..candidates.matrix import open_matrix, plan_matrix
from ..latency import benchmark
from ..machine.roofline import machine_ceilings
from ..results import BenchReport

RATIOS = (0.5, 0.7, 0.85)
ALIGNS = (1, 8, 16)
RESOLUTIONS = (256, 1024)
QUICK_RESOLUTION, QUICK_SHARE = 64, 8
BACKENDS = "torch,onnxruntime,onnxruntime-winograd,openvino,openvino-winograd"
ROUNDED = "stylegan2", 256, 0.7, 16  # kind, largest resolution, ratio and alignment of what is in PRECISIONS too
PRECISIONS: tuple[Precision, ...] = ("bf16", "int8")
PAIR = "student 0.7 by 16"
CONTRAST = 0.5  # standard deviation of the pixels in [-1, 1]; the photographs of CIFAR-10 have 0.5
SCALED_ON = 4  # images that measure it
WARM_CALLS = 3  # a call of a teacher takes up to a minute


def networks(*, quick: bool) -> dict[str, GeneratorConfig]:
    """Return the teachers by name, at full width or an eighth of it."""
    found = {}
    for kind, resolution in product(("stylegan2", "stylegan3"), (QUICK_RESOLUTION,) if quick else RESOLUTIONS):
        published = GeneratorConfig.stylegan2 if kind == "stylegan2" else GeneratorConfig.stylegan3
        config = published(resolution, num_fp16_res=0)
        if quick:
            config = replace(config, widths=tuple(max(1, width // QUICK_SHARE) for width in config.widths))
        found[f"{kind}-{resolution}"] = config
    return found


def students(teacher: GeneratorConfig) -> Iterator[tuple[str, GeneratorConfig, tuple[Precision, ...]]]:
    """Yield name, network and precisions of the student of each ratio and alignment, all layers at the same ratio."""
    for ratio, align in product(RATIOS, ALIGNS):
        widths = tuple(kept_width(width, ratio, align) for width in teacher.widths)
        kind, largest, *chosen = ROUNDED
        rounded = [ratio, align] == chosen and teacher.kind == kind and teacher.resolution <= largest
        precisions: tuple[Precision, ...] = ("fp32", *(PRECISIONS if rounded else ()))
        yield f"student {ratio:g} by {align}", replace(teacher, widths=widths), precisions


def measure(
    teacher: GeneratorConfig, *, rounds: int, seconds: float, threads: int | None, pair: bool, kept: Path | None
) -> BenchReport:
    """Measure a teacher and its students at batch 1 in one interleaved run; ``pair``: only one student.

    ``kept``: where exported files are kept; by default they are deleted afterwards.
    """
    with ExitStack() as stack:
        folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "teacher.safetensors"
        save_generator(_network(teacher), checkpoint)
        files = {"teacher": [checkpoint, _exported(teacher, folder, "teacher")]}
        for name, config, precisions in students(teacher):
            if pair and name != PAIR:
                continue
            files[name] = [_exported(config, folder, name, precision) for precision in precisions]
        specs, _ = plan_matrix(files, backends=BACKENDS, threads=threads)  # skipped: students have no checkpoint
        candidates, skipped = open_matrix(specs, open_candidate, tolerant=True)
        return benchmark(
            candidates,
            baseline=next(iter(candidates)),
            ceilings=machine_ceilings(["cpu"], threads),
            skipped=skipped,
            warmup_calls=WARM_CALLS,
            min_rounds=rounds,
            min_seconds=seconds,
        )


def _network(config: GeneratorConfig) -> Generator:
    torch.manual_seed(0)
    network = Generator(config).eval().requires_grad_(False)
    if isinstance(network.synthesis, StyleGAN2Synthesis):
        _scale_images(network, network.synthesis)
    return network


def _scale_images(network: Generator, synthesis: StyleGAN2Synthesis) -> None:
    """Change a StyleGAN2's toRGB layers so that its images have mean 0 and the contrast of photographs.

    With random weights most pixels are outside [-1, 1], so the parity gate would compare saturated images.
    """
    images = network(torch.randn(SCALED_ON, network.config.z_dim))
    factor = CONTRAST / images.std()
    torgbs = [layer for _, layer in synthesis.torgbs()]
    for layer in torgbs:
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
    torgbs[-1].bias.sub_(factor * images.mean((0, 2, 3)))


def _exported(config: GeneratorConfig, folder: Path, name: str, precision: Precision = "fp32") -> Path:
    path = folder / f"{name.replace(' ', '-')}-{config.resolution}-{precision}.onnx"
    if not path.is_file():
        export_onnx(_network(config), path, precision=precision)
    return path


def run(folder: Path, chosen: Sequence[str], options: argparse.Namespace) -> None:
    """Measure every chosen network that has no document in the folder, and print its table."""
    for name, teacher in networks(quick=options.quick).items():
        document = folder / f"{name}{'-quick' if options.quick else ''}{'-pair' if options.pair else ''}.json"
        if (chosen and name not in chosen) or document.is_file():
            continue
        report = measure(
            teacher, rounds=options.rounds, seconds=options.seconds, threads=options.threads, pair=options.pair,
            kept=options.files and options.files / name,
        )  # fmt: skip
        text = f"# {name}, `{report.environment.command}`\n\n{report.to_markdown()}"
        write_text(document.with_suffix(".md"), text)
        write_json(document, report.to_dict())  # last, because the document marks the network as done
        print(report.to_markdown(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The standing matrix of latencies, one document for each network.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="an eighth of the channels, 64 px")
    parser.add_argument("--pair", action="store_true", help=f"only the teacher and {PAIR}")
    parser.add_argument("--files", type=Path, help="folder that keeps the exported files")
    parser.add_argument("--network", nargs="+", default=(), help="only these: stylegan2-256 ...")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    known = networks(quick=options.quick)
    unknown = [name for name in options.network if name not in known]
    if unknown:
        parser.error(f"unknown network {unknown[0]}; known: {', '.join(known)}")
    run(options.folder, options.network, options)


if __name__ == "__main__":
    main()
