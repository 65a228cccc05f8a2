"""The signatures of functions that users write: channel scores and losses (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ..generators import Generator


class ScoreFunction(Protocol):
    """A channel score of your own, for ``score(method="module:function")`` and ``--score module:function``.

    ``generator`` is a copy of the teacher on the device of the scoring, in evaluation mode and without gradients; call
    ``generator.requires_grad_()`` if the score needs them. ``latents`` is how many latents to score by, as an integer
    of at least 1, ``seed`` the seed of the random numbers: torch's global random state is seeded with it for the call.
    Call ``progress(done, total)`` as often as you like.

    Return a tensor [C] of finite numbers for each layer, by the layer's name in ``generator.synthesis.scored()``; C is
    the number of channels that the layer reads, ``weight.shape[1]``. Higher means keep, and only the order within a
    layer counts.
    """

    def __call__(
        self, generator: Generator, *, latents: int, seed: int, progress: Callable[[int, int], None]
    ) -> Mapping[str, Tensor]:
        """Return the scores of the channels of every layer."""


class LossFunction(Protocol):
    """A loss of your own, for ``DistillConfig(losses=("module:function=2.5",))`` and ``--loss module:function=2.5``.

    ``student`` and ``teacher`` are images [B, 3, H, W] of the same latents, float32, nominally in [-1, 1], inside the
    mask if there is one. Gradients run through ``student`` only.

    Return a scalar tensor [] that is finite and depends on ``student``: the mean over the batch, so that the losses of
    the parts of a batch add up to that of the whole. Torch's global random state is seeded by seed and step for the
    call, so random crops are the same after resuming.
    """

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, a scalar."""
