"""What a generator is, without its weights: sizes and constants that the network is built from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a StyleGAN2 generator.

    ``widths`` lists channel counts, not multipliers, so a pruned network is just another config: the learned
    constant, the output of ``b4.conv1``, then for each resolution from 8 px the outputs of ``conv0`` and ``conv1``.
    That is 2*log2(resolution) - 2 numbers, and number ``l`` counts the input channels of scored layer ``l``.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.kind != "stylegan2":
            raise ValueError(f"unknown kind of generator {self.kind!r}; known: 'stylegan2'")
        if self.resolution < 4 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two from 4, got {self.resolution}")
        if len(self.widths) != self.num_ws:
            raise ValueError(f"{self.resolution} px needs {self.num_ws} widths, got {len(self.widths)}: {self.widths}")
        for name in ("z_dim", "w_dim", "mapping_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.widths) < 1 or self.c_dim < 0:
            raise ValueError(f"widths must be positive and c_dim not negative, got {self.widths}, c_dim {self.c_dim}")
        if self.conv_clamp is not None and not self.conv_clamp > 0:
            raise ValueError(f"conv_clamp must be positive or None, got {self.conv_clamp}")

    @property
    def num_ws(self) -> int:
        """Number of style slots, 2*log2(resolution) - 2."""
        return 2 * int(math.log2(self.resolution)) - 2

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., resolution."""
        return tuple(4 << i for i in range(self.num_ws // 2))

    @classmethod
    def stylegan2(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **kw: Any
    ) -> GeneratorConfig:
        """The published family: min(channel_base / resolution, channel_max) channels at each resolution."""
        widths = [min(channel_base // (4 << i), channel_max) for i in range(int(math.log2(resolution)) - 1)]
        return cls(resolution=resolution, widths=tuple(w for width in widths for w in (width, width)), **kw)

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
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class DiscriminatorConfig:
    """A residual StyleGAN2 discriminator. ``widths`` gives the channels at resolution, resolution / 2, ..., 4."""

    resolution: int
    widths: tuple[int, ...]
    c_dim: int = 0
    mbstd_group: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        levels = int(math.log2(self.resolution)) - 1
        if self.resolution < 8 or self.resolution & (self.resolution - 1) or len(self.widths) != levels:
            raise ValueError(f"{self.resolution} px needs a power of two from 8 and {levels} widths, got {self.widths}")

    @classmethod
    def mirror(cls, generator: GeneratorConfig) -> DiscriminatorConfig:
        """The discriminator that belongs to a generator: the same widths (of each conv1), from the image down."""
        return cls(resolution=generator.resolution, widths=generator.widths[1::2][::-1], c_dim=generator.c_dim)
