"""StyleGAN3's layer schedule and low-pass filters (Karras et al. 2021, "Alias-Free GANs", sections 3.2 and 4, app. C).

Cutoff and stopband grow geometrically from the first layer to the last; sampling rate, size and filters follow from
them. Frequencies are in cycles per unit of the image's side, sizes in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StyleGAN3Layout:
    """The parameters of StyleGAN3's layer schedule (:mod:`.schedule`), with the values of all published networks."""

    fourier_features: int
    """Number of sine waves that the synthesis input mixes; pruning keeps all of them."""
    conv_kernel: int = 3
    """3 for StyleGAN3-t, 1 for StyleGAN3-r."""
    radial: bool = False
    """Rotation-symmetric down-sampling filters, except in the critically sampled layers (StyleGAN3-r)."""
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_rel: float = 2.0**0.3
    margin: int = 10
    output_scale: float = 0.25
    filter_size: int = 6
    lrelu_upsampling: int = 2

    def __post_init__(self) -> None:
        if self.conv_kernel not in (1, 3):
            raise ValueError(f"conv_kernel must be 1 or 3, got {self.conv_kernel}")
        for name in ("fourier_features", "num_layers", "num_critical", "filter_size", "lrelu_upsampling"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {getattr(self, name)}")
        if self.num_critical >= self.num_layers or not 0 <= self.margin <= 64:
            raise ValueError(f"impossible schedule: {self}")
        if self.num_layers > 64 or self.filter_size > 16 or self.lrelu_upsampling > 4:
            raise ValueError(f"the schedule exceeds that of any network: {self}")
        for name in ("first_cutoff", "first_stopband", "last_stopband_rel", "output_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Band:
    """The output of one layer."""

    cutoff: float
    half_width: float
    """Half the width of the filter's transition band, which is centred on the cutoff."""
    rate: int
    size: int


@dataclass(frozen=True)
class LayerSpec:
    """One synthesis layer: sizes, factors and filters of its convolution and filtered leaky ReLU."""

    name: str
    in_size: int
    out_size: int
    in_rate: int
    out_rate: int
    tmp_rate: int
    """Sampling rate at which the leaky ReLU is applied."""
    up: int
    down: int
    up_taps: int
    down_taps: int
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    kernel: int
    radial: bool
    torgb: bool
    padding: tuple[int, int]
    """Zeros before and after the zero-inserted rows and columns; negative numbers crop."""


def bands(resolution: int, layout: StyleGAN3Layout) -> list[Band]:
    """Return the output of every layer, L0 to toRGB."""
    last = layout.num_layers
    last_cutoff = resolution / 2
    last_stopband = last_cutoff * layout.last_stopband_rel
    result = []
    for i in range(last + 1):
        exponent = min(i / (last - layout.num_critical), 1.0)
        cutoff = layout.first_cutoff * (last_cutoff / layout.first_cutoff) ** exponent
        stopband = layout.first_stopband * (last_stopband / layout.first_stopband) ** exponent
        rate = 2 ** max(math.ceil(math.log2(min(2 * stopband, resolution))), 0)
        half_width = max(stopband, rate / 2) - cutoff
        size = resolution if i >= last - 1 else rate + 2 * layout.margin
        result.append(Band(cutoff, half_width, rate, size))
    return result


def layer_specs(resolution: int, layout: StyleGAN3Layout) -> list[LayerSpec]:
    """Return all layers; the last one is toRGB. Raises ValueError if no filters fit the layout."""
    outputs = bands(resolution, layout)
    specs = []
    for i, output in enumerate(outputs):
        entry = outputs[max(i - 1, 0)]
        torgb = i == layout.num_layers
        critical = i >= layout.num_layers - layout.num_critical
        tmp_rate = max(entry.rate, output.rate) * (1 if torgb else layout.lrelu_upsampling)
        up, down = tmp_rate // entry.rate, tmp_rate // output.rate
        up_taps = 1 if torgb or up == 1 else layout.filter_size * up
        down_taps = 1 if torgb or down == 1 else layout.filter_size * down
        fits = torgb or (output.cutoff < tmp_rate / 2 and entry.half_width > 0 and output.half_width > 0)
        if not (fits and 1 <= up <= 16 and 1 <= down <= 16):
            raise ValueError(f"no filter fits layer {i} of {resolution} px with {layout}")
        kernel = 1 if torgb else layout.conv_kernel
        convolved = (entry.size + kernel - 1) * up
        total = (output.size - 1) * down + 1 - convolved + up_taps + down_taps - 2
        before = (total + up) // 2
        specs.append(
            LayerSpec(
                name=f"L{i}",
                in_size=entry.size,
                out_size=output.size,
                in_rate=entry.rate,
                out_rate=output.rate,
                tmp_rate=tmp_rate,
                up=up,
                down=down,
                up_taps=up_taps,
                down_taps=down_taps,
                in_cutoff=entry.cutoff,
                out_cutoff=output.cutoff,
                in_half_width=entry.half_width,
                out_half_width=output.half_width,
                kernel=kernel,
                radial=layout.radial and not critical,
                torgb=torgb,
                padding=(before, total - before),
            )
        )
    return specs


@lru_cache(maxsize=256)  # a network designs its filters again for every check of a file
def lowpass(taps: int, cutoff: float, half_width: float, rate: float, *, radial: bool = False) -> NDArray[np.float64]:
    """Return a low-pass filter of sum one: [taps], or [taps, taps] if radial.

    The separable filter is a sinc under a Kaiser window that fits the transition band. The radial filter replaces the
    sinc by the jinc ``J1(2 pi cutoff r) / (pi r)``, the impulse response of a disc in the frequency plane.
    """
    from scipy import signal, special

    width = 2 * half_width
    if not radial:
        return np.asarray(signal.firwin(taps, cutoff, width=width, fs=rate), dtype=np.float64)
    offsets = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(offsets, offsets))  # never zero: taps is even
    window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
    kernel = special.j1(2 * np.pi * cutoff * radius) / (np.pi * radius) * np.outer(window, window)
    return np.asarray(kernel / kernel.sum(), dtype=np.float64)
