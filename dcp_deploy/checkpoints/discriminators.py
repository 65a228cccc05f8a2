"""The discriminators in training files: NVIDIA's PyTorch snapshots, and rosinality's stylegan2-pytorch.

NVIDIA's is "D" beside "G_ema", of stylegan2-ada-pytorch and stylegan3 alike. It computes the same as ours if it is
residual, unconditional and takes RGB images. The recorded attributes say so; a file that differs is refused by name.
The augmentation in front of it is not part of it. Rosinality's, and that of its descendants, differs from ours in names
only. It is unconditional, and its minibatch deviation has groups of four.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Discriminator, DiscriminatorConfig
from .fitting import Origin, check_filters, empty, fill, shapes_of
from .nvidia import check_dense, common_clamp, drop_filters
from .pickles.content import Content
from .pickles.persistence import Module, PersistentRecord, module_tree
from .pickles.tensors import TensorView
from .pickles.values import Inert, printable

MAX_BLOCKS = 9  # of rosinality's: 2048 px
_SQRT2 = math.sqrt(2.0)
_LARGEST_GROUP = 1 << 16  # images in a group of the minibatch deviation
_KERNEL = re.compile(r"convs\.[0-9]+\.(conv2|skip)\.0\.kernel")
_BLOCK = re.compile(r"convs\.([1-9][0-9]*)\.skip\.1\.weight")


def find_discriminator(content: Content) -> Discriminator:
    """Read the discriminator of a file, in float32: NVIDIA's under D, or rosinality's under d or a prefix.

    Raises UnknownFormatError for a file without one and for discriminators that compute something else,
    CorruptFileError for damaged ones, UnsafeFileError for one with a part of a class that is not read.
    """
    document = content.value if isinstance(content.value, Mapping) else {}
    record = document.get("D")
    if type(record) is PersistentRecord:
        return _nvidia(record, content)
    for entries in (document.get("d"), document.get("state_dict"), document):
        if isinstance(entries, Mapping):
            prefix = next((name[: -len(_FIRST)] for name in entries if _begins(name)), None)
            if prefix is not None:
                below = {str(name): view for name, view in entries.items() if str(name).startswith(prefix)}
                views = {printable(name[len(prefix) :]): view for name, view in below.items()}
                if all(type(view) is TensorView for view in views.values()):
                    return _rosinality(views, content)
    if type(record) is Inert:
        raise content.load.inert(record, "D")
    raise UnknownFormatError(
        f"{content.load.source}: this file has no discriminator, which would be under D or d",
        "Give one of these: D in a snapshot of NVIDIA's PyTorch repositories, d in a training file of rosinality's "
        "stylegan2-pytorch, CAGAN, StyleKD or DCP-GAN; a file with a generator alone has none.",
    )


_FIRST = "convs.0.0.weight"


def _begins(name: Any) -> bool:
    return type(name) is str and name.endswith(_FIRST) and (name == _FIRST or name.endswith(f".{_FIRST}"))


# ---- NVIDIA's ----


def _nvidia(record: PersistentRecord, content: Content) -> Discriminator:
    network = module_tree(record, content.load)
    config = _config(network)
    views = network.state()
    drop_filters(views, content.load)
    table = nvidia_origins(config.resolution)
    return fill(
        empty(Discriminator, config), shapes_of(views), lambda: content.tensors(views), content.load.source, table
    )


def nvidia_origins(resolution: int) -> dict[str, Origin]:
    """Return where the file has each tensor of our discriminator at this resolution."""
    table = {f"fromrgb.{kind}": f"b{resolution}.fromrgb.{kind}" for kind in ("weight", "bias")}
    for i in range(resolution.bit_length() - 3):
        for name in ("conv0.weight", "conv0.bias", "conv1.weight", "conv1.bias", "skip.weight"):
            table[f"blocks.{i}.{name}"] = f"b{resolution >> i}.{name}"
    for name in ("conv", "fc", "out"):
        table |= {f"{name}.{kind}": f"b4.{name}.{kind}" for kind in ("weight", "bias")}
    return {name: Origin(theirs) for name, theirs in table.items()}


def _config(network: Module) -> DiscriminatorConfig:
    """Return sizes and constants, after checking every attribute against what our network computes."""
    if network.class_name != "Discriminator":
        raise network.unsupported("D is of another class than Discriminator")
    for module in network.modules():
        if module.class_name not in _CLASSES:
            raise module.unsupported(f"a module of the class {module.class_name}, which our network lacks")
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
        _check_conv(block.child("conv0"))
        _check_conv(block.child("conv1"), down=2)
        _check_conv(block.child("skip"), down=2, activation="linear", gain=1.0)
        block.child("skip").require(conv_clamp=None)
    check_dense(last.child("fc"), "lrelu", 1.0)
    check_dense(last.child("out"), "linear", 1.0)
    outputs = [first, *(block.child("conv1") for block in blocks)]
    activated = [*outputs, *(block.child("conv0") for block in blocks), last.child("conv")]
    area = last.child("fc").shape("weight", 2)[1] / max(last.child("conv").shape("weight", 4)[0], 1)
    # StyleGAN-Human records only that its images are not square; they are twice as high as wide.
    base = (4, 2) if area == 8 and network.facts.get("square") is False else (4, 4)
    if area != base[0] * base[1]:
        raise network.unsupported(f"its last features have {area:g} pixels, and 4x4 are read (or StyleGAN-Human's 4x2)")
    settings: dict[str, Any] = {"mbstd_group": _group(last), "conv_clamp": common_clamp(activated), "base": base}
    try:
        return DiscriminatorConfig(resolution, tuple(conv.shape("weight", 4)[0] for conv in outputs), **settings)
    except ValueError as error:
        raise network.unsupported(str(error)) from error


_CLASSES = (
    "Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue", "Conv2dLayer", "FullyConnectedLayer",
    "MinibatchStdLayer", "MappingNetwork",
)  # fmt: skip


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


# ---- rosinality's ----


def _rosinality(views: Mapping[str, TensorView], content: Content) -> Discriminator:
    source = content.load.source
    state = content.tensors(views)
    filters = {name: state.pop(name) for name in list(state) if _KERNEL.fullmatch(name)}
    check_filters(filters, source, tolerance=1e-4)
    return _discriminator(state, source)


def rosinality_origins(blocks: int) -> dict[str, Origin]:
    """Return where the file has each tensor of our discriminator with this number of blocks."""
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
    return {name: Origin(theirs) for name, theirs in table.items()}


def _discriminator(state: Mapping[str, Tensor], source: str) -> Discriminator:
    blocks = sum(_BLOCK.fullmatch(name) is not None for name in state)
    if not 1 <= blocks <= MAX_BLOCKS:
        raise CorruptFileError(f"{source}: a discriminator of {blocks} blocks, 1 to {MAX_BLOCKS} were expected")
    outputs = ["convs.0.0.weight", *(f"convs.{i + 1}.skip.1.weight" for i in range(blocks))]
    missing = [name for name in outputs if name not in state or state[name].ndim != 4]
    if missing:
        raise CorruptFileError(f"{source}: {missing[0]} is missing, or not the weight of a convolution")
    config = DiscriminatorConfig(4 << blocks, tuple(state[name].shape[0] for name in outputs))
    return fill(empty(Discriminator, config), shapes_of(state), lambda: state, source, rosinality_origins(blocks))
