"""The work of each stage of a build: it reads files of the run directory and writes others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..efforts import CHANGES
from ..errors import MissingCapabilityError
from ..files import write_json
from ..gates import SPEED, doubts, judge
from ..progress import Progress, Reporter, shifted
from .distilling import (
    RUN_IDS,
    checkpoints_of,
    distill_student,
    distillation_facts,
    distilling_settings,
    files_of,
    open_loggers,
)
from .evaluating import measure_latents, measure_quality
from .inputs import DATA, BuildInputs
from .timing import other_runtimes, time_in_turns, wait_for_quiet

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..generators import Generator

MODELS = ("teacher", "pruned", "student")
GRID_SEEDS = tuple(range(16))
GRID_PSI = 1.0  # what sample_grid draws with
PORTABLE = "sm80,sm86,sm89,sm120"  # all GPUs that TensorRT-RTX serves in fp32; it has no fp32 products for sm75
GATES = "gates.json"
LOGS = "logs"
SOURCE = "teacher file"  # stands for the file given by --teacher, shipped with the preset, or fetched for it


class SkippedError(Exception):
    """Raised by an optional stage that cannot run on this machine; the message says why. Never leaves the pipeline."""


@dataclass(frozen=True)
class Job:
    """What the work of one stage receives."""

    inputs: BuildInputs
    directory: Path
    key: str
    force: bool
    """Whether to start over, without continuing anything half-done."""
    reporter: Reporter
    networks: dict[str, dict[str, Any]]
    """Facts about the generators of the run, for run.json; a stage that makes a generator describes it here."""

    def path(self, name: str) -> Path:
        """Return the path of a file of the run directory."""
        return self.directory / name

    def read(self, model: str) -> Checkpoint:
        """Read a generator of the run with its story; the generator is on the build's device, frozen."""
        from ..checkpoints import load_checkpoint

        checkpoint = load_checkpoint(self.path(f"{model}.safetensors"))
        checkpoint.generator.to(self.inputs.device).eval().requires_grad_(False)
        return checkpoint

    def load(self, model: str) -> Generator:
        """Return the generator of :meth:`read`."""
        return self.read(model).generator

    def save(self, generator: Generator, model: str, story: dict[str, Any]) -> str:
        """Write a generator and its story into the run directory and describe it; return the file's name."""
        from ..checkpoints import save_generator
        from ..evaluation.inspection import describe

        name = f"{model}.safetensors"
        save_generator(generator.cpu(), self.path(name), extra=story)
        self.networks[model] = {**describe(generator), "bytes": self.path(name).stat().st_size}
        return name


@dataclass(frozen=True)
class Stage:
    """One stage: the files it reads, the settings that decide its result, and the work, which returns written files."""

    name: str
    title: str
    inputs: tuple[str, ...]
    settings: Callable[[BuildInputs], dict[str, Any]]
    work: Callable[[Job, Progress], Sequence[str]]
    computes: bool = False
    """Whether it takes as many CPU threads as other processes leave free; distill and bench choose theirs."""


# ---- compression ----


def _teacher(job: Job, progress: Progress) -> list[str]:
    from ..checkpoints import provenance, read_checkpoint

    source = job.inputs.teacher.path
    checkpoint = read_checkpoint(source, network=job.inputs.config.network)
    for line in (*checkpoint.notes, checkpoint.licence):
        if line:
            job.reporter.message(f"{source.name}: {line}")
    story = provenance(checkpoint, source, published=_published(job.inputs.teacher.origin))
    return [job.save(checkpoint.generator, "teacher", story)]


def _published(origin: dict[str, Any]) -> tuple[str, str] | None:
    """Return the licence that the preset states for the teacher's file, and the file's address."""
    terms, address = origin.get("licence"), origin.get("url")
    return None if terms is None or address is None else (terms, address)


def _score(job: Job, progress: Progress) -> list[str]:
    from ..compression import save_scores, score

    inputs, config = job.inputs, job.inputs.config
    partial = job.path("scores.partial")  # left by a killed run
    if job.force:
        partial.unlink(missing_ok=True)
    scores = score(
        job.load("teacher"),
        method=config.score,
        latents=inputs.effort.latents_for(config.score),
        directions=inputs.effort.directions_for(config.score),
        hybrid_share=config.hybrid_share,
        mask=inputs.mask if config.score == "content" else None,
        seed=config.seed,
        state=partial,
        progress=progress,
    )
    save_scores(scores, job.path("scores.safetensors"))
    return ["scores.safetensors"]


def _prune(job: Job, progress: Progress) -> list[str]:
    from ..compression import load_scores, plan
    from .pruning import prune_with_story

    teacher, config = job.read("teacher"), job.inputs.config
    scores = load_scores(job.path("scores.safetensors"))
    pruned, story = prune_with_story(
        teacher,
        job.path("teacher.safetensors"),
        plan(teacher.generator, scores, **config.plan_arguments),
        scores,
        refine=config.refine,
        latents=job.inputs.effort.refine_latents,
        seed=config.seed,
        progress=progress,
    )
    return [job.save(pruned, "pruned", story)]


def _distill(job: Job, progress: Progress) -> list[str]:
    from ..checkpoints.provenance import distilled_story

    checkpoints = checkpoints_of(job.directory, job.key)
    for folder in job.path("checkpoints").glob("*"):
        if job.force or folder != checkpoints:
            shutil.rmtree(folder)
    inputs, pruned, teacher = job.inputs, job.read("pruned"), job.read("teacher")
    result = distill_student(
        pruned.generator,
        teacher.generator,
        inputs.config,
        inputs.recipe,
        demo_measurable=inputs.demo_measurable,
        mask=inputs.mask,
        images=inputs.images,
        checkpoints=checkpoints,
        loggers=open_loggers(inputs.config, job.path(LOGS), job.reporter, record=checkpoints / RUN_IDS),
        progress=progress,
        reporter=job.reporter,
    )
    facts = distillation_facts(
        inputs.config,
        inputs.recipe,
        result,
        demo_measurable=inputs.demo_measurable,
        mask=inputs.mask,
        images=inputs.images,
    )
    write_json(job.path("history.json"), result.history)
    story = distilled_story(pruned, teacher, job.path("teacher.safetensors"), facts)
    return [job.save(result.generator, "student", story), "history.json"]


# ---- deployment ----


def _export(job: Job, progress: Progress) -> list[str]:
    from ..checkpoints.provenance import as_texts, full_story
    from ..export import export_onnx
    from ..export.onnx.exporter import weights_sha256

    written = []
    of_student = {"teacher_sha256": weights_sha256(job.load("teacher"))}
    for model in ("student", "teacher"):
        path = job.path(f"{model}.onnx")
        checkpoint = job.read(model)
        story = full_story(checkpoint, job.path(f"{model}.safetensors"))
        facts = as_texts(story) | (of_student if model == "student" else {})
        generator, precision = checkpoint.generator.cpu(), job.inputs.config.precision
        export_onnx(generator, path, precision=precision, metadata=facts, progress=progress)
        written.append(f"{model}.onnx")
    return written


def _engine(job: Job, progress: Progress) -> list[str]:
    from ..export import build_engine

    engine, target = job.path("engines/student.engine"), job.inputs.config.target
    try:
        build_engine(job.path("student.onnx"), engine, target=target or PORTABLE)
    except MissingCapabilityError as error:
        if target:
            raise
        raise SkippedError(f"{error.message} ({error.remedy})") from error
    return ["engines/student.engine", "engines/student.json"]


def _verify(job: Job, progress: Progress) -> list[str]:
    from ..export import verify
    from ..export.parity.gate import PSIS

    reports, latents, seed = {}, job.inputs.effort.parity_latents, job.inputs.config.seed
    images = latents * len(PSIS)
    for index, model in enumerate(("student", "teacher")):
        reports[model] = verify(
            job.load(model), job.path(f"{model}.onnx"), latents=latents, psis=PSIS, seed=seed, bisect=True,
            progress=shifted(progress, index * images, 2 * images),
        )  # fmt: skip
    passed = all(report.passed for report in reports.values())
    document = {"schema": 1, "passed": passed, "pairs": {name: report.to_dict() for name, report in reports.items()}}
    write_json(job.path("parity.json"), document)
    for model, report in reports.items():
        if not report.passed:
            report.save_worst(job.path(f"parity_{model}_worst.png"))
            report.raise_for_failure()
    return ["parity.json"]


# ---- measurement ----


def _evaluate(job: Job, progress: Progress) -> list[str]:
    from ..export import load_runner
    from ..export.runners.sampling import COLUMNS, sample_grid
    from ..metrics.likeness import collapse, has_collapsed

    written = []
    for model in MODELS:
        sample_grid(load_runner(job.load(model)), job.path(f"grids/{model}.png"), seeds=GRID_SEEDS)
        written.append(f"grids/{model}.png")
    reason = job.inputs.not_measurable
    if job.inputs.images is not None or not reason:
        written.append(_real_grid(job))
    else:  # an earlier run may have had real images
        job.path("grids/real.png").unlink(missing_ok=True)
    factors = None
    if reason:
        document: dict[str, Any] = {"schema": 1, "measured": False, "reason": reason}
    else:
        samples, seed = job.inputs.effort.evaluation_samples, job.inputs.config.seed
        models, factors = measure_quality(job.load, MODELS, samples=samples, seed=seed, progress=progress)
        document = {"schema": 1, "measured": True, "models": models}
    student, teacher = job.load("student"), job.load("teacher")
    document["latents"] = measure_latents(student, teacher, job.inputs.config, factors, progress)
    grids = {"seeds": list(GRID_SEEDS), "psi": GRID_PSI, "columns": COLUMNS}
    write_json(job.path("metrics.json"), {**document, "grids": grids})
    if has_collapsed(student, seed=job.inputs.config.seed):
        raise collapse()
    return [*written, "metrics.json"]


def _real_grid(job: Job) -> str:
    from ..datasets.portrait import avatars
    from ..export.runners.picture_files import save_picture
    from ..export.runners.sampling import grid

    images = job.inputs.images
    if images is None:
        real = avatars(GRID_SEEDS)
    else:
        places = np.linspace(0, len(images) - 1, min(len(GRID_SEEDS), len(images)), dtype=int)
        real = np.stack([sample.image for sample in images.samples(places.tolist())])
    save_picture(grid(real), job.path("grids/real.png"))
    return "grids/real.png"


def _bench(job: Job, progress: Progress) -> list[str]:
    config = job.inputs.config
    wait_for_quiet(config.wait, job.reporter)
    files = {
        model: [job.path(f"{model}{ending}") for ending in (".safetensors", ".onnx")]
        for model in ("teacher", "student")
    }
    # The baseline is the teacher in torch.
    timing = time_in_turns(
        files, job.inputs.effort, in_all="student", threads=config.threads, seed=config.seed, progress=progress
    )
    write_json(job.path("bench.json"), timing)
    return ["bench.json"]


def _gates(job: Job, progress: Progress) -> list[str]:
    from ..report.headline import fastest_student
    from ..report.judgement import unstable_because
    from ..report.run_directory import read_run_directory

    run = read_run_directory(job.directory)
    student, teacher = (run.figures(model) for model in ("student", "teacher"))
    best = fastest_student(run)
    student[SPEED] = best.speedup.value if best is not None and best.speedup is not None else None
    verdict = judge(job.inputs.requirements, student, teacher, untrusted=doubts(unstable_because(run)))
    write_json(job.path(GATES), {"schema": 1, **asdict(verdict)})
    return [GATES]


def _report(job: Job, progress: Progress) -> list[str]:
    from ..report import write_report

    write_report(job.directory)
    return ["report.html"]


# ---- the list ----


def _settings(*names: str) -> Callable[[BuildInputs], dict[str, Any]]:
    """Return a function that picks these fields of the config and numbers of its effort level."""

    def settings(inputs: BuildInputs) -> dict[str, Any]:
        config = inputs.config
        values = {**config.to_dict(), **config.counts.to_dict(), "device": inputs.device}
        return {name: values[name] for name in names}

    return settings


def _reading(inputs: BuildInputs) -> dict[str, Any]:
    """Return which generator of the file is read; empty for the default."""
    return {} if inputs.config.network is None else _settings("network")(inputs)


def _scoring(inputs: BuildInputs) -> dict[str, Any]:
    of_changes = inputs.config.score in CHANGES
    counts = ("change_latents", "hybrid_share") if of_changes else ("score_latents", "score_directions")
    settings = _settings("score", *counts, "seed", "device")(inputs)
    if inputs.mask is not None and inputs.config.score == "content":
        settings["mask"] = inputs.mask.identity
    if inputs.own_score is not None:
        settings["function"] = inputs.own_score.identity
    return settings


def _pruning(inputs: BuildInputs) -> dict[str, Any]:
    names = ("ratio", "align", "target_macs", "target_params", "refine", "refine_latents", "seed", "device")
    return _settings(*names, *(["target_latency"] if inputs.config.target_latency else []))(inputs)


def _distilling(inputs: BuildInputs) -> dict[str, Any]:
    settings = inputs.recipe.to_dict()
    for name in ("checkpoint_every", "measure_every"):  # they do not change the student
        del settings[name]
    images = _images(inputs) if inputs.recipe.gan else {}  # only a discriminator looks at real images
    others = _settings("dataset", "device")(inputs)
    return {**settings, **images, **distilling_settings(inputs.config, inputs.mask), **others}


def _evaluating(inputs: BuildInputs) -> dict[str, Any]:
    # Runs without figures of latents are measured again.
    latents = {"latents": True, **files_of(inputs.config, "lpips")}
    return {**_images(inputs), **latents, **_settings("dataset", "evaluation_samples", "seed")(inputs)}


def _benching(inputs: BuildInputs) -> dict[str, Any]:
    # A longer wait measures an unstable run again, and so does a runtime that was installed since.
    names = ("bench_rounds", "bench_seconds", *(name for name in ("threads", "wait") if getattr(inputs.config, name)))
    return {**_settings(*names)(inputs), "runtimes": other_runtimes()}


def _requirements(inputs: BuildInputs) -> dict[str, Any]:
    return {"requirements": [one.text for one in inputs.requirements]}


def _images(inputs: BuildInputs) -> dict[str, Any]:
    """Return what identifies the images of --data; empty without --data."""
    return {} if inputs.images is None else {DATA: inputs.images.identity}


_WEIGHTS = tuple(f"{model}.safetensors" for model in MODELS)
_ENDS = ("student.safetensors", "teacher.safetensors", "student.onnx", "teacher.onnx")

STAGES: tuple[Stage, ...] = (
    Stage("teacher", "read the teacher", (SOURCE,), _reading, _teacher),
    Stage("score", "score the teacher's channels", ("teacher.safetensors",), _scoring, _score, True),
    Stage(
        "prune",
        "prune, layer by layer",
        ("teacher.safetensors", "scores.safetensors"),
        _pruning,
        _prune,
        True,
    ),
    Stage("distill", "distil the student", ("pruned.safetensors", "teacher.safetensors"), _distilling, _distill),
    Stage("export", "export to ONNX", _ENDS[:2], _settings("precision"), _export, True),
    Stage("engine", "build the TensorRT engine", ("student.onnx",), _settings("target", "precision"), _engine),
    Stage("verify", "compare exported and original images", _ENDS, _settings("parity_latents", "seed"), _verify, True),
    Stage("evaluate", "measure quality", _WEIGHTS, _evaluating, _evaluate, True),
    Stage("bench", "measure latency", _ENDS, _benching, _bench),
    Stage("gates", "check the requirements", ("metrics.json", "bench.json"), _requirements, _gates),
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
            GATES,
            "engines/student.json",
        ),
        lambda inputs: inputs.config.to_dict(),
        _report,
    ),
)
