"""The work of each stage of a build: files of the run directory in, files of the run directory out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import BuildConfig, Effort
from ..errors import MissingCapabilityError
from ..files import write_json
from ..progress import Progress, Reporter, shifted
from .distilling import distill_student, distilling_settings, mask_of, recipe_of
from .inputs import build_device, data_settings, unmeasurable

if TYPE_CHECKING:
    from ..datasets.images import ImageSet
    from ..generators import Generator

MODELS = ("teacher", "pruned", "student")
GRID_SEEDS = tuple(range(16))
PORTABLE = "sm80,sm86,sm89,sm120"  # all that TensorRT-RTX serves in fp32; it has no fp32 products for sm75
SOURCE = "teacher file"  # stands for the file given by --teacher or shipped with the preset


class SkippedError(Exception):
    """A stage that cannot run here and that nobody insisted on; its text is the reason. Never leaves the pipeline."""


@dataclass(frozen=True)
class Job:
    """What a stage's work is given."""

    config: BuildConfig
    directory: Path
    source: Path
    """The teacher's file, wherever it lies."""
    work: Effort
    """The effort's counts for this teacher."""
    key: str
    force: bool
    """Start over: nothing half-done may be continued."""
    reporter: Reporter
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts about the generators of the run, for run.json; a stage that makes one describes it here."""
    images: ImageSet | None = None
    """The images of --data."""

    def path(self, name: str) -> Path:
        """A file of the run directory."""
        return self.directory / name

    def load(self, model: str) -> Generator:
        """A generator of the run on the working device, frozen."""
        from ..checkpoints import load_generator

        generator = load_generator(self.path(f"{model}.safetensors"))
        return generator.to(build_device(self.config)).eval().requires_grad_(False)

    def save(self, generator: Generator, model: str, extra: dict[str, Any] | None = None) -> str:
        """Write a generator into the run directory and describe it; returns the file's name.

        ``extra`` travels in the file; by default what the run's teacher says of its origin and terms.
        """
        from ..checkpoints import read_metadata, save_generator
        from ..evaluation.inspection import describe

        name = f"{model}.safetensors"
        if extra is None:
            extra = read_metadata(self.path("teacher.safetensors"))["extra"]
        save_generator(generator.cpu(), self.path(name), extra=extra)
        self.networks[model] = {**describe(generator), "bytes": self.path(name).stat().st_size}
        return name


@dataclass(frozen=True)
class Stage:
    """One step: what it reads, which settings decide its result, and the work, which returns the files it wrote."""

    name: str
    title: str
    inputs: tuple[str, ...]
    settings: Callable[[BuildConfig], dict[str, Any]]
    work: Callable[[Job, Progress], Sequence[str]]


# ---- compression ----


def _teacher(job: Job, progress: Progress) -> list[str]:
    from ..checkpoints import provenance, read_checkpoint

    checkpoint = read_checkpoint(job.source)
    for line in (*checkpoint.notes, checkpoint.licence):
        if line:
            job.reporter.message(f"{job.source.name}: {line}")
    return [job.save(checkpoint.generator, "teacher", provenance(checkpoint, job.source))]


def _score(job: Job, progress: Progress) -> list[str]:
    from ..compression import save_scores, score

    work = job.work
    partial = job.path("scores.partial")  # of a run that was killed
    if job.force:
        partial.unlink(missing_ok=True)
    scores = score(
        job.load("teacher"),
        method=job.config.score,
        latents=work.score_latents,
        directions=work.score_directions,
        mask=mask_of(job.config) if job.config.score == "content" else None,
        seed=job.config.seed,
        state=partial,
        progress=progress,
    )
    save_scores(scores, job.path("scores.safetensors"))
    return ["scores.safetensors"]


def _prune(job: Job, progress: Progress) -> list[str]:
    from ..compression import load_scores, plan, prune

    teacher = job.load("teacher")
    scores = load_scores(job.path("scores.safetensors"))
    planned = plan(teacher, scores, **job.config.widths_wanted)
    student = prune(teacher, planned, refine=job.config.refine, latents=job.work.refine_latents, seed=job.config.seed)
    return [job.save(student, "pruned")]


def _distill(job: Job, progress: Progress) -> list[str]:
    checkpoints = job.path("checkpoints") / job.key[:16]  # of these settings and inputs only
    for folder in job.path("checkpoints").glob("*"):
        if job.force or folder != checkpoints:
            shutil.rmtree(folder)
    demo = unmeasurable(job.config, job.networks["teacher"]) is None
    result = distill_student(
        job.load("pruned"),
        job.load("teacher"),
        job.config,
        recipe_of(job.config, demo=job.config.is_demo),
        demo=demo,
        images=job.images,
        checkpoints=checkpoints,
        progress=progress,
        reporter=job.reporter,
    )
    write_json(job.path("history.json"), result.history)
    return [job.save(result.generator, "student"), "history.json"]


# ---- deployment ----


def _export(job: Job, progress: Progress) -> list[str]:
    from ..export import export_onnx
    from ..export.onnx.exporter import weights_sha256

    written = []
    facts = {"teacher_sha256": weights_sha256(job.load("teacher"))}
    for done, model in enumerate(("student", "teacher")):
        progress(done, 2)
        path = job.path(f"{model}.onnx")
        export_onnx(job.load(model).cpu(), path, precision=job.config.precision, metadata=facts)
        written.append(f"{model}.onnx")
    return written


def _engine(job: Job, progress: Progress) -> list[str]:
    from ..export import build_engine

    engine = job.path("engines/student.engine")
    try:
        build_engine(job.path("student.onnx"), engine, target=job.config.target or PORTABLE)
    except MissingCapabilityError as error:
        if job.config.target:
            raise
        raise SkippedError(f"{error.message} ({error.remedy})") from error
    return ["engines/student.engine", "engines/student.json"]


def _verify(job: Job, progress: Progress) -> list[str]:
    from ..export import verify

    pairs = {}
    for done, model in enumerate(("student", "teacher")):
        progress(done, 2)
        network, exported = job.load(model), job.path(f"{model}.onnx")
        pairs[model] = verify(network, exported, latents=job.work.parity_latents, seed=job.config.seed, bisect=True)
    passed = all(report.passed for report in pairs.values())
    document = {"schema": 1, "passed": passed, "pairs": {name: report.to_dict() for name, report in pairs.items()}}
    write_json(job.path("parity.json"), document)
    for model, report in pairs.items():
        if not report.passed:
            report.save_worst(job.path(f"parity_{model}_worst.png"))
            report.raise_for_failure()
    return ["parity.json"]


# ---- measurement ----


def _evaluate(job: Job, progress: Progress) -> list[str]:
    from ..export import load_runner
    from ..export.runners.sampling import sample_grid

    written = []
    for model in MODELS:
        sample_grid(load_runner(job.load(model)), job.path(f"grids/{model}.png"), seeds=GRID_SEEDS)
        written.append(f"grids/{model}.png")
    reason = unmeasurable(job.config, job.networks["teacher"])
    if job.images is not None or not reason:
        written.append(_real_grid(job))
    else:  # the images that an earlier run was given
        job.path("grids/real.png").unlink(missing_ok=True)
    if reason:
        document: dict[str, Any] = {"schema": 1, "measured": False, "reason": reason}
    else:
        document = {"schema": 1, "measured": True, "models": _quality(job, progress)}
    write_json(job.path("metrics.json"), document)
    return [*written, "metrics.json"]


def _quality(job: Job, progress: Progress) -> dict[str, Any]:
    from ..metrics import evaluate
    from ..metrics.evaluate import REFERENCE_SAMPLES

    samples = min(job.work.evaluation_samples, REFERENCE_SAMPLES)
    models = {}
    for index, model in enumerate(MODELS):
        part = shifted(progress, index * samples, len(MODELS) * samples)
        metrics = evaluate(job.load(model), samples=samples, seed=job.config.seed, progress=part)
        models[model] = metrics.to_dict()
    return models


def _real_grid(job: Job) -> str:
    from ..datasets.avatars import avatars
    from ..export.runners.sampling import grid, save_png

    if job.images is None:
        real = avatars(GRID_SEEDS)
    else:
        places = np.linspace(0, len(job.images) - 1, min(len(GRID_SEEDS), len(job.images)), dtype=int)
        real = np.stack([sample.image for sample in job.images.samples(places.tolist())])
    save_png(grid(real), job.path("grids/real.png"))
    return "grids/real.png"


def _bench(job: Job, progress: Progress) -> list[str]:
    from ..benchmarks import benchmark, machine_ceilings, open_candidate, open_matrix, plan_matrix

    work = job.work
    files = {
        model: [job.path(f"{model}{ending}") for ending in (".safetensors", ".onnx")]
        for model in ("teacher", "student")
    }
    specs, _ = plan_matrix(files)
    candidates, _ = open_matrix(specs, open_candidate, tolerant=False)
    report = benchmark(
        candidates,
        baseline=next(iter(candidates)),  # the teacher as torch runs it
        ceilings=machine_ceilings(["cpu"]),
        min_rounds=work.bench_rounds,
        min_seconds=work.bench_seconds,
        seed=job.config.seed,
        progress=progress,
    )
    write_json(job.path("bench.json"), report.to_dict())
    return ["bench.json"]


def _report(job: Job, progress: Progress) -> list[str]:
    from ..report import write_report

    write_report(job.directory)
    return ["report.html"]


# ---- the list ----


def _of(*names: str) -> Callable[[BuildConfig], dict[str, Any]]:
    """Settings made of these numbers of the effort and fields of the config."""

    def settings(config: BuildConfig) -> dict[str, Any]:
        values = {**config.to_dict(), **config.work.to_dict()}
        return {name: build_device(config) if name == "device" else values[name] for name in names}

    return settings


def _scoring(config: BuildConfig) -> dict[str, Any]:
    mask = mask_of(config) if config.score == "content" else None
    settings = _of("score", "score_latents", "score_directions", "seed", "device")(config)
    return settings if mask is None else {**settings, "mask": mask.identity}


def _distilling(config: BuildConfig) -> dict[str, Any]:
    recipe = recipe_of(config, demo=config.is_demo)
    settings = asdict(recipe)
    for name in ("checkpoint_every", "measure_every"):  # decide what a kill costs and what is told, not what comes out
        del settings[name]
    data = data_settings(config) if recipe.has_discriminator else {}  # without a discriminator nothing looks at them
    return {**settings, **data, **distilling_settings(config), **_of("dataset", "device")(config)}


def _evaluating(config: BuildConfig) -> dict[str, Any]:
    return {**data_settings(config), **_of("dataset", "evaluation_samples", "seed")(config)}


_WEIGHTS = tuple(f"{model}.safetensors" for model in MODELS)
_ENDS = ("student.safetensors", "teacher.safetensors", "student.onnx", "teacher.onnx")

STAGES: tuple[Stage, ...] = (
    Stage("teacher", "read the teacher", (SOURCE,), _of(), _teacher),
    Stage("score", "score the teacher's channels", ("teacher.safetensors",), _scoring, _score),
    Stage(
        "prune",
        "remove the lowest",
        ("teacher.safetensors", "scores.safetensors"),
        _of("ratio", "align", "target_macs", "target_params", "refine", "refine_latents", "seed", "device"),
        _prune,
    ),
    Stage("distill", "distil the student", ("pruned.safetensors", "teacher.safetensors"), _distilling, _distill),
    Stage("export", "export to ONNX", ("student.safetensors", "teacher.safetensors"), _of("precision"), _export),
    Stage("engine", "build the TensorRT engine", ("student.onnx",), _of("target", "precision"), _engine),
    Stage("verify", "compare exported and original images", _ENDS, _of("parity_latents", "seed"), _verify),
    Stage("evaluate", "measure quality", _WEIGHTS, _evaluating, _evaluate),
    Stage("bench", "measure latency", _ENDS, _of("bench_rounds", "bench_seconds"), _bench),
    Stage(
        "report",
        "write the report",
        (
            *_WEIGHTS,
            "scores.safetensors",
            "history.json",
            "metrics.json",
            "parity.json",
            "bench.json",
            "engines/student.json",
        ),
        BuildConfig.to_dict,
        _report,
    ),
)
