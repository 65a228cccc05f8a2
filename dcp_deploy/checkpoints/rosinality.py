"""Generators saved by rosinality's stylegan2-pytorch, and pruned ones saved by CAGAN, StyleKD and DCP-GAN.

All are torch.save files with a state dict. Resolution, widths and depth come from the names and shapes of its tensors.
The layers compute the same as ours; only their names and axes of length one differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Generator, GeneratorConfig
from .checkpoint import Checkpoint
from .fitting import Origin, check_filters, empty, fill, fill_mean_code, shapes_of
from .pickles.tensors import TensorView
from .pickles.torch_file import TorchFile, read_torch_file
from .pickles.values import printable

LR_MLP = 0.01  # the mapping network's published learning rate multiplier, assumed for files that do not record one
NOISE_SEED = 0
MAX_RESOLUTION = 2048  # missing noise maps are drawn; without a limit a short file could ask for any amount of memory

_READS = "what is read: rosinality's stylegan2-pytorch, CAGAN, StyleKD and DCP-GAN (g_ema, g or a bare state dict)"
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
_STYLE_WEIGHT = re.compile(r"style\.[1-9][0-9]*\.weight")


def read_rosinality(data: memoryview, source: str) -> Checkpoint:
    """Read a generator saved by rosinality's code or a descendant of it. Runs no code from the file.

    Raises UnknownFormatError for other content and for variants that compute something else, CorruptFileError for
    tensors that do not fit together, and the errors of :func:`read_torch_file`.
    """
    content = read_torch_file(data, source)
    key, views = _state_dict(content.value, source)
    facts = _facts(content.value)
    _refuse_other_architectures(views, facts, source)
    state = content.tensors(views)
    mean = _stored_mean(content, state)
    filters = {name: state.pop(name) for name in list(state) if _FIR.fullmatch(name)}
    check_filters(filters, source, gain=4.0, tolerance=1e-3)
    lr, doubt = _mapping_lr(state, facts)
    config = _config(state, lr, source)
    notes = ["no g_ema: these are the weights of g, without the moving average"] if key == "g" else []
    notes += [*doubt, *_drawn_noise(state, config)]
    state["latent_avg"] = torch.zeros(config.w_dim) if mean is None else mean
    generator = fill(empty(Generator, config).eval(), shapes_of(state), lambda: state, source, origins(config))
    if mean is None:
        notes.append(fill_mean_code(generator, "latent_avg"))
    extra = {"state_dict": key or "the file itself", "options": facts}
    return Checkpoint(generator, "rosinality", tuple(notes), content.globals, extra=extra)


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


def _state_dict(document: Any, source: str) -> tuple[str, dict[str, TensorView]]:
    """Return the key of the generator's state dict ("" for a bare one), and the state dict."""
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
    raise UnknownFormatError(f"{source}: a torch.save file without a generator: {found}", _READS)


def _require_tensors(state: Mapping[str, Any], source: str) -> None:
    others = [name for name, value in state.items() if not isinstance(value, TensorView)]
    if others:
        raise CorruptFileError(f"{source}: entries of the state dict are not tensors: {', '.join(others[:8])}")


def _described(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "a tensor" if isinstance(value, TensorView) else f"a {type(value).__name__}"
    names = [printable(str(name), 60) for name in value]
    made = " (as MobileStyleGAN writes)" if {"params", "ckpt"} <= set(names) else ""
    return f"a dictionary of {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}{made}"


def _stored_mean(content: TorchFile, state: dict[str, Tensor]) -> Tensor | None:
    """Return ``latent_avg``, [W] or [1, W] in the file: beside the state dict or, for a bare one, inside it."""
    inside = state.pop("latent_avg", None)
    beside = content.value.get("latent_avg")
    if inside is not None or beside is None:
        return None if inside is None else inside.flatten()
    _require_tensors({"latent_avg": beside}, content.load.source)
    return content.tensors({"latent_avg": beside})["latent_avg"].flatten()


def _facts(document: Any) -> dict[str, Any]:
    """Return the recorded training options that describe the network."""
    options = document.get("args") if isinstance(document, Mapping) else None
    if not isinstance(options, Mapping):
        return {}
    texts = {name: printable(options[name]) for name in _FACTS if type(options.get(name)) is str}
    return texts | {name: options[name] for name in _FACTS if type(options.get(name)) in (int, float)}


# ---- variants with the same names that compute something else ----


def _refuse_other_architectures(state: Mapping[str, TensorView], facts: Mapping[str, Any], source: str) -> None:
    wavelets = [name for name in state if {"iwt", "dwt"} & set(name.split("."))]
    if wavelets or facts.get("arch") == "swagan":
        found = wavelets[0] if wavelets else "arch 'swagan'"
        raise UnknownFormatError(f"{source}: {found}: a SWAGAN, which generates wavelets instead of pixels", _READS)
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


# ---- the network ----


def _mapping_lr(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Return the mapping network's learning rate multiplier, and a note if the weights contradict it.

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
    """Derive the resolution from the number of convolutions, widths and code sizes from shapes."""
    count = sum(_CONV_WEIGHT.fullmatch(name) is not None for name in state)
    depth = sum(_STYLE_WEIGHT.fullmatch(name) is not None for name in state)
    if count % 2 or 4 << count // 2 > MAX_RESOLUTION:
        raise CorruptFileError(
            f"{source}: {count} convolutions after the first do not make a StyleGAN2 of up to {MAX_RESOLUTION} px"
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
    """Draw the noise maps that early files lack; return the note that says so."""
    if any(name.startswith("noises.") for name in state):
        return []
    random = torch.Generator().manual_seed(NOISE_SEED)
    for i in range(config.num_ws - 1):
        size = 4 << (i + 1) // 2
        state[f"noises.noise_{i}"] = torch.randn(1, 1, size, size, generator=random)
    return [f"no noise maps: drawn from seed {NOISE_SEED}, so constant noise differs from the original's"]
