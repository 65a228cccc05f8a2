"""Likeness of a student's images to its teacher's, and diversity of the images around one latent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..datasets.labels import Labels
from ..errors import QualityError, UsageError
from ..progress import Progress
from ..sizes import pixels
from .drawing import Latents, Model, draw, latents_for, shape_of

LARGEST = 10_000  # most images compared with a teacher's, as in the published protocol
SEEDS, NEIGHBOURS, REACH = 100, 8, 0.5
COLLAPSED = 4 * 2 / 255  # a change of 4 levels of 255 anywhere, which the eye does not see

ImageDistance = Callable[[Tensor, Tensor], Tensor]
"""Function from two batches [B, 3, H, W] in [-1, 1] to distances [B], such as LPIPS."""


@dataclass(frozen=True)
class Likeness:
    """Mean distances over ``samples`` pairs of images from the same latents. ``l1``: mean absolute difference of values
    in [-1, 1], so in [0, 2]. ``lpips`` is None if it was not measured."""

    l1: float
    lpips: float | None
    samples: int


@dataclass(frozen=True)
class SeedDiversity:
    """Mean distance between two images in the neighbourhood of one seed, averaged over seeds; in the units of
    :class:`Likeness`. ``largest``: the largest difference of any two values of such images, in [0, 2]."""

    l1: float
    lpips: float | None
    largest: float
    seeds: int
    neighbours: int
    reach: float


def check_alike(model: Model, teacher: Model) -> None:
    """Raise UsageError unless both take the same latents and make images of the same size."""
    mine, others = shape_of(model), shape_of(teacher)
    for name in ("z_dim", "c_dim", "image_size"):
        found = [getattr(one, name) for one in (mine, others)]
        if found[0] != found[1]:
            values = map(pixels, found) if name == "image_size" else found
            raise UsageError(
                "the model's {} is {}, the teacher's {}".format(name.replace("image_size", "image size"), *values),
                "Give the teacher that the student was made from.",
            )


def likeness(
    model: Model,
    teacher: Model,
    *,
    samples: int,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = 32,
    labels: Labels | None = None,
    lpips: ImageDistance | None = None,
    progress: Progress | None = None,
) -> Likeness:
    """Compare the images that both models make from the same latents (at most 10,000) with constant noise.

    ``labels``: see :func:`~.drawing.latents_for`. Raises UsageError unless both take the same latents and make images
    of the same size.
    """
    check_alike(model, teacher)
    samples = min(samples, LARGEST)
    latents = latents_for(model, samples, seed, labels)
    sums = torch.zeros(2, dtype=torch.float64)
    batches = zip(
        draw(model, latents, psi=psi, batch=batch),
        draw(teacher, latents, psi=psi, batch=batch, progress=progress),
        strict=True,
    )
    for a, b in batches:
        sums += _distances(a, b.to(a.device), lpips)
    l1, perceptual = (sums / samples).tolist()
    return Likeness(l1, perceptual if lpips else None, samples)


def seed_diversity(
    model: Model,
    *,
    seeds: int = SEEDS,
    neighbours: int = NEIGHBOURS,
    reach: float = REACH,
    seed: int = 0,
    psi: float = 1.0,
    labels: Labels | None = None,
    lpips: ImageDistance | None = None,
    progress: Progress | None = None,
) -> SeedDiversity:
    """Measure intra-seed diversity: how different the images around one latent are.

    Around each of ``seeds`` latents z it draws ``neighbours`` latents √(1 - r²) z + r e with e ~ N(0, I) and r =
    ``reach``. Each is again a sample of N(0, I), so the images are typical of the model. All pairs of a seed are
    compared. DCP-GAN's pruning tries to keep this response of the image to a step of the latent (Chung et al. 2024,
    Diversity-aware Channel Pruning, figure 1). The steps are in z because exported files take z. The definition is
    ours; compare teacher and student at equal settings. ``labels``: see :func:`~.drawing.latents_for`.

    Raises UsageError for fewer than 1 seed or 2 neighbours, or a reach outside (0, 1].
    """
    if seeds < 1 or neighbours < 2 or not 0.0 < reach <= 1.0:
        raise UsageError(
            f"diversity cannot be measured around {seeds} seeds with {neighbours} neighbours and reach {reach:g}",
            "Choose at least 1 seed and 2 neighbours, and a reach above 0 and at most 1.",
        )
    centres = latents_for(model, seeds, seed, labels)
    steps = torch.randn(seeds, neighbours, centres.z.shape[1], generator=torch.Generator().manual_seed(seed + 2))
    z = math.sqrt(1.0 - reach**2) * centres.z[:, None] + reach * steps
    c = None if centres.c is None else centres.c.repeat_interleave(neighbours, dim=0)
    sums, largest = torch.zeros(2, dtype=torch.float64), 0.0
    first, second = torch.triu_indices(neighbours, neighbours, offset=1)
    around = Latents(z.flatten(0, 1), c)
    for images in draw(model, around, psi=psi, batch=neighbours, progress=progress):  # one batch per seed
        sums += _distances(images[first], images[second], lpips) / len(first)
        largest = max(largest, float((images.amax(dim=0) - images.amin(dim=0)).max()))
    l1, perceptual = (sums / seeds).tolist()
    return SeedDiversity(l1, perceptual if lpips else None, largest, seeds, neighbours, reach)


def has_collapsed(model: Model, *, seed: int = 0, labels: Labels | None = None) -> bool:
    """Whether the model makes the same image from all latents (of a class), up to 4 levels of 255 in any pixel.

    Looks at the neighbourhoods of 4 seeds at psi 1. Images of little diversity differ by far more in some pixel.
    """
    return seed_diversity(model, seeds=4, seed=seed, labels=labels).largest <= COLLAPSED


def collapse() -> QualityError:
    """Return the error that names a collapsed generator."""
    return QualityError(
        "the generator has collapsed: it makes the same image, whatever the latent is",
        "Look at it with dcp-deploy sample. If distilling ended so, distil again with a lower learning rate.",
    )


@torch.no_grad()
def _distances(a: Tensor, b: Tensor, lpips: ImageDistance | None) -> Tensor:
    """Return the sums over the batch of L1 and LPIPS (0 if not measured), float64 [2]."""
    l1 = (a - b).abs().double().mean(dim=(1, 2, 3)).sum()
    perceptual = lpips(a, b).double().sum() if lpips else torch.zeros((), dtype=torch.float64)
    return torch.stack([l1.cpu(), perceptual.cpu()])
