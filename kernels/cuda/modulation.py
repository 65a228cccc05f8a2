"""The memory layout of many layers' styles in one tensor, and of the results of ``torch.ops.dcp_deploy.modulation``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OUTPUTS = 64  # kOutputs of modulation.cu: outputs per block
ALIGNMENT = 4  # floats: the results of every layer start at a multiple of 16 bytes, for the wide kernels


@dataclass(frozen=True)
class ModulationTables:
    """The tables that :func:`..operators.modulation` takes, on any device.

    ``layers`` int32 [N, 6] holds inputs, outputs, and where each layer's styles, directions, scales and energy start,
    in channels (in floats for the energy). ``blocks`` int32 [M, 2] holds the layer and first output of each block. A
    result has ``direction_size`` or ``scale_size`` floats per sample.
    """

    layers: Tensor
    blocks: Tensor
    direction_size: int
    scale_size: int


def modulation_tables(inputs: Sequence[int], outputs: Sequence[int]) -> ModulationTables:
    """Return the tables for layers of these widths, in the order of their styles; 0 outputs mean no demodulation."""
    rows, blocks = [], []
    style, direction, scale, energy = 0, 0, 0, 0
    for number, (fan_in, fan_out) in enumerate(zip(inputs, outputs, strict=True)):
        rows.append((fan_in, fan_out, style, direction, scale, energy))
        blocks += [(number, first) for first in range(0, max(fan_out, 1), OUTPUTS)]
        style, energy = style + fan_in, energy + fan_in * fan_out
        direction, scale = direction + _aligned(fan_in), scale + _aligned(fan_out)
    return ModulationTables(
        torch.tensor(rows, dtype=torch.int32).view(-1, 6),
        torch.tensor(blocks, dtype=torch.int32).view(-1, 2),
        direction,
        scale,
    )


def layer_views(flat: Tensor, batch: int, widths: Sequence[int]) -> list[Tensor]:
    """Return each layer's [B, C] of a flat result. ``widths`` are all inputs for directions, all outputs for scales."""
    views, start = [], 0
    for width in widths:
        views.append(flat[batch * start : batch * (start + width)].view(batch, width))
        start += _aligned(width)
    return views


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
