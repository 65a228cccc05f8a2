"""What stays fixed while a student is distilled, and the processes that do it together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...generators import Discriminator, Generator
from ...metrics.published import Lpips
from ..masks import Mask
from . import losses
from .real_images import ImageSource
from .recipe import DistillConfig


@dataclass(frozen=True)
class Team:
    """The processes that train together: this one is ``rank`` of ``size``. ``add`` sums a tensor over all of them.

    Every process holds the same networks and takes every ``size``-th sample of a batch, from its rank on. All must call
    ``add``, and what uses it, equally often and in the same order.
    """

    rank: int = 0
    size: int = 1
    add: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each gradient over the processes, all in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        return flag if self.size == 1 else bool(self.add(torch.tensor(float(flag), device=device)).item())


ALONE = Team()


@dataclass(frozen=True)
class Run:
    """What stays fixed during a run."""

    config: DistillConfig
    teacher: Generator
    perceptual: losses.FeatureMaps | Lpips | None
    data: ImageSource | None
    directions: Tensor  # [n, w_dim]
    probe: tuple[Tensor, Tensor | None, Tensor]  # latents, classes, the teacher's images of them
    device: torch.device
    mask: Mask | None = None
    guide: Discriminator | None = None
    team: Team = ALONE

    def autocast(self) -> AbstractContextManager[None]:
        """For networks that are not ours: the run's precision, as far as autocast finds that safe."""
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.config.dtype)


def check_split(config: DistillConfig, devices: int, std_group: int) -> None:
    """Raise UsageError unless the batch can be split so that the parts' gradients add up to the whole batch's.

    The relation loss compares the images of a group with each other, and the discriminator's minibatch deviation is
    taken over groups of ``std_group``: every part must hold whole groups.
    """
    parts = devices * config.accumulate
    if parts == 1:
        return
    how = f"{devices} devices x {config.accumulate} parts in turn"
    if config.batch % parts or config.batch // parts < 2:
        raise UsageError(
            f"a batch of {config.batch} cannot be split evenly over {how}, two images or more in each",
            f"make batch a multiple of {2 * parts}",
        )
    groups = {"the relation loss": config.relation_group if config.relation else 1}
    groups["the discriminator"] = std_group if config.gan else 1
    for who, group in groups.items():
        if config.batch // parts % group:
            raise UsageError(
                f"{who} looks at groups of {group} images, and {how} leave {config.batch // parts} of a batch of "
                f"{config.batch} in each",
                f"make batch a multiple of {group * parts}, or use fewer parts",
            )
