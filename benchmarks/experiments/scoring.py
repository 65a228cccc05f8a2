"""Measure how much faster our diversity score is than the plain loop of its definition.

    python -m dcp_deploy.benchmarks.experiments.scoring TEACHER --out FILE

    repeat: time the plain loop and our score in turn, on the same mini-batches

The plain loop generates both images and differentiates their loss for each direction of each mini-batch. Both use the
same random draws (batches and directions, repetitions included), so their scores must agree; the result says how well.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import load_generator
from ...compression.scoring.channel_scores import ChannelScores
from ...compression.scoring.directions import principal_directions
from ...compression.scoring.diversity import batch_sizes
from ...compression.scoring.gradients import gradient_profiles_by_definition, scored_weights
from ...compression.scoring.methods import score
from ...files import write_json
from ...generators import Generator
from ...generators.latents import draw_latents, stream
from ..machine.environment import capture_environment
from ..statistics import ratio_of_medians, summarise

BATCH, DIRECTIONS, ALPHA = 5, 10, 5.0  # the published settings


def plain_scores(generator: Generator, latents: int, seed: int = 0) -> list[Tensor]:
    """Return the diversity scores of the plain loop, float64 [C] per layer. ``generator`` is not changed."""
    generator = copy.deepcopy(generator).eval().requires_grad_(False)
    weights = scored_weights(generator)
    for weight in weights:
        weight.requires_grad_(True)
    device = weights[0].device
    components, shares = principal_directions(generator, seed)
    totals = [torch.zeros(width, dtype=torch.float64) for width in generator.widths]
    for index, size in enumerate(batch_sizes(latents, BATCH)):
        source = stream(seed, "score", index)
        z, c = draw_latents(generator.config, size, source)
        chosen = torch.multinomial(shares, DIRECTIONS, replacement=True, generator=source)
        with torch.no_grad():
            ws = generator.mapping(z.to(device), None if c is None else c.to(device))
        offsets = ALPHA * components[chosen].to(device)
        for total, profile in zip(
            totals, gradient_profiles_by_definition(generator, weights, ws, offsets), strict=True
        ):
            total += (profile.var(dim=0, correction=0) * DIRECTIONS).cpu()
    return totals


def largest_difference(scores: ChannelScores, reference: Sequence[Tensor]) -> float:
    """Return the largest difference between two scores of a channel, as a share of its layer's largest score."""
    layers = zip(scores.scores, reference, strict=True)
    return max(float((actual - expected).abs().max() / expected.max()) for actual, expected in layers)


def measure(generator: Generator, latents: int, rounds: int) -> dict[str, Any]:
    """Time both in turn; return milliseconds of clock and processor, their ratios, and the scores' difference."""
    methods: dict[str, Callable[[], object]] = {
        "plain": partial(plain_scores, generator, latents),
        "score": partial(score, generator, latents=latents, method="diversity"),
    }
    difference = largest_difference(
        score(generator, latents=latents, method="diversity"), plain_scores(generator, latents)
    )  # warms up too
    clock: dict[str, list[float]] = {"plain": [], "score": []}
    processor: dict[str, list[float]] = {"plain": [], "score": []}
    for _ in range(rounds):
        for name, run in methods.items():
            start = time.perf_counter(), time.process_time()
            run()  # its last sums are on the host, so a GPU has finished
            clock[name].append(1000 * (time.perf_counter() - start[0]))
            processor[name].append(1000 * (time.process_time() - start[1]))
    return {
        "latents": latents,
        "distinct_directions": distinct_directions(generator),
        "largest_difference": difference,
        "clock_ms": clock,
        "processor_ms": processor,
        "speedup": asdict(ratio_of_medians(clock["plain"], clock["score"])),
        "processor_speedup": asdict(ratio_of_medians(processor["plain"], processor["score"])),
    }


def distinct_directions(generator: Generator) -> float:
    """Return the expected number of distinct directions in a mini-batch: ``sum_j 1 - (1 - p_j)^N``."""
    _, shares = principal_directions(generator, seed=0)
    return float((1 - (1 - shares) ** DIRECTIONS).sum())


def table(result: dict[str, Any]) -> str:
    """Return medians, ratios with their intervals, and the number of distinct directions, which explains the ratio."""
    lines = [f"{'':6} {'clock ms':>9} {'processor ms':>13}"]
    for name in ("plain", "score"):
        times = (summarise(result[kind][name]).p50_ms for kind in ("clock_ms", "processor_ms"))
        lines.append("{:6} {:9.0f} {:13.0f}".format(name, *times))
    for kind in ("speedup", "processor_speedup"):
        lines.append("{}: {value:.2f} ({low:.2f} to {high:.2f})".format(kind.replace("_", " "), **result[kind]))
    lines.append(f"{result['distinct_directions']:.1f} of {DIRECTIONS} directions differ on average")
    lines.append(f"largest difference of a score: {result['largest_difference']:.1e} of its layer's largest")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The diversity score against its plain loop, in one run.")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--latents", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    result = measure(load_generator(arguments.teacher), arguments.latents, arguments.rounds)
    write_json(
        arguments.out, {"environment": asdict(capture_environment()), "teacher": str(arguments.teacher), **result}
    )
    print(table(result))


if __name__ == "__main__":
    main()
