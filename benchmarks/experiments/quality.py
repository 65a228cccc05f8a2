"""Which scores and refinements keep the diversity of the demo teacher: the experiment, cell by cell.

    python -m dcp_deploy.benchmarks.experiments.quality --out DIR

A cell is one pruned student, distilled by the quick recipe and measured on a schedule: ratio x score x refinement x
seed. A finished cell is a JSON file; a cell that was stopped goes on from its last checkpoint. They come in an order
that makes whatever is done a fair comparison: all scores and refinements of one seed before the next, the first ratio
before the second. Cells run side by side in threads: on a GPU each has a stream, so that their small kernels overlap.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...checkpoints import load_generator
from ...compression import RECIPES, ChannelScores, DistillConfig, distill, load_scores, plan, prune, save_scores, score
from ...compression.pruning.planning import Refinement
from ...compression.scoring.diversity import ScoreMethod
from ...export.runners.sampling import as_uint8, grid, save_png
from ...files import read_json, write_json
from ...generators import Generator
from ...metrics import evaluate, load_avatar_reader
from ..machine.environment import capture_environment

RATIOS = (0.7, 0.85)
SCORES: tuple[ScoreMethod, ...] = ("random", "weight-out", "gradient", "diversity")
REFINEMENTS: tuple[Refinement, ...] = ("none", "svs", "reconstruct")
SEEDS = (0, 1, 2)
SCORE_LATENTS = 240
SAMPLES = 3000
MEASURED = (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)  # shares of the steps
PICTURES = 10
_SAVED = 4  # checkpoints in a cell's course
_BATCH = 250  # images drawn at once to measure


@dataclass(frozen=True)
class Cell:
    """One student of the experiment. The seed decides score, refinement and distillation."""

    ratio: float
    score: ScoreMethod
    refine: Refinement
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.ratio:g}-{self.score}-{self.refine}-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """What all cells share."""

    out: Path
    teacher: Generator
    device: str
    steps: int
    samples: int
    deadline: float
    """By the monotonic clock."""

    def settings(self) -> dict[str, Any]:
        """Everything that a cell's figures depend on beside the cell, ready for JSON."""
        numbers = {"steps": self.steps, "samples": self.samples, "score_latents": SCORE_LATENTS}
        return {**numbers, "recipe": asdict(recipe(self.steps, 0))}


class OutOfTimeError(Exception):
    """The budget is spent; the cell goes on next time."""


def cells(
    ratios: Sequence[float] = RATIOS,
    scores: Sequence[ScoreMethod] = SCORES,
    refinements: Sequence[Refinement] = REFINEMENTS,
    seeds: Sequence[int] = SEEDS,
) -> list[Cell]:
    """In the order in which they are computed."""
    return [Cell(r, s, f, seed) for r, seed, s, f in itertools.product(ratios, seeds, scores, refinements)]


def run(experiment: Experiment, wanted: Sequence[Cell], *, jobs: int) -> list[Cell]:
    """Compute those cells that have no file yet, ``jobs`` at a time, until the time is up; returns what is left."""
    left = [cell for cell in wanted if not _is_done(experiment, cell)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda cell: _attempt(experiment, cell), left))
    return [cell for cell in left if not _is_done(experiment, cell)]


def _attempt(experiment: Experiment, cell: Cell) -> None:
    torch.set_num_threads(1)  # of this thread: the cells are what runs in parallel
    if time.monotonic() >= experiment.deadline:
        return
    with _own_stream(experiment.device):
        try:
            document = compute(experiment, cell)
        except OutOfTimeError:
            return
    write_json(experiment.out / "cells" / f"{cell.name}.json", document)
    shutil.rmtree(_partial(experiment, cell), ignore_errors=True)
    last = document["curve"][-1]
    print(
        f"{cell.name}: {document['seconds']:.0f} s, FID {last['fid']:.2f}, recall {last['recall']:.3f}, "
        f"mode coverage {last['mode_coverage']:.3f}, L1 {last['l1_to_teacher']:.4f}",
        file=sys.stderr,
    )


def compute(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """Prune, distil and measure one cell; raises OutOfTimeError when the deadline comes first."""
    begin = time.monotonic()
    teacher = experiment.teacher
    planned = plan(teacher, scores_of(experiment, cell.score, cell.seed), ratio=cell.ratio, align=8)
    student = prune(teacher, planned, refine=cell.refine, seed=cell.seed)

    def watch(step: int, total: int, losses: Mapping[str, float]) -> None:
        if time.monotonic() >= experiment.deadline and step < total:
            raise OutOfTimeError

    def measure(generator: Generator) -> dict[str, float]:
        elapsed = time.monotonic() - begin
        return {**figures(generator, experiment.samples, cell.seed), "seconds": round(elapsed, 3)}

    result = distill(
        student,
        teacher,
        config=recipe(experiment.steps, cell.seed),
        perceptual=load_avatar_reader(experiment.device).pyramid,
        checkpoint_dir=_partial(experiment, cell),
        progress=watch,
        measure=measure,
        measure_at=sorted({round(share * experiment.steps) for share in MEASURED}),
    )
    save_png(pictures(result.generator), experiment.out / "pictures" / f"{cell.name}.png")
    return {
        "schema": 1,
        "cell": asdict(cell),
        "settings": experiment.settings(),
        "widths": list(planned.widths),
        "curve": result.history,
        "seconds": round(time.monotonic() - begin, 2),
        "environment": asdict(capture_environment()),
    }


def recipe(steps: int, seed: int) -> DistillConfig:
    """The quick recipe over so many steps."""
    saved = max(steps // _SAVED, 1)
    return replace(RECIPES["quick"], steps=steps, seed=seed, log_every=steps, checkpoint_every=saved)


def figures(generator: Generator, samples: int, seed: int) -> dict[str, float]:
    """What the curves show; rare values as their mean rate over the true one, at most 1 each ("rare_recall")."""
    metrics = evaluate(generator, samples=samples, seed=1000 + seed, batch=_BATCH)
    names = ("fid", "precision", "recall", "density", "coverage", "mode_coverage", "frequency_error")
    rare = [min(rate, 1.0) for rate in metrics.rare.values()]
    return {
        **{name: getattr(metrics, name) for name in names},
        "rare_recall": sum(rare) / len(rare),
        **{f"rare {name}": rate for name, rate in metrics.rare.items()},
    }


@torch.no_grad()
def pictures(generator: Generator) -> NDArray[np.uint8]:
    """Images of the first latents, the same for every cell, in a row [H, W, 3]."""
    z = torch.randn(PICTURES, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    images = generator(z.to(next(generator.parameters()).device))
    return grid(as_uint8(images.cpu().numpy()), columns=PICTURES)


_SCORING = threading.Lock()


def scores_of(experiment: Experiment, method: ScoreMethod, seed: int) -> ChannelScores:
    """Computed once and kept."""
    path = experiment.out / "scores" / f"{method}-{seed}.safetensors"
    with _SCORING:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            latents: int = SCORE_LATENTS
            save_scores(score(experiment.teacher, method=method, latents=latents, seed=seed), path)
        return load_scores(path)


def demo_teacher(device: str) -> Generator:
    """The shipped generator, frozen."""
    with as_file(files("dcp_deploy") / "assets" / "demo_teacher.safetensors") as path:
        return load_generator(path).to(device).eval().requires_grad_(False)


def _partial(experiment: Experiment, cell: Cell) -> Path:
    return experiment.out / "partial" / cell.name


def _is_done(experiment: Experiment, cell: Cell) -> bool:
    """Whether there is a file of the same settings."""
    path = experiment.out / "cells" / f"{cell.name}.json"
    return path.exists() and read_json(path)["settings"] == experiment.settings()


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    if torch.device(device).type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every cell is done, 130 when some are left for another run."""
    parser = argparse.ArgumentParser(prog="python -m dcp_deploy.benchmarks.experiments.quality", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where scores, checkpoints and cells are kept")
    parser.add_argument("--steps", type=int, default=RECIPES["quick"].steps, help="of distillation (%(default)s)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images per measurement (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start and go on no longer than this")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--scores", nargs="+", default=SCORES)
    parser.add_argument("--refinements", nargs="+", default=REFINEMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.seconds
    # TensorFloat-32 convolutions would be compared with a reference read in full precision.
    torch.backends.cudnn.allow_tf32 = False
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    experiment = Experiment(
        options.out, demo_teacher(options.device), options.device, options.steps, options.samples, deadline
    )
    teacher = {"figures": figures(experiment.teacher, options.samples, 0), "settings": {"samples": options.samples}}
    write_json(options.out / "teacher.json", teacher)  # reads the real images too, before the cells share them
    wanted = cells(options.ratios, options.scores, options.refinements, options.seeds)
    left = run(experiment, wanted, jobs=options.jobs)
    print(f"{len(wanted) - len(left)} of {len(wanted)} cells done", file=sys.stderr)
    return 130 if left else 0


if __name__ == "__main__":
    sys.exit(main())
