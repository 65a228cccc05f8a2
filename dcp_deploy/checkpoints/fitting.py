"""From a config and the tensors of a file to a network, or to a list of what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..generators.ops import fir_kernel
from .pickles.tensors import TensorView

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHOWN = 8
_MEAN_LATENTS, _MEAN_SEED, _MEAN_BATCH = 10_000, 0, 250

Network = TypeVar("Network", Generator, Discriminator)
Config = TypeVar("Config", GeneratorConfig, DiscriminatorConfig)


class Origin(NamedTuple):
    """Where a file keeps one of our tensors, and how it is stored there.

    ``leading`` and ``trailing`` count axes of length one around our shape, ``axes`` is the order of the stored axes.
    A ``flipped`` kernel is rotated by 180 degrees; ``plus`` is added to the stored values.
    """

    name: str
    leading: int = 0
    trailing: int = 0
    axes: tuple[int, ...] | None = None
    flipped: bool = False
    plus: float = 0.0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Return the stored shape of a tensor of ours."""
        padded = (1,) * self.leading + ours + (1,) * self.trailing
        return padded if self.axes is None else tuple(padded[self.axes.index(axis)] for axis in range(len(padded)))

    def tensor(self, stored: Tensor, ours: tuple[int, ...]) -> Tensor:
        """Return our tensor, of shape ``ours``, for a stored one."""
        moved = stored if self.axes is None else stored.permute(self.axes)
        flipped = moved.flip(2, 3) if self.flipped else moved
        shaped = flipped.reshape(ours).contiguous()
        return shaped + self.plus if self.plus else shaped


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise CorruptFileError that lists missing, unexpected and ill-shaped tensors."""
    problems = [f"missing {name} {list(expected[name])}" for name in expected.keys() - found.keys()]
    problems += [f"unexpected {name} {list(found[name])}" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} is {list(found[name])}, the config needs {list(expected[name])}"
        for name in expected.keys() & found.keys()
        if tuple(found[name]) != expected[name]
    ]
    if problems:
        shown = "\n  ".join(sorted(problems)[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CorruptFileError(f"{source}: the tensors do not fit the config:\n  {shown}{more}")


def check_filters(filters: Mapping[str, Tensor], source: str, *, gain: float = 1.0, tolerance: float) -> None:
    """Raise UnknownFormatError unless all low-pass filters of a file are ours, which is a constant of our networks."""
    ours = fir_kernel(gain)
    for name, found in filters.items():
        if found.shape != ours.shape or not torch.allclose(found.float(), ours, atol=tolerance):
            raise UnknownFormatError(
                f"{source}: {name} is another low-pass filter than [1, 3, 3, 1]",
                "Give a network with the published filter.",
            )


def empty(kind: Callable[[Config], Network], config: Config) -> Network:
    """Return a network of this kind without memory for its weights."""
    with torch.device("meta"):
        return kind(config)


def fill(
    network: Network,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[], Mapping[str, Tensor]],
    source: str,
    table: Mapping[str, Origin] | None = None,
) -> Network:
    """Return an empty network with the tensors of a file, in float32 and trainable.

    ``shapes`` are those of the stored tensors; ``read`` decodes them once their shapes are checked. ``table`` gives the
    origin of each of our tensors; without it the names of the file are ours. Raises CorruptFileError if names or shapes
    do not fit the network, or a tensor does not hold finite floats.
    """
    ours = shapes_of(network.state_dict())
    table = {name: Origin(name) for name in ours} if table is None else table
    check_shapes({table[name].name: table[name].shape(shape) for name, shape in ours.items()}, shapes, source)
    state = read()
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS:
            raise CorruptFileError(f"{source}: {name} is stored as {tensor.dtype}, floats were expected")
        if not torch.isfinite(tensor).all():
            raise CorruptFileError(f"{source}: {name} holds values that are not finite")
    fitted = {name: table[name].tensor(state[table[name].name], shape).float() for name, shape in ours.items()}
    network.load_state_dict(fitted, strict=True, assign=True)
    return network.requires_grad_(True)


def shapes_of(tensors: Mapping[str, Tensor] | Mapping[str, TensorView]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def fill_mean_code(generator: Generator, name: str) -> str:
    """Estimate ``w_avg``, which the file lacks under ``name``, and return the note that says so."""
    generator.mapping.w_avg.copy_(mean_code(generator))
    return f"no {name}: the mean code is that of {_MEAN_LATENTS:,} mapped latents of seed {_MEAN_SEED}"


def mean_code(generator: Generator) -> Tensor:
    """Return the mean of 10,000 un-truncated codes, [w_dim], from latents of a fixed seed and all classes in turn.

    Training keeps this mean as a moving average, ``w_avg``; truncation pulls codes towards it.
    """
    config = generator.config
    random = torch.Generator().manual_seed(_MEAN_SEED)
    total = torch.zeros(config.w_dim, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, _MEAN_LATENTS, _MEAN_BATCH):
            z = torch.randn(_MEAN_BATCH, config.z_dim, generator=random)
            c = None
            if config.c_dim:
                c = torch.nn.functional.one_hot(torch.arange(start, start + _MEAN_BATCH) % config.c_dim, config.c_dim)
                c = c.to(torch.float32)
            total += generator.mapping.w(z, c).double().sum(dim=0)
    return (total / _MEAN_LATENTS).float()
