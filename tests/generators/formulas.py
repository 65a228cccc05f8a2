"""StyleGAN2's synthesis in float64 by the paper's formulas: each sample has weights of its own, zeros are inserted.

Written for clarity, and independent of the operators under test (Karras et al. 2020, "Analyzing and Improving the Image
Quality of StyleGAN", section 2.2 and appendix B).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dcp_deploy.generators import Generator

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4  # gain 2 in each direction, for the zeros inserted


def images_by_the_formulas(generator: Generator, ws: Tensor) -> Tensor:
    """Return images [B, 3, H, W] in float64 for ws [B, num_ws, w_dim], with constant noise and without clamp."""
    state = {name: tensor.double() for name, tensor in generator.synthesis.state_dict().items()}
    return torch.stack([_image(state, codes, generator.config.resolutions) for codes in ws.double()])


def _image(state: dict[str, Tensor], codes: Tensor, resolutions: tuple[int, ...]) -> Tensor:
    x, image = state["b4.const"], None
    for level, resolution in enumerate(resolutions):
        if level:
            x = _layer(state, f"b{resolution}.conv0", x, codes[2 * level - 1], up=True)
        x = _layer(state, f"b{resolution}.conv1", x, codes[2 * level])
        colours = _colours(state, f"b{resolution}.torgb", x, codes[2 * level + 1])
        image = colours if image is None else _filter(F.pad(_spread(image), (2, 2, 2, 2))) + colours
    assert image is not None
    return image


def _layer(state: dict[str, Tensor], name: str, x: Tensor, w: Tensor, *, up: bool = False) -> Tensor:
    weight = state[f"{name}.weight"] * _styles(state, name, w)[:, None, None]
    weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if up:
        wide = F.conv2d(F.pad(_spread(x), (2, 2, 2, 2))[None], weight.flip(2, 3))[0]
        y = _filter(F.pad(wide, (1, 1, 1, 1)))
    else:
        y = F.conv2d(x[None], weight, padding=1)[0]
    y = y + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"] + state[f"{name}.bias"][:, None, None]
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


def _colours(state: dict[str, Tensor], name: str, x: Tensor, w: Tensor) -> Tensor:
    styles = _styles(state, name, w) / math.sqrt(len(x))
    weight = state[f"{name}.weight"] * styles[:, None, None]
    return F.conv2d(x[None], weight)[0] + state[f"{name}.bias"][:, None, None]


def _styles(state: dict[str, Tensor], name: str, w: Tensor) -> Tensor:
    return state[f"{name}.affine.weight"] @ w / math.sqrt(len(w)) + state[f"{name}.affine.bias"]


def _spread(x: Tensor) -> Tensor:
    """Insert a zero between neighbours: [C, H, W] -> [C, 2H - 1, 2W - 1]."""
    spread = x.new_zeros(len(x), 2 * x.shape[1] - 1, 2 * x.shape[2] - 1)
    spread[:, ::2, ::2] = x
    return spread


def _filter(x: Tensor) -> Tensor:
    return F.conv2d(x[:, None], torch.outer(TAPS, TAPS)[None, None])[:, 0]
