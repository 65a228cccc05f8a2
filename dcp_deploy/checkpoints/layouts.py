"""Writes generators in the layouts of the original code, which then opens them without this project.

rosinality's stylegan2-pytorch and its descendants (CAGAN, StyleKD, DCP-GAN, encoder4editing) read a dictionary with
``g_ema`` and ``latent_avg``. NVIDIA's stylegan2-ada-pytorch and stylegan3 read a state dict in their own names. All
files load with ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import UsageError
from ..files import write_bytes
from ..generators import Generator, GeneratorConfig, StyledConv, SynthesisLayer, ToRGB
from ..generators.ops import fir_kernel
from .rosinality import origins
from .state_dicts import LR_MLP
from .weight_files import FACTS

Layout = Literal["rosinality", "nvidia"]

SUFFIXES: dict[str, tuple[str, ...]] = {"rosinality": (".pt", ".pth"), "nvidia": (".pt", ".pth", ".safetensors")}

# CAGAN's and DCP-GAN's loaders derive the widths from the order of the names, so it is that of the original modules.
_ROSINALITY_ORDER = ("style", "input", "conv1", "to_rgb1", "convs", "to_rgbs", "noises")
_SAME_NAMES = (
    "num_layers", "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel", "output_scale", "conv_kernel",
    "filter_size", "lrelu_upsampling",
)  # fmt: skip
_SAMPLES, _SAMPLE_SEED, _SAMPLE_BATCH = 16, 0, 4


def save_layout(
    generator: Generator,
    path: str | os.PathLike[str],
    layout: Layout,
    *,
    licence: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a generator atomically, in float32, and return sentences on what the original code needs to open it.

    ``licence`` and ``provenance`` (JSON values) are stored as texts beside the weights. For "nvidia" the suffix decides
    between a file of torch.save and safetensors. Raises UsageError for a network that the layout cannot hold.
    """
    about = {"licence": licence, "provenance": json.dumps(provenance, sort_keys=True) if provenance else None}
    about = {name: text for name, text in about.items() if text}
    if layout == "rosinality":
        notes = _rosinality_notes(generator)
        _torch_save({**rosinality_document(generator), **about}, path)
        return notes
    facts = {"init_kwargs": nvidia_arguments(generator.config), **about}
    state = nvidia_state(generator)
    if Path(path).suffix == ".safetensors":
        write_bytes(path, save(state, {FACTS: json.dumps(facts, sort_keys=True)}))
    else:
        _torch_save(_with_attributes(state, facts), path)
    return _nvidia_notes(generator.config)


# ---- rosinality ----


def rosinality_document(generator: Generator) -> dict[str, Any]:
    """Return the dictionary to save: the weights as ``g`` and ``g_ema``, ``latent_avg`` [w_dim], and ``args``.

    DCP-GAN's and StyleKD's training reads both copies; they share their memory, in the file too.
    """
    state = rosinality_state(generator)
    mean = state.pop("latent_avg")
    options = rosinality_options(generator.config)
    return {"g": state, "g_ema": state, "latent_avg": mean, "args": _with_attributes(options, options)}


def rosinality_state(generator: Generator) -> dict[str, Tensor]:
    """Return a generator's tensors under rosinality's names, with the filters that strict loading needs."""
    table = origins(generator.config)
    named = {}
    for name, tensor in _copies(generator).items():
        origin = table[name]
        named[origin.name] = tensor.reshape(origin.shape(tuple(tensor.shape)))
    for block in range(len(generator.config.resolutions) - 1):
        named[f"convs.{2 * block}.conv.blur.kernel"] = fir_kernel(gain=4.0)
        named[f"to_rgbs.{block}.upsample.kernel"] = fir_kernel(gain=4.0)
    mean = named.pop("latent_avg")
    ordered = sorted(named, key=lambda name: _ROSINALITY_ORDER.index(name.split(".")[0]))
    return {**{name: named[name] for name in ordered}, "latent_avg": mean}


def rosinality_options(config: GeneratorConfig) -> dict[str, Any]:
    """Return the options of a training run that describe the network: the arguments of rosinality's Generator.

    Pruned widths follow from no ``channel_multiplier``, so there is none.
    """
    options = {"arch": "stylegan2", "size": config.resolution, "latent": config.w_dim, "n_mlp": config.mapping_layers}
    options["lr_mlp"] = config.mapping_lr_multiplier
    for multiplier in (2, 1):
        if config.widths == GeneratorConfig.stylegan2(config.resolution, 16384 * multiplier, 512).widths:
            return {**options, "channel_multiplier": multiplier}
    return options


def _rosinality_notes(generator: Generator) -> list[str]:
    """Return what the original code needs to know. Raises UsageError for a network that it cannot compute."""
    config = generator.config
    _refuse_for_rosinality(config)
    notes = []
    if config.conv_clamp is not None:
        largest = _largest_activation(generator)
        if largest >= config.conv_clamp:
            raise UsageError(
                f"conv_clamp {config.conv_clamp:g} limits the activations of this network, and rosinality's layers "
                "have no limit: its images would differ",
                "Write it with --to nvidia, whose code has this limit.",
            )
        notes.append(
            f"conv_clamp {config.conv_clamp:g} is left out: rosinality's layers have no limit, and the activations of "
            f"{_SAMPLES} sample images stay within {largest:.3g}"
        )
    if "channel_multiplier" not in rosinality_options(config):
        notes.append(
            "these widths follow from no channel_multiplier: CAGAN's, StyleKD's and DCP-GAN's "
            "Build_Generator_From_Dict derives them from the shapes"
        )
    if config.mapping_lr_multiplier != LR_MLP:
        notes.append(f"lr_mlp is {config.mapping_lr_multiplier:g}, not {LR_MLP}: pass Generator(lr_mlp=args.lr_mlp)")
    if config.z_dim != config.w_dim:
        layer = f"EqualLinear({config.z_dim}, {config.w_dim}, lr_mul={config.mapping_lr_multiplier:g}, "
        notes.append(
            f"latents have {config.z_dim} numbers and codes {config.w_dim}, and rosinality's Generator has one size "
            f"for both: before loading, set style[1] = {layer}activation='fused_lrelu')"
        )
    return notes


def _refuse_for_rosinality(config: GeneratorConfig) -> None:
    height, width = getattr(config, "base", (4, 4))
    reasons = {
        "a StyleGAN3": config.kind == "stylegan3",
        f"a network with {config.c_dim} classes": config.c_dim > 0,
        f"a network that grows from {height}x{width} instead of 4x4": (height, width) != (4, 4),
    }
    for what, applies in reasons.items():
        if applies:
            raise UsageError(
                f"this is {what}; rosinality's layout holds only StyleGAN2 with square images and without classes",
                "Write it with --to nvidia, which holds it.",
            )


def _largest_activation(generator: Generator) -> float:
    """Return the largest absolute output of any layer for a few latents of a fixed seed."""
    largest = 0.0

    def look(layer: nn.Module, inputs: Any, outputs: Tensor) -> None:
        nonlocal largest
        largest = max(largest, float(outputs.abs().max()))

    layers = [layer for layer in generator.modules() if isinstance(layer, StyledConv | ToRGB)]
    handles = [layer.register_forward_hook(look) for layer in layers]
    z = torch.randn(_SAMPLES, generator.config.z_dim, generator=torch.Generator().manual_seed(_SAMPLE_SEED))
    try:
        with torch.no_grad():
            for batch in torch.split(z, _SAMPLE_BATCH):
                generator(batch)
    finally:
        for handle in handles:
            handle.remove()
    return largest


# ---- NVIDIA ----


def nvidia_state(generator: Generator) -> dict[str, Tensor]:
    """Return a generator's tensors under the names of NVIDIA's PyTorch code, complete for strict loading.

    StyleGAN2 gains its constant filters; StyleGAN3's layers are named by size and width: ``L0`` is ``L0_36_512``.
    """
    state = _copies(generator)
    if generator.config.kind == "stylegan3":
        children = generator.synthesis.named_children()
        layers = {name: layer for name, layer in children if isinstance(layer, SynthesisLayer)}
        longer = {name: f"{name}_{layer.spec.out_size}_{layer.weight.shape[0]}" for name, layer in layers.items()}
        return {_renamed(name, longer): tensor for name, tensor in state.items()}
    filtered = [name.removesuffix("noise_const") for name in state if name.endswith("noise_const")]
    filtered += [f"synthesis.{name}." for name, _ in generator.synthesis.named_children()]
    return {**state, **{f"{module}resample_filter": fir_kernel() for module in filtered}}


def nvidia_arguments(config: GeneratorConfig) -> dict[str, Any]:
    """Return the arguments of NVIDIA's Generator; stylegan3's takes the ``synthesis_kwargs`` as its own arguments.

    Pruned widths follow from no ``channel_base`` and ``channel_max``, so there are none.
    """
    synthesis: dict[str, Any] = {**_channels(config), "conv_clamp": config.conv_clamp}
    synthesis["num_fp16_res"] = config.num_fp16_res
    if layout := config.layout:
        synthesis |= {name: getattr(layout, name) for name in _SAME_NAMES}
        synthesis |= {"margin_size": layout.margin, "use_radial_filters": layout.radial}
    return {
        "z_dim": config.z_dim,
        "c_dim": config.c_dim,
        "w_dim": config.w_dim,
        "img_resolution": config.resolution,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": config.mapping_layers, "lr_multiplier": config.mapping_lr_multiplier},
        "synthesis_kwargs": synthesis,
    }


def _channels(config: GeneratorConfig) -> dict[str, int]:
    """Return NVIDIA's two numbers that give the widths with the published schedule; nothing for pruned widths."""
    if config.layout is not None and config.layout.fourier_features != config.widths[0]:
        return {}
    # The last layer has channel_base / resolution channels in both families, the first ones channel_max.
    base, most = config.widths[-1] * config.resolution, config.widths[0]
    family = GeneratorConfig.stylegan2 if config.layout is None else GeneratorConfig.stylegan3
    fits = family(config.resolution, channel_base=base, channel_max=most).widths == config.widths
    return {"channel_base": base, "channel_max": most} if fits else {}


def _nvidia_notes(config: GeneratorConfig) -> list[str]:
    """Return what the original code needs to know."""
    notes = []
    height, width = getattr(config, "base", (4, 4))
    if (height, width) != (4, 4):
        notes.append(f"the network grows from {height}x{width}: only forks with such a constant open it")
    if not _channels(config):
        notes.append(
            "these are not the widths that channel_base and channel_max give in the published networks: give the "
            "layers of NVIDIA's Generator the widths of the tensors before loading"
        )
    if config.conv_clamp is not None or config.mapping_lr_multiplier != LR_MLP:
        clamp = "None" if config.conv_clamp is None else f"{config.conv_clamp:g}"
        notes.append(
            f"the tensors do not hold conv_clamp {clamp} and lr_multiplier {config.mapping_lr_multiplier:g}: build "
            "NVIDIA's Generator with the init_kwargs of the file"
        )
    return notes


def _renamed(name: str, layers: Mapping[str, str]) -> str:
    network, layer, *rest = name.split(".")
    return ".".join([network, layers.get(layer, layer), *rest])


# ---- files ----


def _copies(generator: Generator) -> dict[str, Tensor]:
    """Return copies of the tensors: torch.save writes all of the memory that a tensor is a view of."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in generator.state_dict().items()
    }


def _with_attributes(entries: Mapping[str, Any], attributes: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return a dictionary that also has attributes, as torch gives ``_metadata`` to a state dict.

    ``torch.load(weights_only=True)`` accepts it, and refuses the argparse.Namespace of rosinality's training files.
    Code that reads ``args.size`` and code that reads ``args["size"]`` both work.
    """
    made = OrderedDict(entries)
    vars(made).update(attributes)
    return made


def _torch_save(document: Any, path: str | os.PathLike[str]) -> None:
    """Write a file of torch.save atomically. Two files of one document are the same: none holds its own name."""
    stream = io.BytesIO()
    torch.save(document, stream)
    write_bytes(path, stream.getbuffer())
