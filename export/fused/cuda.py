"""A StyleGAN2 for our CUDA kernels: the function of FusedGenerator with as few memory passes and launches as possible.

    z -> mapping -> styles of all layers, one product -> directions and demodulation of all layers, one launch
    per resolution: conv0, its FIR or shuffle with the epilogue, conv1, its epilogue with toRGB

Features are channels last, as convolutions on tensor cores need them. So conv1's epilogue holds every channel of a
pixel and can compute toRGB too. It also multiplies by the styles of the next conv0, so no feature is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ...generators import Generator
from ...kernels.cuda.modulation import layer_views, modulation_tables
from ...kernels.operators import epilogue_rgb, fir_epilogue, modconv_epilogue, modulation
from .generator import FusedGenerator, ImageForm
from .stylegan2 import FusedBlock, FusedConv, FusedStyleGAN2Synthesis, Upsample, conv_layers

UpsampleMethods = Mapping[str, Upsample]


class CudaGenerator(nn.Module):
    """A StyleGAN2 with constant weights that returns images in the format ``image``.

    "float" is float32 [B, 3, H, W], "uint8" is [B, H, W, 3]. ``storage`` is the type of every convolution's weight,
    input and output; everything else is float32. Each up-sampling layer is kept for both methods, and each call may
    choose one. It runs on a CPU too, slowly. Raises UsageError for a StyleGAN3.
    """

    const: Tensor
    energy: Tensor
    root_eps: Tensor
    layers: Tensor
    layer_blocks: Tensor

    def __init__(
        self, generator: Generator, *, storage: torch.dtype = torch.float16, image: ImageForm = "float"
    ) -> None:
        super().__init__()
        self.config = config = generator.config
        self.image = image
        if config.layout is not None:
            raise UsageError("the CUDA path supports StyleGAN2 only; this is a StyleGAN3", "Use backend fused.")
        types = dict.fromkeys(conv_layers(config), storage)
        fused = FusedGenerator(generator, image=image, storage=types)
        shuffling = FusedGenerator(generator, upsample="polyphase", storage=types)
        self.mapping, self.styles = fused.mapping, fused.styles
        synthesis, other = (cast(FusedStyleGAN2Synthesis, made.synthesis) for made in (fused, shuffling))
        self.register_buffer("const", synthesis.const)
        self.blocks = nn.ModuleList(synthesis.blocks())
        self.polyphase = nn.ModuleList(block.conv0 for block in other.blocks() if block.conv0 is not None)
        self._gather_modulation()
        cast(Any, self).to(memory_format=torch.channels_last)  # an overload that its annotations miss
        self.eval().requires_grad_(False)

    def _gather_modulation(self) -> None:
        """Register the tensors that :func:`modulation` takes, with all layers in the order of their styles."""
        energies, roots, self.outputs = [], [], []
        for block in self._blocks():
            for conv in filter(None, (block.conv0, block.conv1)):
                energies.append(conv.energy.flatten())
                roots.append(conv.root_eps)
                self.outputs.append(conv.energy.shape[1])
            roots.append(0.0)
            self.outputs.append(0)
        tables = modulation_tables(self.styles.widths, self.outputs)
        self.register_buffer("energy", torch.cat(energies))
        self.register_buffer("root_eps", torch.tensor(roots))
        self.register_buffer("layers", tables.layers)
        self.register_buffer("layer_blocks", tables.blocks)
        self.sizes = tables.direction_size, tables.scale_size

    def _blocks(self) -> Iterator[FusedBlock]:
        return (cast(FusedBlock, block) for block in self.blocks)

    def forward(
        self, z: Tensor, psi: Tensor, c: Tensor | None = None, methods: UpsampleMethods | None = None
    ) -> Tensor:
        """Return one image per row of z. ``methods``: by up-sampling layer; the default is "transposed"."""
        styles = torch.addcmul(self.styles.base, self.styles.affine(self.mapping(z, c)), psi[:, None])
        flat = modulation(styles, self.energy, self.root_eps, self.layers, self.layer_blocks, *self.sizes)
        directions = layer_views(flat[0], len(z), self.styles.widths)
        scales = layer_views(flat[1], len(z), self.outputs)
        x, image, layer = self._start(directions[0]), None, 0
        for resolution, block in zip(self.config.resolutions, self._blocks(), strict=True):
            if block.conv0 is not None:
                name = f"b{resolution}.conv0"
                conv0 = self.upsampling(name, (methods or {}).get(name, "transposed"))
                x = upsampled(conv0, x, scales[layer], directions[layer + 1])
                layer += 1
            following = directions[layer + 2] if layer + 2 < len(directions) else None
            x, image = finished(block, x, image, scales[layer], directions[layer + 1], following)
            layer += 2
        return cast(Tensor, image)

    def _start(self, directions: Tensor) -> Tensor:
        """Return the learned constant times the first layer's directions [B, C], in its type, channels last."""
        weight = cast(FusedBlock, self.blocks[0]).conv1.weight
        shape = (len(directions), *self.const.shape[1:])
        x = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
        return torch.mul(self.const, directions[:, :, None, None], out=x)

    def upsampling(self, name: str, method: Upsample) -> FusedConv:
        """Return the up-sampling layer ``name`` ("b8.conv0") for one of the two methods."""
        number = self.config.resolutions.index(int(name.removeprefix("b").removesuffix(".conv0")))
        if method == "polyphase":
            return cast(FusedConv, self.polyphase[number - 1])
        return cast(FusedConv, cast(FusedBlock, self.blocks[number]).conv0)


def upsampled(conv: FusedConv, x: Tensor, scale: Tensor, next_scale: Tensor) -> Tensor:
    """Apply conv0 to x [B, Ci, H, W], which is multiplied by its directions; return [B, Co, 2 H, 2 W] times conv1's."""
    if conv.upsample == "transposed":
        y = F.conv_transpose2d(x, conv.weight, stride=2)
        return fir_epilogue(y, scale, conv.noise, conv.bias, next_scale, conv.clamp)
    y = F.conv2d(x, conv.weight, padding=1)
    return modconv_epilogue(y, scale, conv.noise, conv.bias, next_scale, conv.clamp, True)


def finished(
    block: FusedBlock, x: Tensor, image: Tensor | None, scale: Tensor, styles: Tensor, next_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Apply conv1 and toRGB; return the features times the next conv0's directions, and the image so far.

    ``next_scale`` is None for the last resolution, whose features are not stored.
    """
    conv, torgb = block.conv1, block.torgb
    y = F.conv2d(x, conv.weight, padding=1)
    keep = next_scale is not None
    return epilogue_rgb(
        y, scale, conv.noise, conv.bias, styles, torgb.weight, torgb.bias, image,
        next_scale, conv.clamp, torgb.clamp, torgb.as_bytes, keep,
    )  # fmt: skip
