"""From a config and tensors of any origin to a network, or to a list of what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CorruptFileError
from ..generators import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHOWN = 8


def expected_shapes(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a generator's state dict."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}


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


def check_values(state: Mapping[str, Tensor], source: str) -> None:
    """Raise CorruptFileError unless every tensor is of finite floats."""
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS:
            raise CorruptFileError(f"{source}: {name} is stored as {tensor.dtype}, floats were expected")
        if not torch.isfinite(tensor).all():
            raise CorruptFileError(f"{source}: {name} holds values that are not finite")


def fitted_generator(config: GeneratorConfig, state: Mapping[str, Tensor], source: str) -> Generator:
    """A generator of these tensors, as float32, in evaluation mode and trainable.

    Raises CorruptFileError when names or shapes are not those of ``config``, or a tensor is not of finite floats.
    """
    check_shapes(expected_shapes(config), {name: tuple(tensor.shape) for name, tensor in state.items()}, source)
    check_values(state, source)
    with torch.device("meta"):  # no memory or random numbers for weights that are replaced at once
        generator = Generator(config)
    generator.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    return generator.eval().requires_grad_(True)


def fitted_discriminator(
    config: DiscriminatorConfig, state: Mapping[str, Tensor], table: Mapping[str, str], source: str
) -> Discriminator:
    """A discriminator of these tensors, as float32 and trainable. ``table``: our name of each to the file's.

    Raises CorruptFileError as :func:`fitted_generator` does, under the names of the file.
    """
    with torch.device("meta"):
        network = Discriminator(config)
    check_shapes(
        {table[name]: tuple(tensor.shape) for name, tensor in network.state_dict().items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        source,
    )
    check_values(state, source)
    network.load_state_dict({name: state[theirs].float() for name, theirs in table.items()}, strict=True, assign=True)
    return network.requires_grad_(True)
