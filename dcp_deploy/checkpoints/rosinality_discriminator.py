"""The discriminator in training files of rosinality's stylegan2-pytorch and its descendants.

It computes the same as ours; only names differ. It is unconditional, and its minibatch deviation has groups of four.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Discriminator, DiscriminatorConfig
from .fitting import Origin, check_filters, empty_discriminator, fill, shapes_of
from .pickles.tensors import TensorView
from .pickles.torch_file import read_torch_file
from .pickles.values import printable

MAX_BLOCKS = 9  # 2048 px
_KERNEL = re.compile(r"convs\.[0-9]+\.(conv2|skip)\.0\.kernel")
_BLOCK = re.compile(r"convs\.([1-9][0-9]*)\.skip\.1\.weight")


def read_rosinality_discriminator(data: memoryview, source: str) -> Discriminator:
    """Read the discriminator of a training file, in float32. Runs no code from the file.

    Raises UnknownFormatError for a file without one, CorruptFileError for a damaged one, and the errors of
    :func:`read_torch_file`.
    """
    content = read_torch_file(data, source)
    entries = content.value.get("d") if isinstance(content.value, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(value, TensorView) for value in entries.values()):
        raise UnknownFormatError(
            f"{source}: this file has no discriminator, which would be under d",
            "what is read: the d of a training file of rosinality's stylegan2-pytorch, CAGAN, StyleKD or DCP-GAN",
        )
    state = content.tensors({printable(str(name)).removeprefix("module."): value for name, value in entries.items()})
    filters = {name: state.pop(name) for name in list(state) if _KERNEL.fullmatch(name)}
    check_filters(filters, source, tolerance=1e-4)
    return _discriminator(state, source)


def origins(blocks: int) -> dict[str, str]:
    """Return the file's name of each tensor of our discriminator with this number of blocks."""
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


def _discriminator(state: Mapping[str, Tensor], source: str) -> Discriminator:
    blocks = sum(_BLOCK.fullmatch(name) is not None for name in state)
    if not 1 <= blocks <= MAX_BLOCKS:
        raise CorruptFileError(f"{source}: a discriminator of {blocks} blocks, 1 to {MAX_BLOCKS} were expected")
    outputs = ["convs.0.0.weight", *(f"convs.{i + 1}.skip.1.weight" for i in range(blocks))]
    missing = [name for name in outputs if name not in state or state[name].ndim != 4]
    if missing:
        raise CorruptFileError(f"{source}: {missing[0]} is missing, or not the weight of a convolution")
    config = DiscriminatorConfig(4 << blocks, tuple(state[name].shape[0] for name in outputs))
    table = {name: Origin(theirs) for name, theirs in origins(blocks).items()}
    return fill(empty_discriminator(config), shapes_of(state), lambda: state, source, table)
