"""Writes TensorFlow StyleGAN2 pickles without TensorFlow and without NVIDIA's code.

A class of ours replaces dnnlib.tflib.network.Network. The source text in the file raises if it is run.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from dcp_deploy.generators import Generator

SOURCE_TEXT = "raise RuntimeError('source text from a model file was executed')\n"

Variables = dict[str, Any]


class EasyDict(dict[str, Any]):
    """The type of options in NVIDIA's code."""


class Network:
    """One network, pickled by class and state like NVIDIA's."""

    def __init__(self, name: str, version: int, options: dict[str, Any], variables: Variables, **more: Any) -> None:
        self.state: dict[str, Any] = {
            "version": version,
            "name": name,
            "static_kwargs": options,
            "components": {},
            "build_module_src": SOURCE_TEXT,
            "build_func_name": name,
            "variables": list(variables.items()),
            **more,
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.state


def tensorflow_networks(generator: Generator, *, version: int = 4, **options: Any) -> tuple[Network, Network, Network]:
    """Return (G, D, Gs). G and D are empty, because no reader may use them. ``options`` are added to those of Gs."""
    config = generator.config
    known = {
        "num_channels": 3,
        "resolution": config.resolution,
        "label_size": config.c_dim,
        "latent_size": config.z_dim,
        "dlatent_size": config.w_dim,
        "mapping_layers": config.mapping_layers,
        "fmap_max": max(config.widths),
        "truncation_psi": 0.5,
        **options,
    }
    table = EasyDict(known)
    more = {} if version == 4 else {"input_names": ["latents_in", "labels_in"], "output_names": ["images_out"]}
    smoothed = Network("G_main", version, table, {"lod": np.float32(0), "dlatent_avg": _array(generator.mapping.w_avg)})
    smoothed.state |= more
    smoothed.state["components"] = EasyDict(
        mapping=Network("G_mapping", version, table, mapping_variables(generator), **more),
        synthesis=Network("G_synthesis_stylegan2", version, table, synthesis_variables(generator), **more),
    )
    return Network("G_main", version, table, {}), Network("D_stylegan2", version, table, {}), smoothed


def mapping_variables(generator: Generator) -> Variables:
    """Return Dense{i} and, for a class-conditional generator, LabelEmbed."""
    variables: Variables = {}
    for name, layer in generator.mapping.named_children():
        theirs = "LabelEmbed" if name == "embed" else f"Dense{name[2:]}"
        variables[f"{theirs}/weight"] = _array(layer.weight.T)
        variables[f"{theirs}/bias"] = _array(layer.bias)
    return variables


def synthesis_variables(generator: Generator) -> Variables:
    """Return constant, convolutions, toRGB layers and noise maps."""
    synthesis = generator.synthesis
    variables: Variables = {"4x4/Const/const": _array(synthesis.get_parameter("b4.const"))[None]}
    for i, (name, conv) in enumerate(synthesis.convs()):
        size = conv.noise_const.shape[0]
        layer = "Conv" if size == 4 else {"conv0": "Conv0_up", "conv1": "Conv1"}[name.split(".")[1]]
        kernel = conv.weight.flip(2, 3) if layer == "Conv0_up" else conv.weight
        variables |= _layer(f"{size}x{size}/{layer}", kernel, conv)
        # TensorFlow gives a numpy number for a variable without axes.
        variables[f"{size}x{size}/{layer}/noise_strength"] = np.float32(conv.noise_strength.item())
        variables[f"noise{i}"] = _array(conv.noise_const)[None, None]
    for name, torgb in synthesis.torgbs():
        size = name.split(".")[0][1:]
        variables |= _layer(f"{size}x{size}/ToRGB", torgb.weight, torgb)
    return variables


def tensorflow_bytes(networks: Any, protocol: int = 4) -> bytes:
    """Return the pickle of these networks, under the names of NVIDIA's classes."""
    homes = {"dnnlib.util": EasyDict, "dnnlib.tflib.network": Network}
    with _named({"dnnlib": None, "dnnlib.tflib": None, **homes}):
        return pickle.dumps(networks, protocol)


def _layer(name: str, kernel: Tensor, layer: Any) -> Variables:
    """Return one layer: kernels are [height, width, in, out], and style biases are smaller by 1."""
    return {
        f"{name}/weight": _array(kernel.permute(2, 3, 1, 0)),
        f"{name}/mod_weight": _array(layer.affine.weight.T),
        f"{name}/mod_bias": _array(layer.affine.bias) - 1,
        f"{name}/bias": _array(layer.bias),
    }


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


@contextmanager
def _named(homes: dict[str, type | None]) -> Iterator[None]:
    """Make the classes importable from these modules, so that pickle writes them under these names."""
    for module, home in homes.items():
        sys.modules[module] = ModuleType(module)
        if home is not None:
            setattr(sys.modules[module], home.__name__, home)
            home.__module__, home.__qualname__ = module, home.__name__
    try:
        yield
    finally:
        for module in homes:
            del sys.modules[module]
