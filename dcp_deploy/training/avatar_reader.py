"""Train the avatar reader: ``python -m dcp_deploy.training.avatar_reader``. Takes a few minutes on one core.

Every batch holds fresh portraits. In half of them all values of a categorical factor are equally likely, because rare
values would hardly be seen otherwise. Blur, noise and small changes of brightness prepare it for the slightly soft
images of a generator. It also learns to estimate softness and grain, so that its features represent them. The errors on
held-out portraits are written to the file's metadata.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.factors import FACTORS, Factors, encode, factors_from_uniforms, sample_factors, visible
from ..datasets.portrait import avatars, render
from ..files import write_bytes
from ..metrics.features import ASSET, DEFECTS, AvatarReader, images_to_tensor, reading_errors

_HELD_OUT_SEED = 0x5EED  # portraits neither trained on nor used for evaluation (seed 0)


def train_reader(*, steps: int = 1500, batch: int = 64, lr: float = 2e-3, seed: int = 0) -> AvatarReader:
    """Train from scratch on ``steps`` batches and return the exponential average of the weights, frozen."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reader = AvatarReader()
    average = copy.deepcopy(reader).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    for step in range(steps):
        factors = _draw_factors(rng, batch)
        images, defects = degrade(images_to_tensor(render(factors)), rng)
        outputs = reader(images)
        blemish = (outputs[:, -DEFECTS:] - defects).square().sum(dim=1).mean()
        loss = reading_loss(outputs, factors) + blemish
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        _follow(average, reader)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}  loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return average


def reading_loss(outputs: Tensor, factors: Factors) -> Tensor:
    """Return squared errors of values and (sin, cos) plus cross entropies of categories, without hidden factors."""
    target = torch.from_numpy(encode(factors))
    total = outputs.new_zeros(())
    start = 0
    for factor in FACTORS:
        part = slice(start, start + factor.width)
        start += factor.width
        if factor.kind == "categorical":
            labels = torch.from_numpy(factors.labels(factor.name))
            total = total + 0.5 * nn.functional.cross_entropy(outputs[:, part], labels, label_smoothing=0.01)
        else:
            seen = torch.from_numpy(visible(factors, factor.name).astype(np.float32))
            total = total + ((outputs[:, part] - target[:, part]).square().mean(dim=1) * seen).mean()
    return total


def degrade(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Degrade images [B, 3, H, W]: mix each with a blurred and a half-resolution copy; change contrast, brightness and
    noise. A quarter stays unchanged. Also return the defects [B, 2]: softness and grain from 0 (none) to 1."""
    count = images.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, size=(count, 1, 1, 1)).astype(np.float32))

    blurred = nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    halved = nn.functional.interpolate(nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    softness, grain = uniform(0.0, 1.0), uniform(0.0, 1.0)
    soft = images.lerp(blurred, softness).lerp(halved, 0.6 * softness * uniform(0.0, 1.0))
    soft = soft * uniform(0.92, 1.08) + uniform(-0.06, 0.06)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    soft = (soft + 0.08 * grain * noise).clamp(-1.0, 1.0)
    spared = uniform(0.0, 1.0) < 0.25
    defects = torch.cat([softness, grain], dim=1).flatten(1).masked_fill(spared.flatten(1), 0.0)
    return torch.where(spared, images, soft), defects


def held_out_errors(reader: AvatarReader, count: int = 2000) -> dict[str, float]:
    """Return the :func:`reading_errors` on portraits that were neither trained on nor degraded."""
    indices = np.arange(count)
    images = images_to_tensor(avatars(indices, _HELD_OUT_SEED))
    read = [reader.read(part).table for part in torch.split(images, 100)]
    return reading_errors(Factors(np.concatenate(read)), sample_factors(indices, _HELD_OUT_SEED))


@torch.no_grad()
def _follow(average: AvatarReader, reader: AvatarReader) -> None:
    """Update the exponential average over about 100 steps."""
    for slow, fast in zip(average.parameters(), reader.parameters(), strict=True):
        slow.lerp_(fast, 0.01)


def _rate(step: int, steps: int) -> float:
    """Return the learning-rate factor: a linear warm-up over 5 %, then half a cosine down to 1 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _draw_factors(rng: np.random.Generator, count: int) -> Factors:
    """Draw factors; half of the values of a categorical factor are uniform."""
    factors = factors_from_uniforms(rng.random((count, len(FACTORS))))
    for position, factor in enumerate(FACTORS):
        if factor.kind == "categorical":
            balanced = rng.integers(0, len(factor.values), size=count)
            factors.table[:, position] = np.where(rng.random(count) < 0.5, balanced, factors.table[:, position])
    return factors


def main() -> None:
    """Train, measure, and write the weights in half precision with errors and settings in the metadata."""
    from safetensors.torch import save

    parser = argparse.ArgumentParser(prog="python -m dcp_deploy.training.avatar_reader", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "assets" / ASSET)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reader = train_reader(steps=options.steps, batch=options.batch, seed=options.seed)
    errors = held_out_errors(reader)
    state = {name: tensor.half().contiguous() for name, tensor in reader.state_dict().items()}
    settings = {"steps": options.steps, "batch": options.batch, "seed": options.seed}
    write_bytes(options.out, save(state, {"errors": json.dumps(errors), "settings": json.dumps(settings)}))
    for name, value in errors.items():
        print(f"{name:24s} {value:.4f}")


if __name__ == "__main__":
    main()
