"""Configurations of generators and discriminators: the sizes and constants that a network is built from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .schedule import StyleGAN3Layout, bands, layer_specs

_WIDEST = 1 << 16
# A file with numbers beyond these describes no real network, and building it would only take time and memory.
_RANGES = {
    "resolution": (4, 8192),
    "z_dim": (1, _WIDEST),
    "w_dim": (1, _WIDEST),
    "c_dim": (0, _WIDEST),
    "mapping_layers": (1, 64),
}
_SQUARE = (4, 4)
_LONGEST = 8192  # the longest side of an image


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a StyleGAN2 or StyleGAN3 generator.

    ``widths`` lists channel counts, so a pruned network is just another config; entry ``l`` is the number of input
    channels of scored layer ``l``. StyleGAN2: the learned constant, the output of ``b4.conv1``, then for each
    resolution from 8 px the outputs of ``conv0`` and ``conv1``, in total 2*log2(resolution) - 2 numbers.
    StyleGAN3: the output of the synthesis input, then of ``L0``, ``L1``, ... up to the last layer before toRGB.

    ``base`` is the height and width of StyleGAN2's learned constant. Every block doubles both, so images have
    base * resolution / 4 pixels (:attr:`image_size`). Blocks are named as for the square (4, 4), where ``resolution``
    is the side of the image: ``b4`` has the size of the constant, and ``b{resolution}`` makes the image. StyleGAN-Human
    has the base (4, 2) and its resolution is the height; github.com/eps696/stylegan2ada calls the base ``init_res``.
    """

    resolution: int
    widths: tuple[int, ...]
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    conv_clamp: float | None = None
    num_fp16_res: int = 0  # number of top resolutions that the teacher computed in fp16; recorded, without effect
    kind: str = "stylegan2"
    layout: StyleGAN3Layout | None = None
    """The layer schedule of StyleGAN3; None for StyleGAN2."""
    base: tuple[int, int] = _SQUARE

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "base", tuple(self.base))
        if self.kind not in ("stylegan2", "stylegan3"):
            raise ValueError(f"unknown kind of generator {self.kind!r}; known: 'stylegan2', 'stylegan3'")
        if (self.kind == "stylegan3") != (self.layout is not None):
            raise ValueError(f"stylegan3 needs a layout, and stylegan2 must have none; this is {self.kind}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
        if self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two, got {self.resolution}")
        if self.kind == "stylegan3" and self.resolution < 16:
            raise ValueError(f"StyleGAN3 needs a resolution of at least 16, got {self.resolution}")
        self._check_base()
        if len(self.widths) != self.num_widths:
            raise ValueError(
                f"{self.resolution} px needs {self.num_widths} widths, got {len(self.widths)}: {self.widths}"
            )
        if not all(type(width) is int and 1 <= width <= _WIDEST for width in self.widths):
            raise ValueError(f"widths must be positive whole numbers up to {_WIDEST}, got {self.widths}")
        if not (isinstance(self.mapping_lr_multiplier, int | float) and 0 < self.mapping_lr_multiplier < math.inf):
            raise ValueError(f"mapping_lr_multiplier must be a positive number, got {self.mapping_lr_multiplier!r}")
        _check_clamp(self.conv_clamp)
        if self.layout is not None:
            layer_specs(self.resolution, self.layout)  # raises for an impossible schedule

    def _check_base(self) -> None:
        if len(self.base) != 2 or not all(type(side) is int and side >= 1 for side in self.base):
            raise ValueError(f"base must be a height and a width, positive whole numbers, got {self.base}")
        if max(self.image_size) > _LONGEST:
            raise ValueError(f"images must have at most {_LONGEST} px a side; base {self.base} makes {self.image_size}")
        if self.kind == "stylegan3" and self.base != _SQUARE:
            raise ValueError(f"StyleGAN3 makes square images only; its base must be {_SQUARE}, got {self.base}")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.size_at(self.resolution)

    def size_at(self, resolution: int) -> tuple[int, int]:
        """Return height and width of the features of a block, by the number in its name: 4 for ``b4``."""
        return _size(self.base, resolution)

    @property
    def num_widths(self) -> int:
        """Number of scored layers, which pruning can narrow."""
        return self.num_ws if self.layout is None else self.layout.num_layers + 1

    @property
    def num_ws(self) -> int:
        """Number of style slots: StyleGAN2 2*log2(resolution) - 2; StyleGAN3 input, layers and toRGB."""
        return 2 * int(math.log2(self.resolution)) - 2 if self.layout is None else self.layout.num_layers + 2

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The numbers in the names of the blocks: 4, 8, ..., resolution. :meth:`size_at` gives their sizes."""
        return tuple(4 << i for i in range(int(math.log2(self.resolution)) - 1))

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layer that makes the channels of each width: "b4.const", "b4.conv1", ... or "input", "L0", ..."""
        if self.layout is not None:
            return ("input", *(f"L{i}" for i in range(self.layout.num_layers)))
        convs = [f"b{resolution}.{conv}" for resolution in self.resolutions for conv in ("conv0", "conv1")]
        return ("b4.const", *convs[1:])

    @classmethod
    def stylegan2(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **kw: Any
    ) -> GeneratorConfig:
        """Return the published family: min(channel_base / resolution, channel_max) channels at each resolution."""
        widths = [min(channel_base // (4 << i), channel_max) for i in range(int(math.log2(resolution)) - 1)]
        return cls(resolution=resolution, widths=tuple(w for width in widths for w in (width, width)), **kw)

    @classmethod
    def stylegan3(
        cls,
        resolution: int,
        variant: Literal["t", "r"] = "t",
        channel_base: int = 32768,
        channel_max: int = 512,
        **kw: Any,
    ) -> GeneratorConfig:
        """Return the published family: min(channel_base / (2 cutoff), channel_max) channels, half to even, per layer.

        Variant "t" is equivariant to translation. Variant "r" is equivariant to rotation too: it has 1x1 convolutions,
        radial filters, and twice as many channels as the two arguments say.
        """
        scale = 2 if variant == "r" else 1
        layout = StyleGAN3Layout(fourier_features=1, conv_kernel=1 if variant == "r" else 3, radial=variant == "r")
        cutoffs = [band.cutoff for band in bands(resolution, layout)]
        widths = [round(min(scale * channel_base / 2 / cutoff, scale * channel_max)) for cutoff in cutoffs[:-1]]
        layout = replace(layout, fourier_features=widths[0])
        defaults: dict[str, Any] = {"mapping_layers": 2, "conv_clamp": 256.0}
        return cls(resolution, (widths[0], *widths), kind="stylegan3", layout=layout, **{**defaults, **kw})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON. ``base`` is left out where it is (4, 4), as in older files."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorConfig:
        """Return the config of such values. Raises ValueError for unknown, missing or ill-typed entries."""
        if not isinstance(values, Mapping):
            raise ValueError(f"the config is {values!r}, not an object")
        layout = values.get("layout")
        try:
            return cls(**{**values, "layout": StyleGAN3Layout(**layout) if layout else None})
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class DiscriminatorConfig:
    """A residual StyleGAN2 discriminator. ``widths`` gives the channels at resolution, resolution / 2, ..., 4.

    ``conv_clamp`` bounds the output of every convolution with an activation; None for no bound. ``base`` is the height
    and width of the last features, and determines the size of images, as in :class:`GeneratorConfig`.
    """

    resolution: int
    widths: tuple[int, ...]
    c_dim: int = 0
    mbstd_group: int = 4
    conv_clamp: float | None = None
    base: tuple[int, int] = _SQUARE

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "base", tuple(self.base))
        _check_clamp(self.conv_clamp)
        levels = int(math.log2(self.resolution)) - 1
        if self.resolution < 8 or self.resolution & (self.resolution - 1) or len(self.widths) != levels:
            raise ValueError(f"{self.resolution} px needs a power of two from 8 and {levels} widths, got {self.widths}")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return _size(self.base, self.resolution)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON. ``base`` is left out where it is (4, 4)."""
        return _plain(self)

    @classmethod
    def mirror(cls, generator: GeneratorConfig) -> DiscriminatorConfig:
        """Return the discriminator with the widths of a generator, from the image down.

        StyleGAN2: the widths of conv1. StyleGAN3: of the last layer at each sampling rate, below 16 px of the first.
        """
        widths = generator.widths[1::2]
        if generator.layout is not None:
            specs = layer_specs(generator.resolution, generator.layout)
            at_rate = {spec.in_rate: width for spec, width in zip(specs, generator.widths, strict=True)}
            widths = tuple(at_rate.get(resolution, generator.widths[0]) for resolution in generator.resolutions)
        return cls(generator.resolution, widths[::-1], c_dim=generator.c_dim, base=generator.base)


def _size(base: tuple[int, int], resolution: int) -> tuple[int, int]:
    height, width = base
    return height * resolution // 4, width * resolution // 4


def _plain(config: GeneratorConfig | DiscriminatorConfig) -> dict[str, Any]:
    values = {**asdict(config), "widths": list(config.widths), "base": list(config.base)}
    if config.base == _SQUARE:
        del values["base"]
    return values


def _check_clamp(clamp: float | None) -> None:
    if clamp is not None and not clamp > 0:
        raise ValueError(f"conv_clamp must be positive or None, got {clamp}")
