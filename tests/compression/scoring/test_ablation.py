"""Whether a score predicts the value of a channel: channels of the demo teacher are removed one at a time."""

from __future__ import annotations

import copy
from importlib.resources import as_file, files

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.compression import score
from dcp_deploy.generators import Generator
from dcp_deploy.metrics.likeness import seed_diversity


def without(teacher: Generator, layer: str, channel: int) -> Generator:
    """Return the teacher with one input channel of a layer removed."""
    changed = copy.deepcopy(teacher)
    dict(changed.synthesis.scored())[layer].weight[:, channel] = 0.0
    return changed


def test_losing_the_best_channels_costs_more_diversity_than_losing_the_worst() -> None:
    """Remove one channel at a time, in three layers of 64 or 128 channels, and sum the losses over the layers.

    The sum is needed because a single removed channel may make images a little more diverse by making them worse.
    """
    with as_file(files("dcp_deploy") / "assets" / "demo_teacher.safetensors") as path:
        teacher = load_generator(path).eval().requires_grad_(False)
    scores = score(teacher, latents=5, directions=4, seed=0, method="diversity").scores
    layers = ("b32.conv0", "b32.conv1", "b64.conv0")
    whole = seed_diversity(teacher, seeds=4, neighbours=4).l1
    lost = {"best": 0.0, "worst": 0.0}
    for (name, _), layer in zip(teacher.synthesis.scored(), scores, strict=True):
        if name in layers:
            for which, channel in (("best", int(layer.argmax())), ("worst", int(layer.argmin()))):
                changed = without(teacher, name, channel)
                lost[which] += whole - seed_diversity(changed, seeds=4, neighbours=4).l1
    assert lost["best"] > 0.005 * whole
    assert lost["best"] > 10 * abs(lost["worst"])
