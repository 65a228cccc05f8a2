"""Writes generators under the names and shapes of rosinality's stylegan2-pytorch, and torch.save files."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from dcp_deploy.generators import Generator, StyledConv, ToRGB
from dcp_deploy.generators.ops import fir_kernel

State = dict[str, Tensor]


def rosinality_state(generator: Generator) -> State:
    """Return the state dict of rosinality's Generator; it does not contain the mean code."""
    state: State = {}
    for i in range(generator.config.mapping_layers):
        layer = generator.mapping.get_submodule(f"fc{i}")
        state |= {f"style.{i + 1}.{kind}": tensor for kind, tensor in layer.state_dict().items()}
    blocks = dict(generator.synthesis.named_children())
    state["input.input"] = blocks["b4"].const[None]
    for i, (name, conv) in enumerate(generator.synthesis.convs()):
        layer_name = "conv1" if i == 0 else f"convs.{i - 1}"
        state |= {f"{layer_name}.{kind}": tensor for kind, tensor in _conv(conv).items()}
        state[f"noises.noise_{i}"] = conv.noise_const[None, None]
        if name.endswith("conv0"):
            state[f"{layer_name}.conv.blur.kernel"] = fir_kernel(gain=4.0)
    for k, (_, torgb) in enumerate(generator.synthesis.torgbs()):
        layer_name = f"to_rgbs.{k - 1}" if k else "to_rgb1"
        state |= {f"{layer_name}.{kind}": tensor for kind, tensor in _torgb(torgb).items()}
        if k:
            state[f"{layer_name}.upsample.kernel"] = fir_kernel(gain=4.0)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def converted(generator: Generator) -> dict[str, Any]:
    """Return the document that rosinality's converter from TensorFlow saves."""
    return {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg.detach().clone()}


def torch_bytes(value: Any, *, zipped: bool = True, **options: Any) -> bytes:
    """Return the file that torch.save writes, in its zip format or the older one."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped, **options)
    return stream.getvalue()


def _conv(conv: StyledConv) -> State:
    return {
        "conv.weight": conv.weight[None],
        "conv.modulation.weight": conv.affine.weight,
        "conv.modulation.bias": conv.affine.bias,
        "noise.weight": conv.noise_strength.reshape(1),
        "activate.bias": conv.bias,
    }


def _torgb(torgb: ToRGB) -> State:
    return {
        "conv.weight": torgb.weight[None],
        "conv.modulation.weight": torgb.affine.weight,
        "conv.modulation.bias": torgb.affine.bias,
        "bias": torgb.bias.reshape(1, 3, 1, 1),
    }


def whole_module(generator: Generator, linear: type[torch.nn.Module]) -> torch.nn.Module:
    """Return a module with the state dict of rosinality's Generator, whose mapping layers are of this class."""
    root = torch.nn.Module()
    for name, tensor in rosinality_state(generator).items():
        *path, last = name.split(".")
        if path[0] == "style":
            continue
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    layers = [generator.mapping.get_submodule(f"fc{i}") for i in range(generator.config.mapping_layers)]
    root.style = torch.nn.Sequential(torch.nn.Identity(), *(linear(layer.weight, layer.bias) for layer in layers))
    return root
