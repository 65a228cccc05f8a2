"""The latents of one step, and the noise that goes with each of them, whatever part of the batch it is drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...generators import Generator
from ...generators.latents import draw_latents, stream
from . import losses
from .real_images import real_batch
from .state import TrainingSetup, TrainingState


@dataclass(frozen=True)
class Batch:
    """Latents of one step: two codes per sample, mixed from slot ``crossover`` on, and the offset to move them by."""

    z: Tensor
    z_mixed: Tensor
    c: Tensor | None
    crossover: Tensor  # [], int64
    offset: Tensor  # [B, 1, w_dim]
    places: tuple[int, ...] = ()
    """Where each sample stands in the step's whole batch, which decides its noise."""

    def ws(self, generator: Generator) -> Tensor:
        """The batch's codes [B, num_ws, w_dim] by this generator's mapping network."""
        ws: Tensor = generator.mapping(self.z, self.c)
        slots = torch.arange(ws.shape[1], device=ws.device)
        return torch.where((slots < self.crossover)[:, None], ws, generator.mapping(self.z_mixed, self.c))

    def part(self, index: int, count: int) -> Batch:
        """Every ``count``-th sample from ``index`` on.

        The groups of a batch (:func:`.losses.relation_loss`, the discriminator's minibatch deviation) are spread over
        it, so that a part taken like this consists of whole groups.
        """
        if count == 1:
            return self
        chosen = slice(index, None, count)
        c = None if self.c is None else self.c[chosen]
        z, mixed, offset = self.z[chosen], self.z_mixed[chosen], self.offset[chosen]
        return Batch(z, mixed, c, self.crossover, offset, self.places[chosen])

    def parts(self, count: int) -> list[Batch]:
        """All of them."""
        return [self.part(index, count) for index in range(count)]

    def to(self, device: torch.device) -> Batch:
        """A copy there."""
        z, mixed, crossover, offset = (x.to(device) for x in (self.z, self.z_mixed, self.crossover, self.offset))
        return Batch(z, mixed, None if self.c is None else self.c.to(device), crossover, offset, self.places)

    def copy_(self, other: Batch) -> None:
        """Take over the values of a batch of the same shape."""
        for name in ("z", "z_mixed", "c", "crossover", "offset"):
            if getattr(self, name) is not None:
                getattr(self, name).copy_(getattr(other, name))


def draw_batch(run: TrainingSetup, step: int) -> Batch:
    """This process's share of the latents of a step, on the CPU."""
    config, generator_config = run.config, run.teacher.config
    source = stream(config.seed, "latents", step)
    z, c = draw_latents(generator_config, config.batch, source)
    z_mixed = torch.randn(z.shape, generator=source)
    mix = float(torch.rand([], generator=source)) < config.mixing
    slot = torch.randint(1, generator_config.num_ws, [], generator=source)
    offset = losses.draw_offsets(run.directions, config.batch, source)[:, None]
    # With the crossover at the last slot nothing is mixed.
    crossover = slot if mix else torch.tensor(generator_config.num_ws)
    whole = Batch(z, z_mixed, c, crossover, offset, tuple(range(config.batch)))
    return whole.part(run.team.rank, run.team.size)


def sample_streams(run: TrainingSetup, places: tuple[int, ...], *names: str | int) -> list[torch.Generator] | None:
    """A source of noise for each sample, by its place in the whole batch; None where no noise is drawn."""
    if run.config.noise != "random":
        return None
    return [stream(run.config.seed, *names, place) for place in places]


@dataclass(frozen=True)
class Drawn:
    """What the teacher and the student draw of the same latents: images, and features without and with offset."""

    image: Tensor
    features: dict[str, Tensor]
    moved: dict[str, Tensor]
    target: Tensor
    target_features: dict[str, Tensor]
    target_moved: dict[str, Tensor]


def draw_both(state: TrainingState, run: TrainingSetup, batch: Batch) -> Drawn:
    with torch.no_grad():
        of_teacher = _draw(run.teacher, batch, run, "teacher", state.step)
    return Drawn(*_draw(state.student, batch, run, "student", state.step), *of_teacher)


def _draw(
    generator: Generator, batch: Batch, run: TrainingSetup, name: str, step: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Images of the batch, and the features of the mimic layers: of the batch, and of the batch moved by its offset.

    No loss looks at the moved images themselves, so those stop after the last mimic layer.
    """
    config = run.config
    ws, how = batch.ws(generator), _how(run, batch, name, step)
    image, features = generator.synthesis.features(ws, **how)
    if not config.relation:
        return image, {}, {}
    names = losses.mimic_layers(generator.config)
    moved = generator.synthesis.features_until(ws + batch.offset, names[-1], **how)
    return image, {name: features[name] for name in names}, {name: moved[name] for name in names}


@torch.no_grad()
def draw_image(generator: Generator, batch: Batch, run: TrainingSetup, name: str, step: int) -> Tensor:
    """The images that :func:`_draw` gives, without features."""
    image: Tensor = generator.synthesis.features(batch.ws(generator), **_how(run, batch, name, step))[0]
    return image


def _how(run: TrainingSetup, batch: Batch, name: str, step: int) -> dict[str, Any]:
    """What the teacher or the student draws this batch with."""
    noise = sample_streams(run, batch.places, "noise", name, step)
    return {"noise": run.config.noise, "generator": noise, "dtype": run.config.dtype}


def real_images(state: TrainingState, run: TrainingSetup) -> tuple[Tensor, Tensor | None]:
    """This process's real images of the step and their labels; an unconditional discriminator gets none."""
    config = run.config
    assert run.data is not None
    images, c = real_batch(
        run.data,
        (state.step - config.first_gan_step) * config.batch,
        config.batch,
        seed=config.seed,
        resolution=run.teacher.config.resolution,
        mirror=config.mirror,
        part=slice(run.team.rank, None, run.team.size),
    )
    return images.to(run.device), None if c is None or not run.teacher.config.c_dim else c.to(run.device)
