"""What the readers of plain state dicts share: checks of shapes, and what is assumed where nothing is recorded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from .architectures import READS
from .pickles.content import Content
from .pickles.tensors import TensorView
from .pickles.values import Inert, Load

LR_MLP = 0.01  # the mapping network's published learning rate multiplier, assumed for files that do not record one
NOISE_SEED = 0
MAX_RESOLUTION = 2048  # missing noise maps are drawn; without a limit a short file could ask for any amount of memory


def shape_of(tensors: Mapping[str, Tensor], name: str, axes: int, source: str) -> tuple[int, ...]:
    """Return the shape of a tensor. Raises CorruptFileError if it is missing or has another number of axes."""
    if name not in tensors:
        raise CorruptFileError(f"{source}: {name} is missing")
    if tensors[name].ndim != axes:
        raise CorruptFileError(f"{source}: {name} is {list(tensors[name].shape)}, {axes} axes were expected")
    return tuple(tensors[name].shape)


def check_channels(tensors: Mapping[str, Tensor], name: str, axis: int, source: str) -> None:
    """Raise UnknownFormatError unless a toRGB weight makes three channels."""
    channels = tensors[name].shape[axis] if name in tensors and tensors[name].ndim > axis else 3
    if channels != 3:
        kind = {1: "grey images", 4: "images with an alpha channel"}.get(channels, "other images than RGB")
        raise UnknownFormatError(
            f"{source}: {name} is {list(tensors[name].shape)}: the network generates {channels} channels, {kind}",
            "Give a generator of RGB images.",
        )


def check_square_mapping(
    shapes: Sequence[tuple[int, ...]], name: str, c_dim: int, source: str, *, recorded: bool = False
) -> None:
    """Refuse the shapes [out, in] of a mapping network that computes something else than ours.

    Some converters drop the embedding of labels. Then the first layer still has inputs for it, and no image is right.
    Latents longer than codes are taken for that, unless the file records its sizes: the published networks have none.
    """
    width = shapes[0][0]
    for shape in shapes[1:]:
        if shape != (width, width):
            features = shape[1] if shape[1] != width else shape[0]
            raise UnknownFormatError(
                f"{source}: the mapping network has layers of {features} features (layer_features) and w_dim {width}",
                "Give another generator: only mapping networks whose layers all have w_dim features are read.",
            )
    if not c_dim and shapes[0][1] > width and not recorded:
        raise UnknownFormatError(
            f"{source}: {name} is {list(shapes[0])} while all later layers are square: a class-conditional network "
            "without its embedding of labels, which the converter dropped",
            "Give the file that it was converted from.",
        )


def assumed_lr(weights: Sequence[Tensor], name: str) -> tuple[float, list[str]]:
    """Return the published learning rate multiplier of mapping networks, and a note unless the weights confirm it.

    Weights start as N(0, 1) / multiplier and stay near that size: 100 for 0.01, and 1 for a multiplier of 1.
    """
    sizes = [weight.double().square().mean() for weight in weights if weight.is_floating_point()]
    size = float(torch.stack(sizes).mean().sqrt()) if sizes else 1 / LR_MLP
    if 0.7 / LR_MLP <= size <= 1.4 / LR_MLP:
        return LR_MLP, []
    note = f"{name} {LR_MLP} is assumed, but the mapping's weights have size {size:.2g} instead of about {1 / LR_MLP:g}"
    return LR_MLP, [f"{note}: if the network was trained with another one, its images will be wrong"]


def read_tensors(
    views: Mapping[str, TensorView], others: Mapping[str, Any], known: re.Pattern[str], content: Content
) -> dict[str, Tensor]:
    """Return the tensors of a state dict.

    Raises UnknownFormatError for weights that torch.nn.utils split up (by pruning, normalisation, parametrisation), and
    UnsafeFileError if a part of the layers, whose names start like ``known``, is an inert value.
    """
    for name in views:
        if _SPLIT.search(name):
            raise UnknownFormatError(
                f"{content.load.source}: {name}: a weight that torch.nn.utils keeps in parts",
                "Remove the pruning or parametrisation before saving (torch.nn.utils.prune.remove, for example).",
            )
    for name, value in others.items():
        if type(value) is Inert and known.match(name):
            raise content.load.inert(value, name)
    return content.tensors(views)


_SPLIT = re.compile(r"_orig$|_mask$|\.parametrizations\.|\.weight_[gv]$")


def drawn_noise(tensors: dict[str, Tensor], maps: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Add the noise maps that a state dict lacks; return the note that says so.

    ``maps`` gives the shape of each by its name, in the order of computation.
    """
    missing = [name for name in maps if name not in tensors]
    if not missing:
        return []
    random = torch.Generator().manual_seed(NOISE_SEED)
    for name, shape in maps.items():
        made = torch.randn(shape, generator=random)
        tensors.setdefault(name, made)
    which = "no noise maps" if len(missing) == len(maps) else f"no noise map {', '.join(missing[:4])}"
    return [f"{which}: drawn from seed {NOISE_SEED}, so constant noise differs from the original's"]


def set_aside(
    tensors: dict[str, Tensor], needed: Collection[str], others: Mapping[str, Any], known: re.Pattern[str], load: Load
) -> list[str]:
    """Remove the tensors that a network does not need; return a note that names them.

    Raises UnknownFormatError for a tensor inside its own layers, whose names start like ``known``: it shows that they
    compute something else; CorruptFileError if one of the ``others``, which are not tensors, is needed.
    """
    for name in needed:
        if name in others:
            raise load.damaged(f"{name} is not a tensor")
    inside = [name for name in tensors if name not in needed and known.match(name)]
    if inside:
        shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in inside[:4])
        raise UnknownFormatError(f"{load.source}: a network with other layers than ours: unexpected {shown}", READS)
    extra = [name for name in tensors if name not in needed]
    for name in extra:
        del tensors[name]
    more = f" and {len(extra) - 4} more" if len(extra) > 4 else ""
    return [f"not needed and left out: {', '.join(extra[:4])}{more}"] if extra else []
