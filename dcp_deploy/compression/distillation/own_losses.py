"""Losses by functions that users wrote: found once, called the same way in every step, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ...errors import UsageError
from ...extensions.functions import OwnFunction, find_function
from ...generators.latents import seeded
from .recipe import DistillConfig


@dataclass(frozen=True)
class OwnLoss:
    """A user's loss and its weight."""

    function: OwnFunction
    weight: float

    @property
    def label(self) -> str:
        """The name in the history."""
        return self.function.label

    def __call__(self, student: Tensor, teacher: Tensor, *, seed: int, step: int) -> Tensor:
        """Return the loss of images [B, 3, H, W], a scalar; random numbers depend on seed and step alone.

        Raises UsageError, which names the function, if it fails or returns something else. A loss that is not finite
        ends the training elsewhere, as every loss does.
        """
        with seeded(seed, "own loss", self.label, step):
            value = self.function(student, teacher)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            what = f"tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise self.function.refused(f"returned a {what}, not a scalar tensor of real numbers")
        if value.shape != ():
            raise self.function.refused(f"returned the shape {list(value.shape)}, not a scalar: average over the batch")
        if not value.requires_grad:
            raise self.function.refused("returned a number that does not depend on the student's images by gradients")
        return value.float()


def find_losses(config: DistillConfig, taken: Iterable[str]) -> tuple[OwnLoss, ...]:
    """Return the losses of ``config.losses``, which imports their modules.

    Raises UsageError if one is not found, and for a name that another one or a figure of the history (``taken``) has.
    """
    found = [OwnLoss(find_function("loss", name), weight) for name, weight in config.own_losses.items()]
    labels = [*taken]
    for loss in found:
        if loss.label in labels:
            raise UsageError(
                f"the loss {loss.function.name} has the name of another figure of the history, {loss.label}",
                "Give the function another name.",
            )
        labels.append(loss.label)
    return tuple(found)
