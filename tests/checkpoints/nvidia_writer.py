"""Writes snapshots in NVIDIA's pickle format without NVIDIA's code: modules of ours replace theirs.

A generator becomes the records that NVIDIA's classes would write; a test may change them before they are pickled.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dcp_deploy.generators import Discriminator, Generator, StyledConv, SynthesisLayer, ToRGB
from dcp_deploy.generators.discriminator import Conv
from dcp_deploy.generators.mapping import Dense
from dcp_deploy.generators.ops import fir_kernel

SOURCE_TEXT = "raise RuntimeError('source text from a model file was executed')\n"

Document = dict[str, Any]


class Persistent:
    """One module record. ``state`` is pickled."""

    def __init__(self, class_name: str, tensors: nn.Module | None = None, /, **facts: Any) -> None:
        self.class_name = class_name
        self.state: dict[str, Any] = {
            "training": False,
            "_parameters": OrderedDict(() if tensors is None else tensors.named_parameters(recurse=False)),
            "_buffers": OrderedDict(() if tensors is None else tensors.named_buffers(recurse=False)),
            "_modules": OrderedDict(),
            "_non_persistent_buffers_set": {"scratch"},
            "_forward_hooks": OrderedDict(),
            "_init_args": (),
            "_init_kwargs": sys.modules["dnnlib.util"].EasyDict() if "dnnlib.util" in sys.modules else {},
            **facts,
        }
        self.state["_buffers"]["scratch"] = torch.zeros(1)
        self.state["_parameters"]["absent"] = None

    def at(self, path: str) -> Persistent:
        """Return the record of a module below, such as ``at("synthesis.b4")``."""
        found = self
        for name in path.split("."):
            found = found.state["_modules"][name]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE_TEXT,
            "class_name": self.class_name,
            "state": self.state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def nvidia_pickle(
    generator: Generator,
    *,
    protocol: int = 4,
    package: str = "torch_utils",
    keys: tuple[str, ...] = ("G", "D", "G_ema", "augment_pipe", "training_set_kwargs"),
    dtype: torch.dtype = torch.float32,
    discriminator: Discriminator | None = None,
    change: Callable[[Document], Any] | None = None,
) -> bytes:
    """Return a snapshot with ``generator`` as G_ema and ``discriminator``, or another network, as D.

    ``change`` may edit the document, or return a value to pickle instead.
    """
    with _made_up_modules(package):
        network = copy.deepcopy(generator).to(dtype)
        document: Document = {
            "G": Persistent("Generator", None),
            "D": Persistent("Discriminator", nn.Linear(8, 8))
            if discriminator is None
            else _discriminator_record(copy.deepcopy(discriminator).to(dtype)),
            "G_ema": _generator_record(network),
            "augment_pipe": None,
            "training_set_kwargs": {"class_name": "training.Folder", "path": "/data/sets/faces.zip", "xflip": True},
        }
        document = {key: document[key] for key in keys}
        changed = change(document) if change else None
        stream = io.BytesIO()
        pickle.dump(document if changed is None else changed, stream, protocol=protocol)
        return stream.getvalue()


@contextmanager
def _made_up_modules(package: str) -> Iterator[None]:
    """Import modules under NVIDIA's names: pickle writes functions by the names of their modules."""

    class EasyDict(dict[str, Any]):
        pass

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("only our reader reads these files")

    persistence, util = ModuleType(f"{package}.persistence"), ModuleType("dnnlib.util")
    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    parents = {".".join(package.split(".")[:i]): ModuleType(package) for i in range(1, package.count(".") + 2)}
    made = {
        **parents,
        "dnnlib": ModuleType("dnnlib"),
        "dnnlib.util": util,
        persistence.__name__: persistence,
        "torch_utils.persistence": persistence,
    }
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _generator_record(generator: Generator) -> Persistent:
    config = generator.config
    record = Persistent(
        "Generator",
        None,
        z_dim=config.z_dim,
        c_dim=config.c_dim,
        w_dim=config.w_dim,
        img_resolution=config.resolution,
        img_channels=3,
        num_ws=config.num_ws,
    )
    synthesis = _stylegan2(generator) if config.layout is None else _stylegan3(generator)
    mapping = Persistent("MappingNetwork", generator.mapping, num_layers=config.mapping_layers, w_avg_beta=0.998)
    for name, layer in generator.mapping.named_children():
        mapping.state["_modules"][name] = _dense(cast(Dense, layer))
    record.state["_modules"].update(synthesis=synthesis, mapping=mapping)
    return record


def _dense(layer: Dense) -> Persistent:
    """Return the record of a dense layer. Gains are numpy scalars in NVIDIA's files."""
    return Persistent(
        "FullyConnectedLayer",
        layer,
        activation="lrelu" if layer.activate else "linear",
        weight_gain=np.float64(layer.lr_multiplier / math.sqrt(layer.weight.shape[1])),
        bias_gain=layer.lr_multiplier,
    )


def _stylegan2(generator: Generator) -> Persistent:
    synthesis = Persistent("SynthesisNetwork", None, img_resolution=generator.config.resolution)
    for name, block in generator.synthesis.named_children():
        resolution = int(name[1:])
        record = Persistent("SynthesisBlock", block, resolution=resolution, architecture="skip", use_fp16=False)
        _add_filter(record)
        for child, layer in block.named_children():
            if isinstance(layer, StyledConv):
                entry = Persistent(
                    "SynthesisLayer",
                    layer,
                    resolution=resolution,
                    up=layer.up,
                    use_noise=True,
                    activation="lrelu",
                    conv_clamp=layer.conv_clamp,
                    act_gain=np.sqrt(2),
                )
                _add_filter(entry)
            else:
                assert isinstance(layer, ToRGB)
                gain = 1 / np.sqrt(layer.weight.shape[1])
                entry = Persistent("ToRGBLayer", layer, conv_clamp=layer.conv_clamp, weight_gain=gain)
            entry.state["_modules"]["affine"] = _dense(layer.affine)
            record.state["_modules"][child] = entry
        synthesis.state["_modules"][name] = record
    return synthesis


def _add_filter(record: Persistent) -> None:
    record.state["_buffers"]["resample_filter"] = fir_kernel()


def _stylegan3(generator: Generator) -> Persistent:
    layout = generator.config.layout
    assert layout is not None
    synthesis = Persistent(
        "SynthesisNetwork",
        None,
        num_layers=layout.num_layers,
        num_critical=layout.num_critical,
        margin_size=layout.margin,
        output_scale=layout.output_scale,
        num_fp16_res=4,
    )
    entry = cast(Any, generator.synthesis).input
    synthesis.state["_modules"]["input"] = Persistent(
        "SynthesisInput",
        entry,
        channels=entry.weight.shape[0],
        size=np.array([entry.size] * 2),
        sampling_rate=entry.rate,
        bandwidth=entry.bandwidth,
    )
    synthesis.at("input").state["_modules"]["affine"] = _dense(entry.affine)
    for name, layer in generator.synthesis.named_children():
        if isinstance(layer, SynthesisLayer):
            record = _layer(layer)
            record.state["_modules"]["affine"] = _dense(layer.affine)
            synthesis.state["_modules"][f"{name}_{layer.spec.out_size}_{layer.weight.shape[0]}"] = record
    return synthesis


def _layer(layer: SynthesisLayer) -> Persistent:
    spec = layer.spec
    facts = {f"{side}_{fact}": getattr(spec, f"{side}_{fact}") for side in ("in", "out") for fact in _BAND}
    rates = {f"{side}_sampling_rate": getattr(spec, f"{side}_rate") for side in ("in", "out", "tmp")}
    sizes = {f"{side}_size": np.array([getattr(spec, f"{side}_size")] * 2) for side in ("in", "out")}
    return Persistent(
        "SynthesisLayer",
        layer,
        is_torgb=spec.torgb,
        conv_kernel=spec.kernel,
        conv_clamp=layer.conv_clamp,
        up_factor=spec.up,
        up_taps=spec.up_taps,
        down_factor=spec.down,
        down_taps=spec.down_taps,
        down_radial=spec.radial,
        padding=[*spec.padding, *spec.padding],
        **facts,
        **rates,
        **sizes,
    )


_BAND = ("cutoff", "half_width")


# ---- discriminators ----


def _discriminator_record(network: Discriminator) -> Persistent:
    """Return the record of a discriminator: blocks are named by resolution, b4 holds the last layers."""
    config = network.config
    record = Persistent("Discriminator", None, c_dim=config.c_dim, img_resolution=config.resolution, img_channels=3)
    for i, block in enumerate(network.blocks):
        resolution = config.resolution >> i
        entry = Persistent("DiscriminatorBlock", None, resolution=resolution, architecture="resnet", use_fp16=False)
        _add_filter(entry)
        convs = {} if i else {"fromrgb": network.fromrgb}
        for name, conv in {**convs, **dict(block.named_children())}.items():
            entry.state["_modules"][name] = _conv(cast(Conv, conv))
        record.state["_modules"][f"b{resolution}"] = entry
    last = Persistent("DiscriminatorEpilogue", None, cmap_dim=0, resolution=4, architecture="resnet")
    last.state["_modules"].update(
        mbstd=Persistent("MinibatchStdLayer", None, group_size=config.mbstd_group, num_channels=1),
        conv=_conv(network.conv),
        fc=_dense(network.fc),
        out=_dense(network.out),
    )
    record.state["_modules"]["b4"] = last
    return record


def _conv(layer: Conv) -> Persistent:
    kernel, active = layer.weight.shape[-1], layer.bias is not None
    record = Persistent(
        "Conv2dLayer",
        layer,
        activation="lrelu" if active else "linear",
        up=1,
        down=2 if layer.down else 1,
        conv_clamp=layer.clamp,
        padding=kernel // 2,
        weight_gain=np.float64(1 / math.sqrt(layer.weight[0].numel())),
        act_gain=np.sqrt(2) if active else 1,
    )
    _add_filter(record)
    return record


def channels_last(tensor: Tensor) -> Tensor:
    """Return a convolution's weight with the strides of NVIDIA's --nhwc option."""
    return tensor.detach().to(memory_format=torch.channels_last)
