"""The discriminator in NVIDIA's PyTorch snapshots, "D" beside "G_ema", of stylegan2-ada-pytorch and stylegan3 alike.

It computes the same as ours if it is residual, unconditional and takes RGB images. The recorded attributes say so; a
file that differs is refused by name. The augmentation in front of it is not part of it.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..errors import UnknownFormatError
from ..generators import Discriminator, DiscriminatorConfig
from .fitting import Origin, empty_discriminator, fill, shapes_of
from .nvidia import check_dense, common_clamp, drop_filters
from .pickles.persistence import Module, PersistentRecord, module_tree, read_persistent
from .pickles.values import Load

_SQRT2 = math.sqrt(2.0)
_LARGEST_GROUP = 1 << 16  # images in a group of the minibatch deviation


def read_nvidia_discriminator(data: memoryview, source: str) -> Discriminator:
    """Read the D of a snapshot, in float32. Runs no code from the file and decodes no other network's tensors.

    Raises UnsafeFileError for a pickle that names anything unexpected, UnknownFormatError for a file without D and for
    discriminators that compute something else, CorruptFileError for damaged files.
    """
    load = Load.of(source, len(data))
    document = read_persistent(data, load)
    record = document.get("D") if isinstance(document, dict) else None
    if type(record) is not PersistentRecord:
        raise UnknownFormatError(
            f"{source}: this file has no discriminator, which would be under D",
            "what is read: whole snapshots of training; a file with G_ema alone has none",
        )
    network = module_tree(record, load)
    config = _config(network)
    views = network.state()
    drop_filters(views, load)
    table = {name: Origin(theirs) for name, theirs in origins(config.resolution).items()}

    def read() -> dict[str, Tensor]:
        return {name: view.tensor(load) for name, view in views.items()}

    return fill(empty_discriminator(config), shapes_of(views), read, source, table)


def origins(resolution: int) -> dict[str, str]:
    """Return the file's name of each tensor of our discriminator at this resolution."""
    table = {f"fromrgb.{kind}": f"b{resolution}.fromrgb.{kind}" for kind in ("weight", "bias")}
    for i in range(resolution.bit_length() - 3):
        for name in ("conv0.weight", "conv0.bias", "conv1.weight", "conv1.bias", "skip.weight"):
            table[f"blocks.{i}.{name}"] = f"b{resolution >> i}.{name}"
    for name in ("conv", "fc", "out"):
        table |= {f"{name}.{kind}": f"b4.{name}.{kind}" for kind in ("weight", "bias")}
    return table


def _config(network: Module) -> DiscriminatorConfig:
    """Return sizes and constants, after checking every attribute against what our network computes."""
    if network.class_name != "Discriminator":
        raise network.unsupported("D is of another class than Discriminator")
    network.require(img_channels=3, c_dim=0)
    resolution = network.whole("img_resolution")
    if not 8 <= resolution <= 8192 or resolution & (resolution - 1):
        raise network.unsupported(f"img_resolution is {resolution}, which is not a power of two from 8 to 8192")
    blocks = [network.child(f"b{resolution >> i}") for i in range(resolution.bit_length() - 3)]
    last = network.child("b4")
    for block in (*blocks, last):
        block.require(architecture="resnet")
    first = blocks[0].child("fromrgb")
    _check_conv(first)
    _check_conv(last.child("conv"))
    for block in blocks:
        _check_block(block)
    check_dense(last.child("fc"), "lrelu", 1.0)
    check_dense(last.child("out"), "linear", 1.0)
    outputs = [first, *(block.child("conv1") for block in blocks)]
    activated = [*outputs, *(block.child("conv0") for block in blocks), last.child("conv")]
    settings: dict[str, Any] = {"mbstd_group": _group(last), "conv_clamp": common_clamp(activated)}
    try:
        return DiscriminatorConfig(resolution, tuple(conv.shape("weight", 4)[0] for conv in outputs), **settings)
    except ValueError as error:
        raise network.unsupported(str(error)) from error


def _check_block(block: Module) -> None:
    _check_conv(block.child("conv0"))
    _check_conv(block.child("conv1"), down=2)
    _check_conv(block.child("skip"), down=2, activation="linear", gain=1.0)
    block.child("skip").require(conv_clamp=None)


def _check_conv(conv: Module, *, down: int = 1, activation: str = "lrelu", gain: float = _SQRT2) -> None:
    """Refuse a convolution that is scaled, padded, activated or down-sampled in another way than ours."""
    _, fan_in, kernel, _ = conv.shape("weight", 4)
    weight_gain = 1 / math.sqrt(max(fan_in * kernel * kernel, 1))
    conv.require(activation=activation, act_gain=gain, up=1, down=down, padding=kernel // 2, weight_gain=weight_gain)


def _group(last: Module) -> int:
    """Return the number of images in a group of the minibatch deviation."""
    if "mbstd" not in last.children:
        raise last.unsupported("it has no minibatch deviation")
    deviation = last.child("mbstd")
    deviation.require(num_channels=1)
    group = deviation.fact("group_size")
    if type(group) is not int or not 1 <= group <= _LARGEST_GROUP:
        raise deviation.unsupported(f"group_size is not a number of images from 1 to {_LARGEST_GROUP}")
    return group
