"""A discriminator of features: it classifies images by the feature maps of a fixed network.

Sauer et al. 2021, "Projected GANs Converge Faster". Maps of several resolutions are mixed by fixed random filters, over
channels and from coarse to fine over resolutions, so that no head can rely on one part of them only. A small
convolutional head at each resolution returns a map of logits. Spectral normalisation (Miyato et al. 2018) keeps the
heads smooth, in place of R1. For class-conditional images each head has an output for every class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CHANNELS, MOST_CHANNELS = 64, 256  # after mixing, and at most in a head, which doubles them as it halves the size
SMALLEST = 4  # shorter side of the maps of logits
START = 0.02  # standard deviation of the heads' first weights, about that of PyTorch's own start


class FeatureDiscriminator(nn.Module):
    """From maps [B, C_i, H_i, W_i], fine to coarse, to as many maps of logits [B, 1, h, w], positive for real images.

    ``shapes`` are the C_i and the shorter sides. With ``c_dim`` classes each image is judged as one of its class.
    Filters and weights are drawn from torch's global random state.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], c_dim: int = 0) -> None:
        super().__init__()
        self.c_dim = c_dim
        for index, (channels, _) in enumerate(shapes):
            self.register_buffer(f"over_channels{index}", _filter(channels, 1))
            self.register_buffer(f"over_scales{index}", _filter(CHANNELS, 3))
        self.heads = nn.ModuleList(_head(side, max(1, c_dim)) for _, side in shapes)
        self.eval()  # spectral norms follow the weights in :meth:`follow` only

    def forward(self, maps: Sequence[Tensor], c: Tensor | None = None) -> list[Tensor]:
        """Return the logits of each resolution, fine to coarse; of images of the one-hot classes ``c`` [B, c_dim]."""
        coarser: Tensor | None = None
        logits: list[Tensor] = []
        for index, head in reversed(list(enumerate(self.heads))):
            x = F.conv2d(maps[index], self.get_buffer(f"over_channels{index}"))
            if coarser is not None:
                x = x + F.interpolate(coarser, size=x.shape[2:], mode="bilinear", align_corners=False)
            coarser = F.conv2d(x, self.get_buffer(f"over_scales{index}"), padding=1)
            outputs = head(coarser)
            logits.append(outputs if c is None else (outputs * c[:, :, None, None]).sum(dim=1, keepdim=True))
        return logits[::-1]

    @torch.no_grad()
    def follow(self) -> None:
        """Update every layer's spectral norm by one power iteration, once a step, whatever parts the step has."""
        self.train()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                _ = layer.weight  # reading it iterates
        self.eval()


def _filter(channels: int, kernel: int) -> Tensor:
    """Return random filters to 64 channels, initialised by He et al. 2015 for a layer without non-linearity."""
    weight = torch.empty(CHANNELS, channels, kernel, kernel)
    return nn.init.kaiming_normal_(weight, nonlinearity="linear")


def _head(side: int, outputs: int) -> nn.Sequential:
    """Return a head from a mixed map to logits: strided convolutions down to 4 px, and one more."""
    layers: list[nn.Module] = []
    channels = CHANNELS
    while side > SMALLEST:
        wider = min(2 * channels, MOST_CHANNELS)
        layers += [_normed(nn.Conv2d(channels, wider, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        channels, side = wider, side // 2
    return nn.Sequential(*layers, _normed(nn.Conv2d(channels, outputs, 3, padding=1)))


def _normed(layer: nn.Conv2d) -> nn.Module:
    """Return the layer with spectral normalisation, which removes the scale of its weights.

    Unlike other weights here they start small, at :data:`START`: a step of the recipe's learning rate turns them far
    enough for the heads to keep up with the generator. From N(0, 1) they did not (docs/photo-teacher.md).
    """
    nn.init.normal_(layer.weight, std=START)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


def generator_hinge_loss(fake_logits: Sequence[Tensor]) -> Tensor:
    """Return ``-sum over maps of mean D(G)`` (Lim & Ye 2017, "Geometric GAN", used by Projected GANs)."""
    return -torch.stack([logits.mean() for logits in fake_logits]).sum()


def discriminator_hinge_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Return ``sum over maps of mean max(0, 1 - D(x)) + mean max(0, 1 + D(G))`` (the same paper)."""
    maps = zip(real_logits, fake_logits, strict=True)
    return torch.stack([F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in maps]).sum()
