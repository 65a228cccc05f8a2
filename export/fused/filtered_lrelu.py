"""StyleGAN3's filtered leaky ReLU as products with small constant matrices.

The readable layer up-samples by a transposed convolution, applies the leaky ReLU and filters down by a strided
convolution. All of these work on single planes, for which no backend has fast kernels. But both filters are linear
along each axis: with banded matrices U and D a plane becomes D lrelu(U X U^T) D^T. The filters are short, so a tile of
the output depends on a window of the input only, and the matrices are the same for all tiles:

    window [k, k]  -- U x U^T -->  [hi, hi]  -- leaky ReLU, clamp -->  -- D y D^T -->  tile [m, m]

Windows overlap, so the leaky ReLU works on (hi / (down m))^2, about 1.4 times the elements. In return everything is a
product of dense matrices, which every backend computes at full speed. A down filter that is not separable (the radial
ones of StyleGAN3-r) is a sum of a few separable ones, by its singular value decomposition.

Measured with ONNX Runtime 1.32 on two cores of an x86 machine with AVX2, one thread, CPU time of one call, median of 5
interleaved rounds, layers of the 256 px schedule, ms (planes: the readable layer; dense: the whole plane as one tile):

    layer, channels       planes   dense   m <= 16    24    32    40    64
    t L12, 32  278->276    139      325        88     80    83    91   100
    t L10, 32  150->276    187      169        69     67    72    69    83   (up 4)
    t L9,  32  150->148     47       41        22     23    21    22    28
    t L6,  32   86->84      12        8         6      5     6     6     6
    t L3,  64   38->52      17        5         5      5     4     4     5   (up 4)
    t L0,  64   38->36       7        2         3      3     3     3     3
    r L11, 16  276->276    134                        77    85   100   120   radial
    r L9,  32  148->148     76                        52    50    52    64   radial
    r L3,  32   36->52      10                         4     3     3     4   radial, up 4

Three alternatives were slower or equal everywhere and are left out: depthwise convolutions (0.6 to 1.1 of planes),
polyphase convolutions that keep the phases as channels (0.6 to 2), and banded matrices cut into blocks of rows (equal,
but a hundred nodes a layer).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...generators.ops import LRELU_SLOPE
from ...generators.schedule import LayerSpec

LARGEST_TILE = 32  # rows and columns of output; any size from 16 to 40 is as fast
NEGLIGIBLE = 2.0**-24  # separable terms below this share of the first are less than float32's rounding of the filter


class TiledLeakyReLU(nn.Module):
    """Up-sampling, leaky ReLU, clamp, down-sampling: [B, C, n, n] to [B, C, out, out], without the gain of sqrt(2).

    The filters are those of the layer, in float64: [taps], and for down-sampling [taps] or [taps, taps].
    """

    up: Tensor
    up_transposed: Tensor
    down: Tensor
    down_transposed: Tensor
    rows: Tensor

    def __init__(self, spec: LayerSpec, up_filter: Tensor, down_filter: Tensor, clamp: float | None) -> None:
        super().__init__()
        self.clamp, self.size = clamp, spec.out_size
        self.tiles, self.tile = _tiling(spec)
        self.between = (self.tile - 1) * spec.down + len(down_filter)  # rows of a tile at the higher rate
        first, matrix = up_matrix(up_filter, spec.up, self.between, spec.padding[0])
        self.window = matrix.shape[1]
        step = self.tile * spec.down // spec.up
        self.starts = [i * step for i in range(self.tiles)]
        # Zeros that the windows need outside the plane; a negative number crops what no window reads.
        self.padding = (-first, first + self.starts[-1] + self.window - (spec.in_size + spec.kernel - 1))
        self.register_buffer("up", matrix.float())
        self.register_buffer("up_transposed", matrix.T.float().contiguous())
        columns, rows = separable_terms(down_filter)
        self.terms = len(columns)
        self.register_buffer("down", down_matrix(columns, spec.down, self.tile, self.between).flatten(0, 1).float())
        transposed = down_matrix(rows, spec.down, self.tile, self.between).mT  # [terms, between, tile]
        self.register_buffer("down_transposed", transposed.squeeze(0).float().contiguous())
        windows = torch.tensor(self.starts)[:, None] + torch.arange(self.window)
        self.register_buffer("rows", windows.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, n, n] -> [B, C, out, out]."""
        channels, tiles = x.shape[1], self.tiles
        x = F.pad(x, (*self.padding, *self.padding))
        height = x.shape[2]
        # Columns first, while there are few rows: [B, C, height, tiles, window] -> between.
        if tiles > 1:
            # Slices, because a gather along the last axis copies number by number.
            x = torch.cat([x[..., start : start + self.window] for start in self.starts], dim=3)
        y = x.reshape(-1, channels, height, tiles, self.window) @ self.up_transposed
        y = y.reshape(-1, channels, height, tiles * self.between)
        if tiles > 1:
            y = y.index_select(2, self.rows)
        y = self.up @ y.reshape(-1, channels, tiles, self.window, tiles * self.between)
        y = F.leaky_relu(y, LRELU_SLOPE)
        if self.clamp is not None:
            y = y.clamp(-self.clamp, self.clamp)
        return self.filter_down(y)

    def filter_down(self, y: Tensor) -> Tensor:
        """Sum the separable terms: [B, C, tiles, between, tiles * between] -> [B, C, out, out]."""
        channels, tiles, side = y.shape[1], self.tiles, self.tiles * self.tile
        if self.terms == 1:
            y = (self.down @ y).reshape(-1, channels, side, tiles, self.between) @ self.down_transposed
        else:
            # All terms' rows in one product, which reads the large y once.
            y = (self.down @ y).reshape(-1, channels, tiles, self.terms, self.tile * tiles, self.between)
            y = (y @ self.down_transposed).sum(dim=3)
        y = y.reshape(-1, channels, side, side)
        return y if side == self.size else y[:, :, : self.size, : self.size]


def _tiling(spec: LayerSpec) -> tuple[int, int]:
    """Return the number of tiles along an axis and the rows of each; every tile starts at the same phase."""
    tiles = -(-spec.out_size // LARGEST_TILE)
    unit = spec.up // math.gcd(spec.up, spec.down)
    tile = -(-spec.out_size // (tiles * unit)) * unit
    return -(-spec.out_size // tile), tile


def up_matrix(taps: Tensor, up: int, rows: int, before: int) -> tuple[int, Tensor]:
    """Return the first ``rows`` rows of up-sampling with ``before`` zeros in front, as (first, U [rows, k]).

    Row t of the result is the sum over j of U[t, j] x[first + j]; x is zero outside. ``up - 1`` zeros follow each
    sample, then comes the filter with gain ``up``: U[t, j] = up taps[t + len(taps) - 1 - before - up (first + j)].
    """
    shift = len(taps) - 1 - before
    first, last = -(before // up), (rows - 1 + shift) // up
    index = torch.arange(rows)[:, None] + shift - up * torch.arange(first, last + 1)
    inside = (index >= 0) & (index < len(taps))
    return first, torch.where(inside, up * taps[index.clamp(0, len(taps) - 1)], 0.0)


def down_matrix(taps: Tensor, down: int, rows: int, columns: int) -> Tensor:
    """Return the matrix that filters and keeps every ``down``-th sample: taps [..., n] to D [..., rows, columns].

    D[o, t] = taps[t - down o].
    """
    index = torch.arange(columns) - down * torch.arange(rows)[:, None]
    inside = (index >= 0) & (index < taps.shape[-1])
    return torch.where(inside, taps[..., index.clamp(0, taps.shape[-1] - 1)], 0.0)


def separable_terms(taps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (columns, rows), each [terms, n]: the filter [n, n] is the sum of outer(column, row); [n] is one term."""
    if taps.ndim == 1:
        return taps[None], taps[None]
    left, values, right = torch.linalg.svd(taps)
    kept = int((values > NEGLIGIBLE * values[0]).sum())
    root = values[:kept, None].sqrt()
    return left.T[:kept] * root, right[:kept] * root
