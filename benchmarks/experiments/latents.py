"""Do latents stay usable under the demo's recipe? Today's recipe and the previous one, in pairs.

    python -m dcp_deploy.benchmarks.experiments.latents --out DIR

For each seed one student is pruned as ``build`` does, then distilled twice: by today's recipe (Muon and momentum
0.9, half of the steps mix latents), and by the one up to commit 4f07851 (Adam, momentum 0, 90 %). Both begin with the
same weights and take the same steps. The figures of ``compare_latents`` are printed as a Markdown table and written
into DIR/latents.json. The students stay in DIR, and the same command continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...checkpoints import load_generator, save_generator
from ...compression import distill, plan, prune, score
from ...efforts import ALIGN, EFFORTS, RATIO, REFINE, SCORE
from ...evaluation.latents import LatentReport, compare_latents, factor_directions
from ...files import write_json
from ...generators import Generator
from ...metrics.evaluate import read_images
from .subjects import Subject, demo

RECIPES_COMPARED: dict[str, dict[str, Any]] = {
    "previous": {"beta1": 0.0, "optimizer": "adam", "mixing": 0.9},
    "today": {},
}
"""What each differs in from the recipe of the effort quick."""
SEEDS = (0, 1)
STEPS = 300
LATENTS = 24
SAMPLES = 1000  # images of the teacher that the directions of its factors come from
FIGURES: dict[str, Callable[[LatentReport], float | None]] = {
    "edits, correlation": lambda found: found.edits.correlation,
    "edits, slope": lambda found: found.edits.slope,
    "own codes, L1": lambda found: found.own.l1,
    "teacher's w codes, L1": lambda found: found.teacher_w.l1,
    "mixed codes, L1": lambda found: found.mixed.l1,
    "inverted images, MSE": lambda found: None if found.inversion is None else found.inversion.mse,
}


def students(subject: Subject, out: Path, seed: int, steps: int) -> dict[str, Generator]:
    """Return the students of one seed by recipe; those without a file in ``out`` are distilled first."""
    files = {name: out / f"{name}-{seed}-{steps}.safetensors" for name in RECIPES_COMPARED}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        pruned = _pruned(subject.teacher, seed)
    for name in missing:
        result = distill(
            pruned,
            subject.teacher,
            config=replace(subject.recipe("quick", steps, seed), **RECIPES_COMPARED[name]),
            perceptual=subject.perceptual,
            checkpoint_dir=out / "partial" / f"{name}-{seed}-{steps}",
        )
        save_generator(result.generator, files[name])
        print(f"{files[name].name} is made", file=sys.stderr)
    return {name: load_generator(file).eval().requires_grad_(False) for name, file in files.items()}


def _pruned(teacher: Generator, seed: int) -> Generator:
    """Return the teacher pruned as ``build`` does by default."""
    scores = score(teacher, method=SCORE, latents=EFFORTS["quick"].latents_for(SCORE), seed=seed)
    return prune(teacher, plan(teacher, scores, ratio=RATIO, align=ALIGN), refine=REFINE, seed=seed)


def table(reports: Mapping[str, LatentReport]) -> str:
    """Return the figures as a Markdown table, with a column for each student."""
    rows = [["", *reports], ["---"] * (len(reports) + 1)]
    for name, figure in FIGURES.items():
        rows.append([name, *(_written(figure(report)) for report in reports.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _written(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the students that are missing, measure all, print the table."""
    parser = argparse.ArgumentParser(prog="python -m dcp_deploy.benchmarks.experiments.latents", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for students and figures")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of distillation (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args(arguments)
    subject = demo("cpu")
    teacher = subject.teacher
    factors = factor_directions(teacher, read_images(teacher, samples=SAMPLES))
    reports: dict[str, LatentReport] = {}
    for seed in options.seeds:
        for name, student in students(subject, options.out, seed, options.steps).items():
            reports[f"{name}, seed {seed}"] = compare_latents(student, teacher, factors=factors, latents=LATENTS)
    document: dict[str, Any] = {
        "schema": 1,
        "steps": options.steps,
        "latents": {name: one.to_dict() for name, one in reports.items()},
    }
    write_json(options.out / "latents.json", document)
    print(table(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
