"""The avatar reader: the network that reads factors from a portrait, and the demo's feature extractor.

``features`` serve the Fréchet distance and precision to coverage, ``pyramid`` serves perceptual losses, and ``read``
serves mode coverage. The weights ship with the package; ``python -m dcp_deploy.training.avatar_reader`` trains them.
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
DEFECTS = 2  # softness and grain, see training.avatar_reader.degrade
ASSET = "avatar_reader.safetensors"


class AvatarReader(nn.Module):
    """A small convolutional network from images [B, 3, 64, 64] in [-1, 1] to the encoded factors.

    It uses group normalisation because an image's features must not depend on its batch. The last map is flattened, not
    averaged, because the head's position is a factor. Two more outputs estimate softness and grain: without them the
    features would learn to ignore what makes an image poor.
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
        """Return maps [B, 24, 32, 32], [B, 48, 16, 16], [B, 80, 8, 8], [B, 64, 4, 4] of about unit scale."""
        if x.shape[1:] != (3, RESOLUTION, RESOLUTION):
            raise ValueError(f"the avatar reader needs images [B, 3, {RESOLUTION}, {RESOLUTION}], got {tuple(x.shape)}")
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """Return the activations [B, FEATURES] of the layer before the output."""
        return nn.functional.leaky_relu(self.neck(self.pyramid(x)[-1].flatten(1)), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, ENCODED_WIDTH + DEFECTS]: values, (sin, cos), logits in the order of ``encode``, then defects."""
        return cast(Tensor, self.head(self.features(x)))

    @torch.no_grad()
    def features_and_factors(self, x: Tensor) -> tuple[NDArray[np.float32], Factors]:
        """Return features [B, FEATURES] and the most likely factors of images [B, 3, 64, 64] in [-1, 1]."""
        features = self.features(x)
        return features.float().cpu().numpy(), decode(self.head(features)[:, :ENCODED_WIDTH].float().cpu().numpy())

    def read(self, x: Tensor) -> Factors:
        """Return the most likely factors of images [B, 3, 64, 64] in [-1, 1]."""
        return self.features_and_factors(x)[1]


def _conv(fan_in: int, fan_out: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, fan_out), nn.LeakyReLU(0.1))


@lru_cache
def load_avatar_reader(device: str = "cpu") -> AvatarReader:
    """Load the shipped reader in float32, frozen and in eval mode. All callers in a process share it: do not move it.

    Raises CorruptFileError if the package's weights are missing or do not fit.
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
    """Convert uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def reading_errors(predicted: Factors, true: Factors) -> dict[str, float]:
    """Return the error of the readings by factor: mean absolute error (continuous, range 2), mean angle in turns
    (circular), share of wrong values (categorical). Factors that a picture does not show are left out."""
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
