"""The latents, noise and real images of one step, the same whatever parts its batch is split into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...generators import Generator
from ...generators.latents import draw_latents, stream
from . import losses
from .rare import with_rare
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
    """Position of each sample in the whole batch of the step, which decides its noise."""

    def ws(self, generator: Generator) -> Tensor:
        """Return the codes [B, num_ws, w_dim] from this generator's mapping network."""
        ws: Tensor = generator.mapping(self.z, self.c)
        slots = torch.arange(ws.shape[1], device=ws.device)
        return torch.where((slots < self.crossover)[:, None], ws, generator.mapping(self.z_mixed, self.c))

    def part(self, index: int, count: int) -> Batch:
        """Return every ``count``-th sample from ``index`` on.

        The groups of a batch (:func:`.losses.relation_loss`, the discriminator's minibatch deviation) are spread over
        it, so that such a part consists of whole groups.
        """
        if count == 1:
            return self
        chosen = slice(index, None, count)
        return self._map(lambda x: x[chosen] if x.ndim else x, self.places[chosen])

    def to(self, device: torch.device) -> Batch:
        """Return a copy on ``device``."""
        return self._map(lambda x: x.to(device), self.places)

    def copy_(self, other: Batch) -> None:
        """Copy the values of a batch of the same shape into this one."""
        for name in ("z", "z_mixed", "c", "crossover", "offset"):
            if getattr(self, name) is not None:
                getattr(self, name).copy_(getattr(other, name))

    def _map(self, change: Callable[[Tensor], Tensor], places: tuple[int, ...]) -> Batch:
        c = None if self.c is None else change(self.c)
        return Batch(change(self.z), change(self.z_mixed), c, change(self.crossover), change(self.offset), places)


def draw_batch(setup: TrainingSetup, step: int) -> Batch:
    """Draw this process's share of the latents of a step, on the CPU."""
    config, generator_config = setup.config, setup.teacher.config
    source = stream(config.seed, "latents", step)
    z, c = draw_latents(generator_config, config.batch, source)
    z_mixed = torch.randn(z.shape, generator=source)
    mix = float(torch.rand([], generator=source)) < config.mixing
    slot = torch.randint(1, generator_config.num_ws, [], generator=source)
    offset = losses.draw_offsets(setup.directions, config.batch, source)[:, None]
    # With the crossover at the last slot nothing is mixed.
    crossover = slot if mix else torch.tensor(generator_config.num_ws)
    if setup.distances is not None:
        z = with_rare(z, c, round(config.rare * config.batch), setup.teacher, setup.distances, source)
    whole = Batch(z, z_mixed, c, crossover, offset, tuple(range(config.batch)))
    return whole.part(setup.team.rank, setup.team.size)


def sample_streams(setup: TrainingSetup, places: tuple[int, ...], *names: str | int) -> list[torch.Generator] | None:
    """Return a random stream of noise for each sample, by its place in the whole batch; None without random noise."""
    if setup.config.noise != "random":
        return None
    return [stream(setup.config.seed, *names, place) for place in places]


@dataclass(frozen=True)
class Outputs:
    """Images of student and teacher for the same latents, and features for these latents and for the moved ones."""

    image: Tensor
    features: dict[str, Tensor]
    moved: dict[str, Tensor]
    target: Tensor
    target_features: dict[str, Tensor]
    target_moved: dict[str, Tensor]


def generate_both(state: TrainingState, setup: TrainingSetup, batch: Batch) -> Outputs:
    """Run student and teacher on the batch; only the student's outputs carry gradients."""
    features = setup.config.relation > 0
    with torch.no_grad():
        of_teacher = generate(setup.teacher, batch, setup, "teacher", state.step, features=features)
    return Outputs(*generate(state.student, batch, setup, "student", state.step, features=features), *of_teacher)


def generate(
    generator: Generator, batch: Batch, setup: TrainingSetup, name: str, step: int, *, features: bool
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return images of the batch and, if wanted, the mimic layers' features for it and for it moved by its offset.

    No loss uses the moved images themselves, so their computation stops after the last mimic layer.
    """
    ws, noise = batch.ws(generator), sample_streams(setup, batch.places, "noise", name, step)
    options: dict[str, Any] = {"noise": setup.config.noise, "generator": noise, "dtype": setup.config.dtype}
    image, outputs = generator.synthesis.features(ws, **options)
    if not features:
        return image, {}, {}
    names = losses.mimic_layers(generator.config)
    moved = generator.synthesis.features_until(ws + batch.offset, names[-1], **options)
    return image, {name: outputs[name] for name in names}, {name: moved[name] for name in names}


def real_images(state: TrainingState, setup: TrainingSetup) -> tuple[Tensor, Tensor | None]:
    """Return this process's real images of the step, and their labels if the discriminator is conditional."""
    config = setup.config
    assert setup.data is not None
    images, c = real_batch(
        setup.data,
        (state.step - config.first_gan_step) * config.batch,
        config.batch,
        seed=config.seed,
        resolution=setup.teacher.config.image_size,
        mirror=config.mirror,
        part=slice(setup.team.rank, None, setup.team.size),
    )
    return images.to(setup.device), None if c is None or not setup.teacher.config.c_dim else c.to(setup.device)
