"""Adaptive augmentation: change what a discriminator sees, more strongly if it overfits to its images.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (ADA). Real and generated images pass
through random changes, each with probability p, before any discriminator sees them. p follows r = E[sign(D(real))],
which is near 0 while real images are new to the discriminator, and 1 once it has memorised them.

The generator must not learn the changes themselves ("leaking"). It cannot as long as the distribution of changed images
determines the distribution of images (section 2.2). The changes of each kind here are a commutative group that acts on
images: mirroring, quarter turns, shifts around the border, sums with a grey, products of contrast and of saturation.
With probability p they multiply every Fourier coefficient of the distribution over their group by 1 - p + p phi, where
phi is the coefficient of the changes' own distribution. What is not multiplied by 0 can be recovered:

- mirroring or not, and one of four turns, evenly: phi = 0, so 1 - p is above 0 for every p < 1;
- the normal brightness and the log-normal factors: phi > 0, above 0 for every p < 1;
- shifts, along both axes evenly in +-m and rounded, m = R / 8: phi is a product over the axes, each factor
  sin(m k) / (2 m tan(k / 2)), which is at most 1 and at least the lowest value of sin(x) / x, -0.2172: above 0 for
  p < 1 / 1.2172 = 0.82.

So p stays at 0.8 at most, up to which the paper also found its changes safe. The paper fills the empty border of a
shift by reflection; around the border, shifts are a group, and this proof holds. The paper's scalings and rotations by
other angles are left out, although it found them useful: they resample pixels and so are not a group on them. Its
filters, noise and cutout are left out because it found them of little use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_P = 0.8
ADJUST_INTERVAL = 4  # steps between two adjustments, as published
SHIFT = 1 / 8  # largest shift in either direction, as a share of the image's side
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # standard deviations: of a sum, and of two factors' log2


@dataclass
class Augmentation:
    """The probability of each change, and the signs of the discriminator's logits since the last adjustment."""

    p: float = 0.0
    signs: float = 0.0  # summed over ``steps`` steps, each a mean over its batch
    steps: int = 0

    def adapt(self, sign: float, *, target: float, batch: int, images: float) -> None:
        """Record the mean sign of the logits of a step's ``batch`` real images, in [-1, 1].

        Every fourth step p rises if the mean of these signs is above ``target``, else it falls, at a rate that would
        take it from 0 to 1 in ``images`` images. It stays within 0 and 0.8.
        """
        self.signs += sign
        self.steps += 1
        if self.steps == ADJUST_INTERVAL:
            step = self.steps * batch / images
            self.p = min(max(self.p + (step if self.signs / self.steps > target else -step), 0.0), MAX_P)
            self.signs, self.steps = 0.0, 0


@dataclass(frozen=True)
class Changes:
    """The changes of each of B images."""

    mirrored: Tensor  # [B], bool
    turns: Tensor  # [B], int64: quarter turns, 0 to 3, for rectangles 0 or 2
    shifts: Tensor  # [B, 2], int64: pixels down and right, around the border
    colours: Tensor  # [B, 3]: grey to add, contrast and saturation to multiply by


def draw_changes(p: float, size: tuple[int, int], sources: Sequence[torch.Generator]) -> Changes:
    """Draw the changes of one image of ``size`` (height, width) from each of ``sources``.

    The random numbers do not depend on ``p``. A rectangle is only turned by half, which keeps its shape.
    """
    taken, even = (torch.stack([torch.rand(6, generator=source) for source in sources]) for _ in range(2))
    normal = torch.stack([torch.randn(3, generator=source) for source in sources])
    chosen = taken < p
    shifts = ((2 * even[:, 2:4] - 1) * SHIFT * torch.tensor(size)).round().long()
    sums, factors = BRIGHTNESS * normal[:, :1], torch.exp2(normal[:, 1:] * torch.tensor([CONTRAST, SATURATION]))
    turns = (4 * even[:, 1]).long() if size[0] == size[1] else 2 * (2 * even[:, 1]).long()
    neutral = torch.tensor([0.0, 1.0, 1.0])
    return Changes(
        mirrored=chosen[:, 0] & (even[:, 0] < 0.5),
        turns=torch.where(chosen[:, 1], turns, 0),
        shifts=torch.where(chosen[:, 2:3], shifts, 0),
        colours=torch.where(chosen[:, 3:], torch.cat([sums, factors], dim=1), neutral),
    )


def augment(images: Tensor, changes: Changes) -> Tensor:
    """Change images [B, 3, H, W], differentiably: move pixels, then apply brightness, contrast and saturation.

    Contrast scales about 0, the middle of [-1, 1], saturation about each pixel's mean. Clamping would leak.
    """
    moves = zip(images, changes.mirrored.tolist(), changes.turns.tolist(), changes.shifts.tolist(), strict=True)
    moved = torch.stack(
        [
            torch.rot90(image.flip(2) if mirrored else image, turns, (1, 2)).roll(tuple(shift), (1, 2))
            for image, mirrored, turns, shift in moves
        ]
    )
    grey, contrast, saturation = (x[:, None, None, None] for x in changes.colours.to(images).unbind(dim=1))
    lit = (moved + grey) * contrast
    return lit + (saturation - 1) * (lit - lit.mean(dim=1, keepdim=True))
