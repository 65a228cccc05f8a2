"""What a generator is, without its weights: sizes and constants that the network is built from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from .schedule import StyleGAN3Layout, bands, layer_specs

# Beyond these a file lies about its network, and building it would only take time and memory.
_WIDEST = 1 << 16
_MOST = {"z_dim": _WIDEST, "w_dim": _WIDEST, "mapping_layers": 64}


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a StyleGAN2 or StyleGAN3 generator.

    ``widths`` lists channel counts, not multipliers, so a pruned network is just another config; number ``l`` counts
    the input channels of scored layer ``l``. StyleGAN2: the learned constant, the output of ``b4.conv1``, then for
    each resolution from 8 px the outputs of ``conv0`` and ``conv1``, that is 2*log2(resolution) - 2 numbers.
    StyleGAN3: the output of the synthesis input, then of ``L0``, ``L1``, ... up to the last layer before toRGB.
    """

    resolution: int
    widths: tuple[int, ...]
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    conv_clamp: float | None = None
    num_fp16_res: int = 0  # how many of the top resolutions the teacher ran in fp16; recorded, not acted on
    kind: str = "stylegan2"
    layout: StyleGAN3Layout | None = None
    """For StyleGAN3, and only there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.kind not in ("stylegan2", "stylegan3"):
            raise ValueError(f"unknown kind of generator {self.kind!r}; known: 'stylegan2', 'stylegan3'")
        if (self.kind == "stylegan3") != (self.layout is not None):
            raise ValueError(f"a layout belongs to stylegan3 and to nothing else; this is {self.kind}")
        for name in ("resolution", "z_dim", "w_dim", "c_dim", "mapping_layers"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if not 4 <= self.resolution <= 8192 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two from 4 to 8192, got {self.resolution}")
        if self.kind == "stylegan3" and self.resolution < 16:
            raise ValueError(f"StyleGAN3 needs a resolution of at least 16, got {self.resolution}")
        if len(self.widths) != self.num_widths:
            raise ValueError(
                f"{self.resolution} px needs {self.num_widths} widths, got {len(self.widths)}: {self.widths}"
            )
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from 1 to {most}, got {getattr(self, name)}")
        if not all(type(width) is int and 1 <= width <= _WIDEST for width in self.widths):
            raise ValueError(f"widths must be positive whole numbers up to {_WIDEST}, got {self.widths}")
        if not 0 <= self.c_dim <= _WIDEST:
            raise ValueError(f"c_dim must not be negative, nor above {_WIDEST}, got {self.c_dim}")
        if not (isinstance(self.mapping_lr_multiplier, int | float) and 0 < self.mapping_lr_multiplier < math.inf):
            raise ValueError(f"mapping_lr_multiplier must be a positive number, got {self.mapping_lr_multiplier!r}")
        if self.conv_clamp is not None and not self.conv_clamp > 0:
            raise ValueError(f"conv_clamp must be positive or None, got {self.conv_clamp}")
        if self.layout is not None:
            layer_specs(self.resolution, self.layout)  # refuses an impossible schedule

    @property
    def num_widths(self) -> int:
        """Number of layers that can be pruned."""
        return self.num_ws if self.layout is None else self.layout.num_layers + 1

    @property
    def num_ws(self) -> int:
        """Number of style slots: StyleGAN2 2*log2(resolution) - 2; StyleGAN3 input, layers and toRGB."""
        return 2 * int(math.log2(self.resolution)) - 2 if self.layout is None else self.layout.num_layers + 2

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., resolution."""
        return tuple(4 << i for i in range(int(math.log2(self.resolution)) - 1))

    @property
    def layer_names(self) -> tuple[str, ...]:
        """What makes the channels of each entry of ``widths``: "b4.const", "b4.conv1", ... or "input", "L0", ..."""
        if self.layout is not None:
            return ("input", *(f"L{i}" for i in range(self.layout.num_layers)))
        convs = [f"b{resolution}.{conv}" for resolution in self.resolutions for conv in ("conv0", "conv1")]
        return ("b4.const", *convs[1:])

    @classmethod
    def stylegan2(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **kw: Any
    ) -> GeneratorConfig:
        """The published family: min(channel_base / resolution, channel_max) channels at each resolution."""
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
        """The published family: min(channel_base / (2 cutoff), channel_max) channels, half to even, in each layer.

        Variant "t" is equivariant to translation, "r" to rotation too: 1x1 convolutions, radial filters, and twice
        the channels, which the two numbers given here do not include.
        """
        scale = 2 if variant == "r" else 1
        layout = StyleGAN3Layout(fourier_features=1, conv_kernel=1 if variant == "r" else 3, radial=variant == "r")
        cutoffs = [band.cutoff for band in bands(resolution, layout)]
        widths = [round(min(scale * channel_base / 2 / cutoff, scale * channel_max)) for cutoff in cutoffs[:-1]]
        layout = replace(layout, fourier_features=widths[0])
        defaults: dict[str, Any] = {"mapping_layers": 2, "conv_clamp": 256.0}
        return cls(resolution, (widths[0], *widths), kind="stylegan3", layout=layout, **{**defaults, **kw})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorConfig:
        """Inverse of :meth:`to_dict`. Raises ValueError for unknown, missing or ill-typed entries."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown entries {unknown}; known: {sorted(known)}")
        layout = values.get("layout")
        try:
            return cls(**{**values, "layout": StyleGAN3Layout(**layout) if layout else None})
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class DiscriminatorConfig:
    """A residual StyleGAN2 discriminator. ``widths`` gives the channels at resolution, resolution / 2, ..., 4.

    ``conv_clamp`` bounds what every convolution with an activation gives; None for no bound.
    """

    resolution: int
    widths: tuple[int, ...]
    c_dim: int = 0
    mbstd_group: int = 4
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.conv_clamp is not None and not self.conv_clamp > 0:
            raise ValueError(f"conv_clamp must be positive or None, got {self.conv_clamp}")
        levels = int(math.log2(self.resolution)) - 1
        if self.resolution < 8 or self.resolution & (self.resolution - 1) or len(self.widths) != levels:
            raise ValueError(f"{self.resolution} px needs a power of two from 8 and {levels} widths, got {self.widths}")

    @classmethod
    def mirror(cls, generator: GeneratorConfig) -> DiscriminatorConfig:
        """The discriminator that belongs to a generator: the same widths, from the image down.

        StyleGAN2: those of each conv1. StyleGAN3: of the last layer at each sampling rate; below 16 px of the first.
        """
        widths = generator.widths[1::2]
        if generator.layout is not None:
            specs = layer_specs(generator.resolution, generator.layout)
            at_rate = {spec.in_rate: width for spec, width in zip(specs, generator.widths, strict=True)}
            widths = tuple(at_rate.get(resolution, generator.widths[0]) for resolution in generator.resolutions)
        return cls(resolution=generator.resolution, widths=widths[::-1], c_dim=generator.c_dim)
