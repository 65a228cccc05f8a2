"""Parameters and multiply-accumulates of a generator, counted as in the papers."""

from __future__ import annotations

import math

import torch

from .config import GeneratorConfig
from .generator import Generator
from .schedule import layer_specs


def count_parameters(generator: Generator | GeneratorConfig) -> int:
    """Return the number of parameters, including the mapping network, without buffers (noise maps, w_avg)."""
    if isinstance(generator, GeneratorConfig):
        with torch.device("meta"):
            generator = Generator(generator)
    return sum(p.numel() for p in generator.parameters())


def layer_macs(config: GeneratorConfig) -> dict[str, int]:
    """Return the multiply-accumulates per image of every layer, including its affine layer.

    This is the convention behind the published "45.1B" (256 px) and "74.3B" (1024 px). It counts convolutions, toRGB,
    mapping and affine layers; an up-sampling convolution counts at its *input* resolution, like a transposed
    convolution. It does not count FIR filters, demodulation, noise and biases. StyleGAN3's convolutions and the mixing
    of its Fourier features count at every position, including the margin.
    """
    w = config.w_dim
    fan_in = config.z_dim + (w if config.c_dim else 0)
    macs = {"mapping": config.c_dim * w + fan_in * w + (config.mapping_layers - 1) * w * w}
    return macs | (_stylegan2_macs(config) if config.layout is None else _stylegan3_macs(config))


def _stylegan2_macs(config: GeneratorConfig) -> dict[str, int]:
    w, macs = config.w_dim, {}
    for level, resolution in enumerate(config.resolutions):
        positions = math.prod(config.size_at(resolution))
        if level:
            entry, conv0, conv1 = config.widths[2 * level - 1 : 2 * level + 2]
            macs[f"b{resolution}.conv0"] = 9 * entry * conv0 * (positions // 4) + w * entry
        else:
            conv0, conv1 = config.widths[:2]
        macs[f"b{resolution}.conv1"] = 9 * conv0 * conv1 * positions + w * conv0
        macs[f"b{resolution}.torgb"] = 3 * conv1 * positions + w * conv1
    return macs


def _stylegan3_macs(config: GeneratorConfig) -> dict[str, int]:
    assert config.layout is not None
    w, specs = config.w_dim, layer_specs(config.resolution, config.layout)
    macs = {"input": config.layout.fourier_features * config.widths[0] * specs[0].in_size ** 2 + 4 * w}
    for spec, fan_in, fan_out in zip(specs, config.widths, (*config.widths[1:], 3), strict=True):
        positions = (spec.in_size + spec.kernel - 1) ** 2
        macs[spec.name] = spec.kernel**2 * fan_in * fan_out * positions + w * fan_in
    return macs


def count_macs(generator: Generator | GeneratorConfig) -> int:
    """Return the multiply-accumulates per image, the sum of :func:`layer_macs`."""
    config = generator if isinstance(generator, GeneratorConfig) else generator.config
    return sum(layer_macs(config).values())
