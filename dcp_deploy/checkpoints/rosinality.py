"""Generators of rosinality's stylegan2-pytorch, and pruned ones of CAGAN, StyleKD and DCP-GAN.

Resolution, widths and depth come from the names and shapes of its tensors.
The layers compute the same as ours; only their names and axes of length one differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Generator, GeneratorConfig
from .architectures import READS
from .checkpoint import Checkpoint
from .fitting import Origin, check_filters, empty, fill, fill_mean_code, shapes_of
from .networks import Found, StateDict
from .pickles.content import Content
from .pickles.numpy_values import ArrayRecord
from .pickles.tensors import TensorView
from .pickles.values import is_number, printable
from .state_dicts import (
    MAX_RESOLUTION,
    assumed_lr,
    check_channels,
    check_square_mapping,
    drawn_noise,
    read_tensors,
    set_aside,
    shape_of,
)

_FACTS = ("arch", "size", "latent", "n_mlp", "channel_multiplier", "lr_mlp", "iter", "batch")  # of the stored options
_MODULATED = {
    "weight": Origin("conv.weight", leading=1),
    "affine.weight": Origin("conv.modulation.weight"),
    "affine.bias": Origin("conv.modulation.bias"),
}
_CONV = {**_MODULATED, "bias": Origin("activate.bias"), "noise_strength": Origin("noise.weight", leading=1)}
_TORGB = {**_MODULATED, "bias": Origin("bias", leading=1, trailing=2)}
_STYLEKD = "style.0.weight"  # in other files layer 0 of the mapping network is a normalisation without weights
_FIR = re.compile(r"(convs\.[0-9]+\.conv\.blur|to_rgbs\.[0-9]+\.upsample)\.kernel")
_CONV_WEIGHT = re.compile(r"convs\.[0-9]+\.conv\.weight")
_KNOWN = re.compile(r"(style|input|conv1|convs|to_rgb1|to_rgbs)\.")
_STYLE_WEIGHT = re.compile(r"style\.[1-9][0-9]*\.weight")


def read_rosinality(found: Found, state: StateDict, content: Content) -> Checkpoint:
    """Read a generator from a state dict in the names of rosinality's code, of a descendant of it, or of BasicSR.

    Raises UnknownFormatError for variants that compute something else, CorruptFileError for tensors that do not fit
    together.
    """
    source, facts = content.load.source, _facts(state.beside)
    mapping = state.arguments.get("mapping_kwargs")
    if isinstance(mapping, dict) and is_number(mapping.get("lr_multiplier")):
        facts["lr_mlp"] = mapping["lr_multiplier"]
    renamed = state.layout == "basicsr"
    views = {_renamed(name): view for name, view in state.views.items()} if renamed else dict(state.views)
    others = {_renamed(name): value for name, value in state.others.items()} if renamed else state.others
    _refuse_other_architectures(views, facts, source)
    tensors = read_tensors(views, others, _KNOWN, content)
    mean, notes = _stored_mean(content, state, tensors)
    filters = {name: tensors.pop(name) for name in list(tensors) if _FIR.fullmatch(name)}
    check_filters(filters, source, gain=4.0, tolerance=1e-3)
    lr, doubt = _mapping_lr(tensors, facts)
    config = _config(tensors, lr, source, recorded="latent" in facts)
    notes += [*doubt, *drawn_noise(tensors, _noise_maps(config))]
    table = origins(config)
    needed = {origin.name for origin in table.values()}
    notes += set_aside(tensors, needed, others, _KNOWN, content.load)
    tensors["latent_avg"] = torch.zeros(config.w_dim) if mean is None else mean
    generator = fill(empty(Generator, config).eval(), shapes_of(tensors), lambda: tensors, source, table)
    if mean is None:
        notes.append(fill_mean_code(generator, "latent_avg"))
    extra = {"state_dict": found.name or "the file itself", "options": facts}
    return Checkpoint(generator, state.layout, tuple(notes), content.globals, extra=extra)


def origins(config: GeneratorConfig) -> dict[str, Origin]:
    """Return, for each tensor of a StyleGAN2 generator, where rosinality's state dict has it."""
    table = {"mapping.w_avg": Origin("latent_avg"), "synthesis.b4.const": Origin("input.input", leading=1)}
    for i in range(config.mapping_layers):
        table |= {f"mapping.fc{i}.{kind}": Origin(f"style.{i + 1}.{kind}") for kind in ("weight", "bias")}
    for i, conv in enumerate(config.layer_names[1:]):  # the first is the constant
        table |= _placed(_CONV, f"synthesis.{conv}", f"convs.{i - 1}" if i else "conv1")
        table[f"synthesis.{conv}.noise_const"] = Origin(f"noises.noise_{i}", leading=2)
    for i, resolution in enumerate(config.resolutions):
        table |= _placed(_TORGB, f"synthesis.b{resolution}.torgb", f"to_rgbs.{i - 1}" if i else "to_rgb1")
    return table


def _placed(layer: Mapping[str, Origin], ours: str, theirs: str) -> dict[str, Origin]:
    """Return the origins of one layer, with the names of the whole networks."""
    return {f"{ours}.{name}": origin._replace(name=f"{theirs}.{origin.name}") for name, origin in layer.items()}


# ---- the content of the file ----


def _renamed(name: str) -> str:
    """Return rosinality's name of a tensor of BasicSR's StyleGAN2, whose layers are the same."""
    for pattern, ours in _BASICSR.items():
        name, changed = pattern.subn(ours, name)
        if changed:
            break
    return name.replace(".modulated_conv.smooth.", ".conv.blur.").replace(".modulated_conv.", ".conv.")


_BASICSR = {
    re.compile(r"^style_mlp\."): "style.",
    re.compile(r"^constant_input\.weight$"): "input.input",
    re.compile(r"^(?:style_)(conv1|convs\.[0-9]+)\.weight$"): r"\1.noise.weight",
    re.compile(r"^style_(conv1|convs)\."): r"\1.",
    re.compile(r"^noises\.noise([0-9]+)$"): r"noises.noise_\1",
}


def _stored_mean(content: Content, state: StateDict, tensors: dict[str, Tensor]) -> tuple[Tensor | None, list[str]]:
    """Return ``latent_avg``, [W], and a note if the file has another one for each slot.

    It lies inside the state dict or beside it, as [W], [1, W] or [num_ws, W].
    """
    mean = tensors.pop("latent_avg", None)
    beside = state.beside.get("latent_avg")
    if mean is None and beside is not None:
        if type(beside) is ArrayRecord:
            mean = torch.from_numpy(beside.array(content.load))
        elif type(beside) is TensorView:
            mean = content.tensors({"latent_avg": beside})["latent_avg"]
        else:
            raise content.load.damaged("latent_avg is not a tensor")
    if mean is None or mean.ndim != 2:
        return mean, []
    same = bool((mean == mean[0]).all())
    note = f"latent_avg has {len(mean)} rows, one for each slot: truncation uses their mean"
    return (mean[0], []) if same else (mean.double().mean(dim=0).to(mean.dtype), [note])


def _noise_maps(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each noise map in the file."""
    return {f"noises.noise_{i}": (1, 1, *config.size_at(4 << (i + 1) // 2)) for i in range(config.num_ws - 1)}


def _facts(beside: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the recorded training options that describe the network."""
    options = next((beside[key] for key in _OPTIONS if isinstance(beside.get(key), Mapping)), None)
    if options is None:
        return {}
    texts = {name: printable(options[name]) for name in _FACTS if type(options.get(name)) is str}
    return texts | {name: options[name] for name in _FACTS if type(options.get(name)) in (int, float)}


_OPTIONS = ("args", "opts", "hyper_parameters", "config", "cfg", "options")


# ---- variants with the same names that compute something else ----


def _refuse_other_architectures(state: Mapping[str, TensorView], facts: Mapping[str, Any], source: str) -> None:
    if facts.get("arch") == "swagan":
        raise UnknownFormatError(
            f"{source}: arch 'swagan': a SWAGAN, which generates wavelets instead of pixels", READS
        )
    if _STYLEKD in state:
        raise UnknownFormatError(
            f"{source}: {_STYLEKD}: a mapping network made by StyleKD's mlp_cfg, which normalises no latents",
            "Give another student: only those with the teacher's own mapping network are read.",
        )
    for name, tensor in state.items():
        a_conv = name == "conv1.conv.weight" or _CONV_WEIGHT.fullmatch(name)
        if a_conv and len(tensor.shape) == 5 and tensor.shape[3:] != (3, 3):
            raise UnknownFormatError(
                f"{source}: {name} is {list(tensor.shape)}: a convolution with another kernel than 3x3",
                "Give another student: only those with 3x3 kernels throughout are read.",
            )


# ---- the network ----


def _mapping_lr(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Return the mapping network's learning rate multiplier, and a note if it is assumed against the weights."""
    stored = facts.get("lr_mlp")
    if is_number(stored) and stored > 0:
        return float(stored), []
    return assumed_lr([tensor for name, tensor in state.items() if _STYLE_WEIGHT.fullmatch(name)], "lr_mlp")


def _config(state: Mapping[str, Tensor], lr_multiplier: float, source: str, *, recorded: bool) -> GeneratorConfig:
    """Derive the resolution from the number of convolutions, widths and code sizes from shapes."""
    count = sum(_CONV_WEIGHT.fullmatch(name) is not None for name in state)
    depth = sum(_STYLE_WEIGHT.fullmatch(name) is not None for name in state)
    if count % 2 or 4 << count // 2 > MAX_RESOLUTION:
        raise CorruptFileError(
            f"{source}: {count} convolutions after the first do not make a StyleGAN2 of up to {MAX_RESOLUTION} px"
        )
    layers = ["conv1", *(f"convs.{i}" for i in range(count))]
    check_channels(state, "to_rgb1.conv.weight", 1, source)
    shapes = [shape_of(state, f"{layer}.conv.weight", 5, source) for layer in layers]
    dense = [shape_of(state, f"style.{i + 1}.weight", 2, source) for i in range(max(depth, 1))]
    check_square_mapping(dense, "style.1.weight", 0, source, recorded=recorded)
    w_dim, z_dim = dense[0]
    _, _, height, width = shape_of(state, "input.input", 4, source)
    try:
        return GeneratorConfig(
            resolution=4 << count // 2,
            base=(height, width),
            widths=(shapes[0][2], *(shape[1] for shape in shapes)),
            z_dim=z_dim,
            w_dim=w_dim,
            mapping_layers=depth,
            mapping_lr_multiplier=lr_multiplier,
        )
    except ValueError as error:
        raise CorruptFileError(f"{source}: no generator has these shapes: {error}") from error
