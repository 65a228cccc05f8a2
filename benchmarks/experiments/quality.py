"""The quality experiment: which scores and refinements keep a teacher's diversity?

    python -m dcp_deploy.benchmarks.experiments.quality --out DIR

A cell is one pruned student of a ratio, score, refinement and seed. It is distilled by the recipe of an effort and
measured on a schedule. A finished cell is a JSON file; a stopped cell continues from its last checkpoint. All scores
and refinements of one seed come before the next seed, and the first ratio before the second, so that an unfinished
experiment still compares fairly. Cells run in parallel threads; on a GPU each has its own stream.

The same command continues: it computes what has no file yet, for as long as --seconds allows. Keep each length of
training in its own DIR. Tune on seed 0 and judge on others (quality_report --seeds). The whole table, and the four best
by the whole recipe:

    python -m dcp_deploy.benchmarks.experiments.quality --out DIR --steps 544 --seconds 3000
    python -m dcp_deploy.benchmarks.experiments.quality --out LONG --ratios 0.7 --refinements reconstruct

The teacher is the demo's, or another one with real images (--teacher, --data). --recipe changes numbers of the recipe:
--recipe optimizer=adam rare=0.5.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ...compression import RECIPES, ChannelScores, DistillConfig, distill, load_scores, plan, prune, save_scores, score
from ...compression.pruning.planning import Refinement
from ...compression.scoring.methods import ScoreMethod
from ...efforts import CHANGES, EffortName
from ...errors import UsageError
from ...export.runners.picture_files import save_picture
from ...export.runners.sampling import as_uint8, grid
from ...files import read_json, write_json
from ...generators import Generator
from ..machine.environment import capture_environment
from .subjects import Subject, demo, photographs

RATIOS = (0.7, 0.85)
SCORES = ("random", "weight-out", "gradient", "diversity", "released", "change", "hybrid")
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {"method": "diversity", "released": True},
    "change-1-sigma": {"method": "change", "alpha": 1.0},
    "change-values": {"method": "change", "change_weight": 0.5},
    "values": {"method": "change", "change_weight": 0.0},
    "hybrid-25": {"method": "hybrid", "hybrid_share": 0.25},
    "hybrid-75": {"method": "hybrid", "hybrid_share": 0.75},
    "hybrid-changes": {"method": "hybrid", "change_weight": 1.0},
}
"""Scores with settings of their own; every other name is a method with its defaults."""
REFINEMENTS: tuple[Refinement, ...] = ("none", "svs", "reconstruct")
SEEDS = (0, 1, 2)
SCORE_LATENTS = 240
CHANGE_LATENTS = 384  # as at the effort quick; they take half as long as the 240, which need gradients
SAMPLES = 3000
PICTURES = 10


@dataclass(frozen=True)
class Cell:
    """One student of the experiment. The seed is used for score, refinement and distillation."""

    ratio: float
    score: str
    """A method, or one of :data:`VARIANTS`."""
    refine: Refinement
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.ratio:g}-{self.score}-{self.refine}-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """Settings that all cells share."""

    out: Path
    subject: Subject
    device: str
    steps: int
    samples: int
    deadline: float
    """When to stop, by the monotonic clock."""
    effort: EffortName = "quick"
    """Whose recipe is used, over ``steps`` steps."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the recipe that are replaced, by the names of their fields."""

    def recipe(self, seed: int) -> DistillConfig:
        """Return the recipe of a cell."""
        return replace(self.subject.recipe(self.effort, self.steps, seed), **self.changes)

    def settings(self) -> dict[str, Any]:
        """Return everything besides the cell that its figures depend on, JSON-ready."""
        numbers = {
            "steps": self.steps,
            "samples": self.samples,
            "score_latents": SCORE_LATENTS,
            "change_latents": CHANGE_LATENTS,
        }
        settings = {**numbers, "recipe": asdict(self.recipe(0)), **self.subject.facts}
        return dict(json.loads(json.dumps(settings)))  # as they come back from the file of a cell


class OutOfTimeError(Exception):
    """Raised when the deadline has passed; the next run continues the cell."""


def cells(
    ratios: Sequence[float] = RATIOS,
    scores: Sequence[str] = SCORES,
    refinements: Sequence[Refinement] = REFINEMENTS,
    seeds: Sequence[int] = SEEDS,
) -> list[Cell]:
    """Return the cells in the order in which they are computed."""
    return [Cell(r, s, f, seed) for r, seed, s, f in itertools.product(ratios, seeds, scores, refinements)]


def run(experiment: Experiment, wanted: Sequence[Cell], *, jobs: int) -> list[Cell]:
    """Compute the cells that have no file, ``jobs`` at a time, until the deadline; return those that are left."""
    left = [cell for cell in wanted if not _is_done(experiment, cell)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda cell: _attempt(experiment, cell), left))
    return [cell for cell in left if not _is_done(experiment, cell)]


def _attempt(experiment: Experiment, cell: Cell) -> None:
    torch.set_num_threads(1)  # the cells themselves run in parallel
    if time.monotonic() >= experiment.deadline:
        return
    with _own_stream(experiment.device):
        try:
            document = compute(experiment, cell)
        except OutOfTimeError:
            return
    write_json(experiment.out / "cells" / f"{cell.name}.json", document)
    shutil.rmtree(_partial(experiment, cell), ignore_errors=True)
    shown = ", ".join(f"{name} {document['curve'][-1][name]:.4g}" for name in ("fid", "recall", "l1_to_teacher"))
    print(f"{cell.name}: {document['seconds']:.0f} s, {shown}", file=sys.stderr)


def compute(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """Prune, distil and measure one cell. OutOfTimeError when the deadline comes first."""
    begin = time.monotonic()
    subject, teacher = experiment.subject, experiment.subject.teacher
    planned = plan(teacher, scores_of(experiment, cell.score, cell.seed), ratio=cell.ratio, align=8)
    student = prune(teacher, planned, refine=cell.refine, seed=cell.seed)

    def watch(step: int, total: int, losses: Mapping[str, float]) -> None:
        if time.monotonic() >= experiment.deadline and step < total:
            raise OutOfTimeError

    def measure(generator: Generator) -> dict[str, float]:
        elapsed = time.monotonic() - begin
        return {**subject.figures(generator, experiment.samples, cell.seed), "seconds": round(elapsed, 3)}

    result = distill(
        student,
        teacher,
        config=experiment.recipe(cell.seed),
        data=subject.data,
        perceptual=subject.perceptual,
        checkpoint_dir=_partial(experiment, cell),
        on_step=watch,
        measure=measure,
        measure_at=sorted({round(share * experiment.steps) for share in subject.measured}),
    )
    save_picture(pictures(result.generator), experiment.out / "pictures" / f"{cell.name}.png")
    return {
        "schema": 1,
        "cell": asdict(cell),
        "settings": experiment.settings(),
        "widths": list(planned.widths),
        "curve": result.history,
        "seconds": round(time.monotonic() - begin, 2),
        "environment": asdict(capture_environment()),
    }


@torch.no_grad()
def pictures(generator: Generator) -> NDArray[np.uint8]:
    """Return images of the same ten latents for every cell, in one row [H, W, 3]."""
    z = torch.randn(PICTURES, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    images = generator(z.to(next(generator.parameters()).device))
    return grid(as_uint8(images.cpu().numpy()), columns=PICTURES)


_SCORING = threading.Lock()


def scores_of(experiment: Experiment, name: str, seed: int) -> ChannelScores:
    """Return the scores of the teacher by a method or one of :data:`VARIANTS`, computed once and kept in a file."""
    settings = VARIANTS.get(name, {"method": name})
    latents = CHANGE_LATENTS if settings["method"] in CHANGES else SCORE_LATENTS
    path = experiment.out / "scores" / f"{name}-{seed}.safetensors"
    with _SCORING:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_scores(score(experiment.subject.teacher, latents=latents, seed=seed, **settings), path)
        return load_scores(path)


def _partial(experiment: Experiment, cell: Cell) -> Path:
    return experiment.out / "partial" / cell.name


def _is_done(experiment: Experiment, cell: Cell) -> bool:
    """Return whether the cell has a file with the same settings."""
    path = experiment.out / "cells" / f"{cell.name}.json"
    return path.exists() and read_json(path)["settings"] == experiment.settings()


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    """Give the thread its own stream on a GPU, so that the small kernels of several cells overlap."""
    if torch.device(device).type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield


def recipe_changes(texts: Sequence[str], recipe: DistillConfig) -> dict[str, Any]:
    """Parse "optimizer=adam", "rare=0.5". Raises UsageError for what ``recipe`` cannot have."""
    known = {one.name for one in fields(DistillConfig)} - {"steps", "seed"}  # these have flags of their own
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise UsageError(f"--recipe {text}", f"Write NAME=VALUE, with one of: {', '.join(sorted(known))}.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    replace(recipe, **found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the cells; return 0 when every cell is done, 130 when some are left for another run."""
    parser = argparse.ArgumentParser(prog="python -m dcp_deploy.benchmarks.experiments.quality", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for scores, checkpoints and cells")
    parser.add_argument("--teacher", type=Path, help="a checkpoint, with --data (the demo's teacher)")
    parser.add_argument("--data", type=Path, help="real images of that teacher: a folder, a zip file or an LMDB")
    parser.add_argument("--effort", choices=[*RECIPES], default="quick", help="recipe of distillation (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of distillation (the recipe's)")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="NAME=VALUE", help="other numbers of the recipe")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images per measurement (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--scores", nargs="+", default=SCORES)
    parser.add_argument("--refinements", nargs="+", default=REFINEMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args(arguments)
    unknown = set(options.scores) - set(get_args(ScoreMethod)) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown scores {sorted(unknown)}; known: {', '.join([*get_args(ScoreMethod), *VARIANTS])}")
    if (options.teacher is None) != (options.data is None):
        parser.error("--teacher and --data belong together: the figures compare its students with real images")
    try:
        changes = recipe_changes(options.recipe, RECIPES[options.effort])
    except UsageError as error:
        parser.error(f"{error}. {error.remedy}")
    deadline = time.monotonic() + options.seconds
    # The reference statistics were computed in full float32, so TensorFloat-32 would bias the comparison.
    torch.backends.cudnn.allow_tf32 = False
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    if options.teacher is None:
        subject = demo(options.device)
    else:
        subject = photographs(options.teacher, options.data, options.out / "features", options.device)
    steps = options.steps or subject.recipes[options.effort].steps
    experiment = Experiment(
        options.out, subject, options.device, steps, options.samples, deadline, options.effort, changes
    )
    figures = subject.figures(subject.teacher, options.samples, 0)
    save_picture(pictures(subject.teacher), options.out / "pictures" / "teacher.png")
    teacher = {"figures": figures, "settings": {"samples": options.samples}}
    write_json(options.out / "teacher.json", teacher)  # also reads the real images, before the cells share them
    wanted = cells(options.ratios, options.scores, options.refinements, options.seeds)
    left = run(experiment, wanted, jobs=options.jobs)
    print(f"{len(wanted) - len(left)} of {len(wanted)} cells done", file=sys.stderr)
    return 130 if left else 0


if __name__ == "__main__":
    sys.exit(main())
