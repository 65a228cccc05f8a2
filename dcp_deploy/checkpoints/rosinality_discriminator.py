"""The discriminator that training files of rosinality's stylegan2-pytorch and its descendants keep.

It computes what ours computes; only names differ. It is unconditional, and its minibatch deviation has groups of four.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Discriminator, DiscriminatorConfig
from ..generators.ops import fir_kernel
from .fitting import fitted_discriminator
from .pickles.tensors import TensorView
from .pickles.torch_file import read_torch_file
from .pickles.values import printable

MAX_BLOCKS = 9  # 2048 px
_KERNEL = re.compile(r"convs\.[0-9]+\.(conv2|skip)\.0\.kernel")
_BLOCK = re.compile(r"convs\.([1-9][0-9]*)\.skip\.1\.weight")


def read_rosinality_discriminator(data: memoryview, source: str) -> Discriminator:
    """Read the discriminator of a training file, float32. Runs nothing from it.

    Raises UnknownFormatError for a file without one, CorruptFileError for a damaged one, and what
    :func:`read_torch_file` raises.
    """
    content = read_torch_file(data, source)
    entries = content.value.get("d") if isinstance(content.value, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(value, TensorView) for value in entries.values()):
        raise UnknownFormatError(
            f"{source}: there is no discriminator in this file, which would be under d",
            "what is read: the d of a training file of rosinality's stylegan2-pytorch, CAGAN, StyleKD or DCP-GAN",
        )
    state = content.tensors({printable(str(name)).removeprefix("module."): value for name, value in entries.items()})
    _drop_filters(state, source)
    return _discriminator(state, source)


def origins(blocks: int) -> dict[str, str]:
    """Name of each tensor of our discriminator of so many blocks -> its name in the file."""
    table = {"fromrgb.weight": "convs.0.0.weight", "fromrgb.bias": "convs.0.1.bias"}
    for i in range(blocks):
        ours, theirs = f"blocks.{i}", f"convs.{i + 1}"
        table |= {
            f"{ours}.conv0.weight": f"{theirs}.conv1.0.weight",
            f"{ours}.conv0.bias": f"{theirs}.conv1.1.bias",
            f"{ours}.conv1.weight": f"{theirs}.conv2.1.weight",
            f"{ours}.conv1.bias": f"{theirs}.conv2.2.bias",
            f"{ours}.skip.weight": f"{theirs}.skip.1.weight",
        }
    table |= {"conv.weight": "final_conv.0.weight", "conv.bias": "final_conv.1.bias"}
    for i, name in enumerate(("fc", "out")):
        table |= {f"{name}.{kind}": f"final_linear.{i}.{kind}" for kind in ("weight", "bias")}
    return table


def _drop_filters(state: dict[str, Tensor], source: str) -> None:
    """Ours is a constant, so theirs must be the same."""
    ours = fir_kernel()
    for name in [name for name in state if _KERNEL.fullmatch(name)]:
        kernel = state.pop(name).float()
        if kernel.shape != ours.shape or not torch.allclose(kernel, ours, atol=1e-4):
            raise UnknownFormatError(
                f"{source}: {name} is another low-pass filter than [1, 3, 3, 1]", "only the published filter is read"
            )


def _discriminator(state: Mapping[str, Tensor], source: str) -> Discriminator:
    blocks = sum(_BLOCK.fullmatch(name) is not None for name in state)
    if not 1 <= blocks <= MAX_BLOCKS:
        raise CorruptFileError(f"{source}: a discriminator of {blocks} blocks, 1 to {MAX_BLOCKS} were expected")
    outputs = ["convs.0.0.weight", *(f"convs.{i + 1}.skip.1.weight" for i in range(blocks))]
    missing = [name for name in outputs if name not in state or state[name].ndim != 4]
    if missing:
        raise CorruptFileError(f"{source}: {missing[0]} is missing, or no convolution's weight")
    config = DiscriminatorConfig(4 << blocks, tuple(state[name].shape[0] for name in outputs))
    return fitted_discriminator(config, state, origins(blocks), source)
