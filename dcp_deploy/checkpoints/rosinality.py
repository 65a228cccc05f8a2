"""Generators in the naming of rosinality's stylegan2-pytorch, and the pruned ones that CAGAN, StyleKD and DCP-GAN save.

All are files of torch.save with a state dict. Little but tensors describes the network, so resolution, widths and
depth come from names and shapes. The layers compute what ours compute; only their names and axes of length one differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Generator, GeneratorConfig
from ..generators.ops import fir_kernel
from .checkpoint import Checkpoint
from .fitting import check_shapes, expected_shapes, fitted_generator
from .mean_code import LATENTS, SEED, mean_code
from .pickles.tensors import TensorView
from .pickles.torch_file import TorchFile, read_torch_file
from .pickles.values import printable

LR_MLP = 0.01  # the mapping's learning rate multiplier; files that do not tell are taken to have the published one
NOISE_SEED = 0
MAX_RESOLUTION = 2048  # noise maps may have to be drawn, so that a short file could ask for any amount of memory

_READS = "what is read: rosinality's stylegan2-pytorch, CAGAN, StyleKD and DCP-GAN (g_ema, g or a bare state dict)"
_FACTS = ("arch", "size", "latent", "n_mlp", "channel_multiplier", "lr_mlp", "iter", "batch")  # of the stored options
_STYLED = {
    "weight": "conv.weight",
    "bias": "activate.bias",
    "noise_strength": "noise.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}
_TORGB = {**_STYLED, "bias": "bias"}
del _TORGB["noise_strength"]
_STYLEKD = "style.0.weight"  # elsewhere number 0 of the mapping network is a normalisation without weights
_FIR = re.compile(r"(convs\.[0-9]+\.conv\.blur|to_rgbs\.[0-9]+\.upsample)\.kernel")
_CONV_WEIGHT = re.compile(r"convs\.[0-9]+\.conv\.weight")
_STYLE_WEIGHT = re.compile(r"style\.[1-9][0-9]*\.weight")


class Origin(NamedTuple):
    """Where a tensor of ours is in the file: its name, and how many axes of length one stand around its shape."""

    name: str
    leading: int = 0
    trailing: int = 0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * self.leading + ours + (1,) * self.trailing


def read_rosinality(data: memoryview, source: str) -> Checkpoint:
    """Read a generator that rosinality's code or a descendant of it saved. Runs no code from the file.

    Raises UnknownFormatError for other content and for variants that compute something else, CorruptFileError for
    tensors that do not fit together, and what :func:`read_torch_file` raises.
    """
    content = read_torch_file(data, source)
    key, views = _state_dict(content.value, source)
    facts = _facts(content.value)
    _refuse_other_architectures(views, facts, source)
    state = content.tensors(views)
    mean = _stored_mean(content, state)
    _drop_filters(state, source)
    lr, doubt = _mapping_lr(state, facts)
    config = _config(state, lr, source)
    notes = ["no g_ema: these are the weights of g, without the moving average"] if key == "g" else []
    notes += [*doubt, *_drawn_noise(state, config)]
    generator = _generator(config, state, mean, source)
    if mean is None:
        with torch.no_grad():
            generator.mapping.w_avg.copy_(mean_code(generator))
        notes.append(f"no latent_avg: the mean code is that of {LATENTS:,} mapped latents of seed {SEED}")
    extra = {"state_dict": key or "the file itself", "options": facts}
    return Checkpoint(generator, "rosinality", tuple(notes), content.globals, extra=extra)


def origins(config: GeneratorConfig) -> dict[str, Origin]:
    """Name of each tensor of a StyleGAN2 generator -> where rosinality's state dict has it."""
    table = {"mapping.w_avg": Origin("latent_avg"), "synthesis.b4.const": Origin("input.input", 1)}
    for i in range(config.mapping_layers):
        table |= {f"mapping.fc{i}.{kind}": Origin(f"style.{i + 1}.{kind}") for kind in ("weight", "bias")}
    table |= _layer_origins("synthesis.b4", "conv1", "conv1", 0) | _torgb_origins("synthesis.b4", "to_rgb1")
    for k, resolution in enumerate(config.resolutions[1:]):
        block = f"synthesis.b{resolution}"
        table |= _layer_origins(block, "conv0", f"convs.{2 * k}", 2 * k + 1)
        table |= _layer_origins(block, "conv1", f"convs.{2 * k + 1}", 2 * k + 2)
        table |= _torgb_origins(block, f"to_rgbs.{k}")
    return table


# ---- what the file holds ----


def _state_dict(document: Any, source: str) -> tuple[str, dict[str, TensorView]]:
    """The generator's state dict and the key it is stored under ("" for a bare one)."""
    entries, key = document, ""
    if isinstance(document, Mapping):
        key = next((key for key in ("g_ema", "g") if key in document), "")
        entries = document[key] if key else document
    if isinstance(entries, Mapping):
        state = {printable(str(name)).removeprefix("module."): value for name, value in entries.items()}
        if {"input.input", "conv1.conv.weight", _STYLEKD} & state.keys():
            _require_tensors(state, source)
            return key, state
    found = f"{_described(entries)} under {key!r}" if key else _described(entries)
    raise UnknownFormatError(f"{source}: a torch.save file with other content: {found}", _READS)


def _require_tensors(state: Mapping[str, Any], source: str) -> None:
    others = [name for name, value in state.items() if not isinstance(value, TensorView)]
    if others:
        raise CorruptFileError(f"{source}: what should be tensors is something else: {', '.join(others[:8])}")


def _described(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "a tensor" if isinstance(value, TensorView) else f"a {type(value).__name__}"
    names = [printable(str(name), 60) for name in value]
    made = " (as MobileStyleGAN writes)" if {"params", "ckpt"} <= set(names) else ""
    return f"a dictionary of {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}{made}"


def _stored_mean(content: TorchFile, state: dict[str, Tensor]) -> Tensor | None:
    """``latent_avg``, which stands beside the state dict ([W] or [1, W]) or, in a bare one, inside it."""
    inside = state.pop("latent_avg", None)
    beside = content.value.get("latent_avg")
    if inside is not None or beside is None:
        return None if inside is None else inside.flatten()
    _require_tensors({"latent_avg": beside}, content.load.source)
    return content.tensors({"latent_avg": beside})["latent_avg"].flatten()


def _facts(document: Any) -> dict[str, Any]:
    """The training options that say something about the network, where the file has them."""
    options = document.get("args") if isinstance(document, Mapping) else None
    if not isinstance(options, Mapping):
        return {}
    texts = {name: printable(options[name]) for name in _FACTS if type(options.get(name)) is str}
    return texts | {name: options[name] for name in _FACTS if type(options.get(name)) in (int, float)}


# ---- variants that share the names and compute something else ----


def _refuse_other_architectures(state: Mapping[str, TensorView], facts: Mapping[str, Any], source: str) -> None:
    wavelets = [name for name in state if {"iwt", "dwt"} & set(name.split("."))]
    if wavelets or facts.get("arch") == "swagan":
        found = wavelets[0] if wavelets else "arch 'swagan'"
        raise UnknownFormatError(f"{source}: {found}: a SWAGAN, which draws wavelets and not pixels", _READS)
    if _STYLEKD in state:
        raise UnknownFormatError(
            f"{source}: {_STYLEKD}: a mapping network made by StyleKD's mlp_cfg, which normalises no latents",
            "only students with the teacher's own mapping network are read",
        )
    for name, tensor in state.items():
        a_conv = name == "conv1.conv.weight" or _CONV_WEIGHT.fullmatch(name)
        if a_conv and len(tensor.shape) == 5 and tensor.shape[3:] != (3, 3):
            raise UnknownFormatError(
                f"{source}: {name} is {list(tensor.shape)}: a convolution with another kernel than 3x3",
                "DCP-GAN and StyleKD can build such students; only those with 3x3 kernels throughout are read",
            )


def _drop_filters(state: dict[str, Tensor], source: str) -> None:
    """Take the FIR filters out of the state dict: ours is a constant, so theirs must be the same."""
    ours = fir_kernel(gain=4.0)
    for name in [name for name in state if _FIR.fullmatch(name)]:
        kernel = state.pop(name).float()
        if kernel.shape != ours.shape or not torch.allclose(kernel, ours, atol=1e-3):
            raise UnknownFormatError(
                f"{source}: {name} is another low-pass filter than [1, 3, 3, 1]", "only the published filter is read"
            )


# ---- the network ----


def _mapping_lr(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[float, list[str]]:
    """The mapping's learning rate multiplier, and a note when the weights speak against it.

    Weights start as N(0, 1) / multiplier and stay near that size: 100 for 0.01, and 1 for a multiplier of 1.
    """
    stored = facts.get("lr_mlp")
    if isinstance(stored, int | float) and 0 < stored < math.inf:
        return float(stored), []
    sizes = [tensor.float().square().mean() for name, tensor in state.items() if _STYLE_WEIGHT.fullmatch(name)]
    size = float(torch.stack(sizes).mean().sqrt()) if sizes else 1 / LR_MLP
    if size > 0.1 / LR_MLP:
        return LR_MLP, []
    note = f"lr_mlp {LR_MLP} is assumed, but the mapping's weights have size {size:.2g} instead of about {1 / LR_MLP:g}"
    return LR_MLP, [f"{note}: if the network was trained with another one, its images will be wrong"]


def _config(state: Mapping[str, Tensor], lr_multiplier: float, source: str) -> GeneratorConfig:
    """Resolution from the number of convolutions, widths and code sizes from shapes."""
    count = sum(_CONV_WEIGHT.fullmatch(name) is not None for name in state)
    depth = sum(_STYLE_WEIGHT.fullmatch(name) is not None for name in state)
    if count % 2 or 4 << count // 2 > MAX_RESOLUTION:
        raise CorruptFileError(
            f"{source}: {count} convolutions after the first: no StyleGAN2 of up to {MAX_RESOLUTION} px has so many"
        )
    layers = ["conv1", *(f"convs.{i}" for i in range(count))]
    shapes = [_shape(state, f"{layer}.conv.weight", 5, source) for layer in layers]
    w_dim, z_dim = _shape(state, "style.1.weight", 2, source)
    try:
        return GeneratorConfig(
            resolution=4 << count // 2,
            widths=(shapes[0][2], *(shape[1] for shape in shapes)),
            z_dim=z_dim,
            w_dim=w_dim,
            mapping_layers=depth,
            mapping_lr_multiplier=lr_multiplier,
        )
    except ValueError as error:
        raise CorruptFileError(f"{source}: no generator has these shapes: {error}") from error


def _shape(state: Mapping[str, Tensor], name: str, axes: int, source: str) -> tuple[int, ...]:
    if name not in state:
        raise CorruptFileError(f"{source}: {name} is missing")
    if state[name].ndim != axes:
        raise CorruptFileError(f"{source}: {name} is {list(state[name].shape)}, {axes} axes were expected")
    return tuple(state[name].shape)


def _drawn_noise(state: dict[str, Tensor], config: GeneratorConfig) -> list[str]:
    """Draw the noise maps when the file has none, as files of the first months do; says so."""
    if any(name.startswith("noises.") for name in state):
        return []
    random = torch.Generator().manual_seed(NOISE_SEED)
    for i in range(config.num_ws - 1):
        size = 4 << (i + 1) // 2
        state[f"noises.noise_{i}"] = torch.randn(1, 1, size, size, generator=random)
    return [f"no noise maps: drawn from seed {NOISE_SEED}, so constant noise differs from the original's"]


def _generator(config: GeneratorConfig, state: dict[str, Tensor], mean: Tensor | None, source: str) -> Generator:
    """Our generator of these tensors, once every name and shape was found as the config demands."""
    ours = expected_shapes(config)
    table = origins(config)
    state["latent_avg"] = torch.zeros(config.w_dim) if mean is None else mean
    check_shapes(
        {origin.name: origin.shape(ours[name]) for name, origin in table.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        source,
    )
    renamed = {name: state[origin.name].reshape(ours[name]) for name, origin in table.items()}
    return fitted_generator(config, renamed, source)


def _layer_origins(block: str, conv: str, layer: str, noise: int) -> dict[str, Origin]:
    around = {"weight": 1, "noise_strength": 1}
    table = {
        f"{block}.{conv}.{ours}": Origin(f"{layer}.{theirs}", around.get(ours, 0)) for ours, theirs in _STYLED.items()
    }
    return {**table, f"{block}.{conv}.noise_const": Origin(f"noises.noise_{noise}", 2)}


def _torgb_origins(block: str, layer: str) -> dict[str, Origin]:
    around = {"weight": (1, 0), "bias": (1, 2)}
    return {
        f"{block}.torgb.{ours}": Origin(f"{layer}.{theirs}", *around.get(ours, (0, 0)))
        for ours, theirs in _TORGB.items()
    }
