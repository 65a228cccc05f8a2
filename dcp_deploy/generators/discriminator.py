"""The residual StyleGAN2 discriminator with minibatch standard deviation (Karras et al. 2020), for training."""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DiscriminatorConfig
from .mapping import Dense
from .ops import bias_act, filter2d, fir_kernel, normalize_second_moment


class Conv(nn.Module):
    """Convolution with equalised learning rate; with ``down`` a FIR filter comes first and the stride is 2."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int,
        *,
        down: bool = False,
        activate: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if activate else None
        self.gain = 1.0 / math.sqrt(fan_in * kernel * kernel)
        self.down = down
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        kernel, weight = self.weight.shape[-1], (self.weight * self.gain).to(x.dtype)
        if self.down:
            # Padding keeps the result centred: 2 for the 3x3, 1 for the 1x1 convolution.
            x = filter2d(F.pad(x, (kernel // 2 + 1,) * 4), fir_kernel(like=x))
            x = F.conv2d(x, weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=kernel // 2)
        return x if self.bias is None else bias_act(x, self.bias, self.clamp)


class ResidualBlock(nn.Module):
    """Two convolutions that halve the size, and a 1x1 shortcut; their sum keeps unit variance."""

    def __init__(self, fan_in: int, fan_out: int, clamp: float | None = None) -> None:
        super().__init__()
        self.conv0 = Conv(fan_in, fan_in, 3, clamp=clamp)
        self.conv1 = Conv(fan_in, fan_out, 3, down=True, clamp=clamp)
        self.skip = Conv(fan_in, fan_out, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv1(self.conv0(x)) + self.skip(x)) * math.sqrt(0.5)


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append one channel: the standard deviation within groups of ``group`` samples, averaged over all else.

    [B, C, H, W] -> [B, C + 1, H, W] (Karras et al. 2018, "Progressive Growing of GANs", section 3). A batch that
    the group size does not divide counts as one group.
    """
    batch = x.shape[0]
    group = group if batch % group == 0 else batch
    grouped = x.reshape(group, batch // group, -1)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)  # [B / group]
    channel = deviation.repeat(group).reshape(batch, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)


class Discriminator(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] (and classes [B, c_dim]) to one logit each, [B]."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths, clamp = config.widths, config.conv_clamp
        self.fromrgb = Conv(3, widths[0], 1, clamp=clamp)
        self.blocks = nn.Sequential(*(ResidualBlock(*pair, clamp) for pair in itertools.pairwise(widths)))
        self.conv = Conv(widths[-1] + 1, widths[-1], 3, clamp=clamp)
        self.fc = Dense(widths[-1] * math.prod(config.base), widths[-1], activate=True)
        self.out = Dense(widths[-1], widths[-1] if config.c_dim else 1)
        if config.c_dim:
            self.embed = Dense(config.c_dim, widths[-1])

    def forward(self, image: Tensor, c: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        """Return logits [B], positive for real images. A class-conditional one projects onto the class embedding.

        The blocks compute in ``dtype``, or in that of the images; the layers after them always use that of the images.
        """
        x = self.features(image, dtype=dtype)[-1].to(image.dtype)
        x = self.conv(minibatch_std(x, self.config.mbstd_group))
        x = self.out(self.fc(x.flatten(1)))
        if not self.config.c_dim:
            return cast(Tensor, x[:, 0])
        if c is None:
            raise ValueError(f"this discriminator is conditional: c must be a [B, {self.config.c_dim}] tensor")
        embedding = normalize_second_moment(self.embed(c))
        return cast(Tensor, x * embedding).sum(dim=1) / math.sqrt(x.shape[1])

    def features(self, image: Tensor, *, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return the outputs of the first layer and each block, from [B, width, H, W] down to the base, in ``dtype``.

        They depend on one image each: they come before the minibatch deviation, and classes have no effect.
        """
        maps = [cast(Tensor, self.fromrgb(image.to(dtype or image.dtype)))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps
