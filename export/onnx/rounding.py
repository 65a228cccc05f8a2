"""Which integer each weight of an int8 convolution becomes: not the nearest one, but so that the output moves least.

A convolution is a matrix W [Co, K] on the windows x [K] of its input, K = Ci k k. Its output moves by E x, where E is
W less its integers, and the mean of |E x|^2 over all windows of real images is tr(E H E') with the second moments H,
the mean of x x'. That is GPTQ (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", section 3): round one column of W after the other, and let the columns that are still real
take up what was lost, by the least squares that H gives. Each column would cost a solve; with the Cholesky factor U of
H^-1 = U' U all of them are in its rows.

Neighbouring places of an image are so much alike that this pays. Of what rounding to the nearest moves them (mean
squares), the five layers of the demo's student move by 0.4 to 7 % on the images that were looked at, and the seven of a
256 px student with random weights by 6 to 26 % on others. Errors of weights are the same in every image, and weigh more
in FID than in PSNR: half of the distance that int8 added came from them, an eighth of the mean square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...generators import Generator
from ..fused.generator import FusedGenerator
from ..fused.stylegan2 import Upsample
from ..runners.runner import Array
from .precision import RangeTable, calibration_images, convolutions

LARGEST = 127  # -128 is not used: symmetric
DAMPING = 0.01  # share of the mean of H's diagonal that is added to it, GPTQ's
_BLOCK = 128  # columns between two products with all columns that follow


@dataclass(frozen=True)
class IntegerKernel:
    """Weights of a convolution: ``integers`` int8 [Co, Ci, k, k] times ``steps`` float32 [Co]."""

    integers: Array
    steps: Array


def integer_kernels(
    generator: Generator, ranges: RangeTable, *, upsample: Upsample | Mapping[str, Upsample] = "transposed"
) -> dict[str, IntegerKernel]:
    """The weights in int8 of every layer whose convolution is an ordinary one, in the order of computation.

    Looks at the images of ``ranges`` once more; ``upsample`` is what the table was measured with. Keeps K^2 doubles for
    each layer: 170 MB for one of 512 channels. Runs on the generator's own device.
    """
    device = next(generator.parameters()).device
    fused = FusedGenerator(generator, upsample=upsample).to(device)
    layers = convolutions(fused)
    recorder = _Moments({id(module.weight): layer for layer, module in layers.items()})
    with torch.inference_mode(), recorder:
        for z, psi, c in calibration_images(generator.config, ranges.latents, ranges.psis, ranges.seed, device):
            fused(z, psi, c)
    return {
        layer: round_kernel(layers[layer].get_buffer("weight").cpu(), moments.cpu())
        for layer, moments in recorder.means().items()
    }


def round_kernel(weight: Tensor, moments: Tensor) -> IntegerKernel:
    """``weight`` [Co, Ci, k, k] in steps of a 127th of each output channel's largest; ``moments`` [K, K].

    Moments that are not finite, or all zero, say nothing; the nearest integers are taken then.
    """
    flat = weight.double().flatten(1)
    steps = step_sizes(flat.abs().amax(dim=1).numpy())
    order = moments.diagonal().argsort(descending=True, stable=True)  # what matters most has most left to take it up
    left = (flat / torch.from_numpy(steps)[:, None])[:, order]
    rows = _factor_of_inverse(moments[order][:, order])
    integers = torch.empty_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        stop = min(start + _BLOCK, left.shape[1])
        lost = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            integers[:, column] = left[:, column].round().clamp(-LARGEST, LARGEST)
            share = (left[:, column] - integers[:, column]) / rows[column, column]
            left[:, column + 1 : stop] -= share[:, None] * rows[column, column + 1 : stop]
            lost[:, column - start] = share
        left[:, stop:] -= lost @ rows[start:stop, stop:]
    restored = integers[:, order.argsort()].reshape(weight.shape)
    return IntegerKernel(restored.to(torch.int8).numpy(), steps)


def step_sizes(peaks: Array) -> Array:
    """The steps for which ``peaks`` become 127, float32; 1 where there is nothing to represent."""
    return np.where(peaks > 0, peaks / LARGEST, 1.0).astype(np.float32)


def _factor_of_inverse(moments: Tensor) -> Tensor:
    """U, upper triangular, with U' U = (H + damping)^-1, float64 [K, K]."""
    identity = torch.eye(len(moments), dtype=torch.float64)
    mean = float(moments.diagonal().mean())
    if not (bool(moments.isfinite().all()) and mean > 0):
        return identity
    damped = moments + DAMPING * mean * identity
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor


class _Moments(TorchFunctionMode):
    """Sees every ordinary convolution whose weight it knows, and sums x x' over the windows of its inputs."""

    def __init__(self, layers: Mapping[int, str]) -> None:
        super().__init__()
        self.layers = layers
        self.sums: dict[str, Tensor] = {}
        self.windows: dict[str, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and id(args[1]) in self.layers:
            self._add(self.layers[id(args[1])], args[0], args[1].shape[-1], (kwargs or {})["padding"])
        return func(*args, **(kwargs or {}))

    def _add(self, layer: str, x: Tensor, kernel: int, padding: int) -> None:
        # About 64 x 64 windows are enough of a large image. An odd stride: up-sampling made even and odd places differ.
        stride = max(1, x.shape[-1] // 64 - 1) | 1
        for image in x:
            windows = F.unfold(image[None], kernel, padding=padding, stride=stride)[0]  # [K, windows]
            self.sums[layer] = self.sums.get(layer, 0) + (windows @ windows.T).double()
            self.windows[layer] = self.windows.get(layer, 0) + windows.shape[1]

    def means(self) -> dict[str, Tensor]:
        """H of every layer, float64 [K, K]."""
        return {layer: total / self.windows[layer] for layer, total in self.sums.items()}
