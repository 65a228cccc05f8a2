"""The network that reads an avatar's factors from its picture; its inner layers are the demo's feature space.

The same network serves three purposes: ``features`` for the Fréchet distance and the manifold metrics, ``pyramid`` for
perceptual losses, and ``read`` for counting modes. Its weights ship with the package; ``python -m
dcp_deploy.training.avatar_reader`` makes them again.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..datasets.canvas import RESOLUTION
from ..datasets.factors import ENCODED_WIDTH, FACTORS, Factors, decode, visible
from ..errors import CorruptFileError

FEATURES = 96
DEFECTS = 2  # softness and grain, see train_reader.degrade
ASSET = "avatar_reader.safetensors"


class AvatarReader(nn.Module):
    """A small convolutional network from images [B, 3, 64, 64] in [-1, 1] to the encoded factors.

    Group normalisation, not batch normalisation: a picture's features must not depend on the batch it comes in. The
    last map is flattened, not averaged, because head position is one of the factors. Two more outputs tell how soft and
    how grainy the picture is: without them the features would learn to ignore just what makes a picture poor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_conv(3, 24, 2)),  # 32 x 32
                nn.Sequential(_conv(24, 48, 2), _conv(48, 48, 1)),  # 16 x 16
                nn.Sequential(_conv(48, 80, 2), _conv(80, 80, 1)),  # 8 x 8
                nn.Sequential(_conv(80, 64, 2)),  # 4 x 4
            ]
        )
        self.neck = nn.Linear(64 * 16, FEATURES)
        self.head = nn.Linear(FEATURES, ENCODED_WIDTH + DEFECTS)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Maps [B, 24, 32, 32], [B, 48, 16, 16], [B, 80, 8, 8], [B, 64, 4, 4] of about unit scale, differentiable."""
        if x.shape[1:] != (3, RESOLUTION, RESOLUTION):
            raise ValueError(f"the avatar reader needs images [B, 3, {RESOLUTION}, {RESOLUTION}], got {tuple(x.shape)}")
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """Activations [B, FEATURES] of the layer before the heads."""
        return nn.functional.leaky_relu(self.neck(self.pyramid(x)[-1].flatten(1)), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, ENCODED_WIDTH + DEFECTS]: values, (sin, cos), logits in the order of ``encode``; then defects."""
        return cast(Tensor, self.head(self.features(x)))

    @torch.no_grad()
    def features_and_factors(self, x: Tensor) -> tuple[NDArray[np.float32], Factors]:
        """Features [B, FEATURES] and the most likely factors of images [B, 3, 64, 64] in [-1, 1], in one pass."""
        features = self.features(x)
        return features.float().cpu().numpy(), decode(self.head(features)[:, :ENCODED_WIDTH].float().cpu().numpy())

    def read(self, x: Tensor) -> Factors:
        """The most likely factors of images [B, 3, 64, 64] in [-1, 1]."""
        return self.features_and_factors(x)[1]


def _conv(fan_in: int, fan_out: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, fan_out), nn.LeakyReLU(0.1))


@lru_cache
def load_avatar_reader(device: str = "cpu") -> AvatarReader:
    """The shipped reader in float32, frozen and in eval mode; one copy per process and device, not to be moved.

    Raises CorruptFileError when the package's weights are missing or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    reader = AvatarReader()
    try:
        with as_file(files("dcp_deploy") / "assets" / ASSET) as path:
            reader.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CorruptFileError(
            f"the package's {ASSET} cannot be loaded: {error}",
            "Reinstall dcp-deploy, or train the reader again: python -m dcp_deploy.training.avatar_reader",
        ) from error
    return reader.to(device).eval().requires_grad_(False)


def images_to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def reading_errors(predicted: Factors, true: Factors) -> dict[str, float]:
    """How far readings are off, by factor: mean absolute error (continuous, range 2), mean angle in turns (circular),
    share of wrong values (categorical). Eyes behind sunglasses and the hair of bald heads are left out."""
    errors: dict[str, float] = {}
    for factor in FACTORS:
        seen = visible(true, factor.name)
        difference = np.abs(predicted.column(factor.name)[seen] - true.column(factor.name)[seen]).astype(np.float64)
        if factor.kind == "circular":
            difference = np.minimum(difference, 1.0 - difference)
        elif factor.kind == "categorical":
            difference = (difference > 0).astype(np.float64)
        errors[factor.name] = float(difference.mean()) if seen.any() else 0.0
    return errors
