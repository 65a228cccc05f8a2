"""State dicts under the names of NVIDIA's PyTorch networks, saved without the objects that they belong to.

Sizes come from names and shapes. What only the objects record is assumed as published, and noted: the learning rate
multiplier of the mapping network, the clamp, and the schedule of StyleGAN3, whose filters in the file must agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CorruptFileError, UnknownFormatError
from ..generators import Generator, GeneratorConfig, StyleGAN3Layout, layer_specs
from ..generators.schedule import lowpass
from .architectures import READS
from .checkpoint import NVIDIA_LICENCE, Checkpoint
from .fitting import check_filters, empty, fill, fill_mean_code, shapes_of
from .networks import Found, StateDict
from .pickles.content import Content
from .pickles.values import is_number
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

_BLOCK = re.compile(r"synthesis\.b([0-9]{1,5})\.conv1\.weight")
_LAYER = re.compile(r"synthesis\.L([0-9]{1,2})_([0-9]{1,5})_([0-9]{1,5})")
_OURS = re.compile(r"synthesis\.L([0-9]{1,2})")
_DENSE = re.compile(r"mapping\.fc[0-9]{1,3}\.weight")
_KNOWN = re.compile(r"synthesis\.(b[0-9]+|L[0-9]+|input)\.|mapping\.(fc[0-9]+|embed)\.")
_CLAMP = 256.0  # of all published StyleGAN3 networks


class _Recorded:
    """The arguments of NVIDIA's Generator that a file records beside its tensors; most files record none."""

    def __init__(self, arguments: Mapping[Any, Any]) -> None:
        self.mapping, self.synthesis = (self._part(arguments, name) for name in ("mapping_kwargs", "synthesis_kwargs"))

    @staticmethod
    def _part(arguments: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
        part = arguments.get(name)
        return part if isinstance(part, dict) else {}

    def clamp(self, assumed: float | None) -> tuple[float | None, list[str]]:
        """Return the clamp of convolutions, and a note if it is not recorded."""
        found = self.synthesis.get("conv_clamp", 0)
        if found is None or (is_number(found) and found > 0):
            return found, []
        return assumed, [f"no conv_clamp: {assumed or 'none'} is assumed, as in the published networks of this kind"]

    def lr(self, tensors: Mapping[str, Tensor]) -> tuple[float, list[str]]:
        """Return the learning rate multiplier of the mapping network, and a note if it is assumed."""
        found = self.mapping.get("lr_multiplier")
        if is_number(found) and found > 0:
            return float(found), []
        weights = [tensor for name, tensor in tensors.items() if _DENSE.fullmatch(name)]
        return assumed_lr(weights, "the learning rate multiplier")

    def layout(self) -> dict[str, Any]:
        """Return the parameters of StyleGAN3's schedule that are recorded, by our names."""
        found = {ours: self.synthesis[theirs] for theirs, ours in _SCHEDULE.items() if theirs in self.synthesis}
        return {name: value for name, value in found.items() if is_number(value)}


_SCHEDULE = {
    **{name: name for name in (
        "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel", "output_scale", "filter_size",
        "lrelu_upsampling",
    )},
    "margin_size": "margin",
}  # fmt: skip


def read_nvidia_state(found: Found, state: StateDict, content: Content) -> Checkpoint:
    """Read a generator from a state dict in NVIDIA's names.

    Raises UnknownFormatError for networks that compute something else, CorruptFileError for tensors that do not fit.
    """
    source, recorded = content.load.source, _Recorded(state.arguments)
    tensors = read_tensors(state.views, state.others, _KNOWN, content)
    reader = _stylegan3 if "synthesis.input.freqs" in tensors else _stylegan2
    config, notes = reader(tensors, recorded, source)
    network = empty(Generator, config).eval()
    notes += drawn_noise(tensors, _noise_maps(config))
    notes += set_aside(tensors, network.state_dict(), state.others, _KNOWN, content.load)
    has_mean = "mapping.w_avg" in tensors
    tensors.setdefault("mapping.w_avg", torch.zeros(config.w_dim))
    fill(network, shapes_of(tensors), lambda: tensors, source)
    if not has_mean:
        notes.append(fill_mean_code(network, "w_avg"))
    extra: dict[str, Any] = {"network": found.name or "the file itself"}
    return Checkpoint(network, "nvidia", tuple(notes), content.globals, NVIDIA_LICENCE, extra)


def _mapping(tensors: Mapping[str, Tensor], recorded: _Recorded, source: str) -> dict[str, int]:
    """Return the sizes of codes and mapping network, as arguments of a config."""
    depth = sum(_DENSE.fullmatch(name) is not None for name in tensors)
    shapes = [shape_of(tensors, f"mapping.fc{i}.weight", 2, source) for i in range(max(depth, 1))]
    embed = "mapping.embed.weight" in tensors
    c_dim = shape_of(tensors, "mapping.embed.weight", 2, source)[1] if embed else 0
    check_square_mapping(shapes, "mapping.fc0.weight", c_dim, source, recorded=bool(recorded.mapping))
    w_dim, first = shapes[0]
    return {"z_dim": first - (w_dim if c_dim else 0), "w_dim": w_dim, "c_dim": c_dim, "mapping_layers": depth}


def _stylegan2(tensors: dict[str, Tensor], recorded: _Recorded, source: str) -> tuple[GeneratorConfig, list[str]]:
    filters = {name: tensors.pop(name) for name in list(tensors) if name.endswith("resample_filter")}
    check_filters(filters, source, tolerance=1e-5)
    for name in tensors:
        if name.endswith(".skip.weight"):
            raise UnknownFormatError(f"{source}: {name}: a StyleGAN2 of the resnet architecture", READS)
    sizes = sorted(int(match[1]) for match in map(_BLOCK.fullmatch, tensors) if match)
    shape_of(tensors, "synthesis.b4.conv1.weight", 4, source)
    if sizes != [4 << i for i in range(len(sizes))] or sizes[-1] > MAX_RESOLUTION:
        raise CorruptFileError(
            f"{source}: its blocks are {sizes}, which do not double from 4 to at most {MAX_RESOLUTION}"
        )
    last = f"synthesis.b{sizes[-1]}.torgb.weight"
    if len(sizes) > 1 and last in tensors and "synthesis.b4.torgb.weight" not in tensors:
        raise UnknownFormatError(f"{source}: toRGB in its last block alone: the orig architecture", READS)
    for size in sizes:
        check_channels(tensors, f"synthesis.b{size}.torgb.weight", 0, source)
    const = shape_of(tensors, "synthesis.b4.const", 3, source)
    if not any(name.endswith(".noise_strength") for name in tensors):  # trained without noise
        for name in [name for name in tensors if re.fullmatch(r"synthesis\.b[0-9]+\.conv[01]\.bias", name)]:
            tensors[name.replace(".bias", ".noise_strength")] = torch.zeros([])
            size = int(name.split(".")[1][1:])
            tensors[name.replace(".bias", ".noise_const")] = torch.zeros(const[1] * size // 4, const[2] * size // 4)
    convs = [f"b{size}.{conv}" for size in sizes for conv in ("conv0", "conv1")][1:]
    shapes = [shape_of(tensors, f"synthesis.{conv}.weight", 4, source) for conv in convs]
    for conv, shape in zip(convs, shapes, strict=True):
        if shape[2:] != (3, 3):
            raise UnknownFormatError(f"{source}: {conv} has kernel_size {shape[2]}, and only 3 is read", READS)
    (clamp, unsure), (lr, doubt) = recorded.clamp(None), recorded.lr(tensors)
    arguments = {"resolution": sizes[-1], "base": const[1:], "widths": (const[0], *(shape[0] for shape in shapes))}
    shared = {"conv_clamp": clamp, "mapping_lr_multiplier": lr, **_mapping(tensors, recorded, source)}
    return _config(source, {**arguments, **shared}), [*unsure, *doubt]


def _noise_maps(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each noise map in the file."""
    if config.layout is not None:
        return {}
    names = [f"synthesis.{conv}.noise_const" for conv in config.layer_names[1:]]
    return {name: config.size_at(int(name.split(".")[1][1:])) for name in names}


def _stylegan3(tensors: dict[str, Tensor], recorded: _Recorded, source: str) -> tuple[GeneratorConfig, list[str]]:
    layers = {int(match[1]): match for match in map(_LAYER.match, tensors) if match}
    ours = {int(match[1]) for match in map(_OURS.match, tensors) if match}
    if not layers or sorted(layers) != list(range(len(layers))) or len(ours) != len(layers):
        raise CorruptFileError(f"{source}: its layers are not named L0_SIZE_CHANNELS, L1_SIZE_CHANNELS, ...")
    names = [layers[i][0] for i in range(len(layers))]
    check_channels(tensors, f"{names[-1]}.weight", 0, source)
    shapes = [shape_of(tensors, f"{name}.weight", 4, source) for name in names]
    filters = [tensors[f"{name}.down_filter"] for name in names if f"{name}.down_filter" in tensors]
    radial = any(one.ndim == 2 for one in filters) if filters else shapes[0][2] == 1  # as published
    features = shape_of(tensors, "synthesis.input.freqs", 2, source)[0]
    entry = shape_of(tensors, "synthesis.input.weight", 2, source)
    try:
        layout = StyleGAN3Layout(
            fourier_features=features,
            conv_kernel=shapes[0][2],
            radial=radial,
            num_layers=len(names) - 1,
            **recorded.layout(),
        )
    except ValueError as error:
        raise UnknownFormatError(f"{source}: {error}", READS) from error
    (clamp, unsure), (lr, doubt) = recorded.clamp(_CLAMP), recorded.lr(tensors)
    if "output_scale" not in recorded.synthesis:
        unsure.append(f"no output_scale: {layout.output_scale:g} is assumed, as in the published networks of this kind")
    config = _config(
        source,
        {
            "kind": "stylegan3",
            "resolution": int(layers[len(names) - 1][2]),
            "layout": layout,
            "widths": (entry[0], *(shape[0] for shape in shapes[:-1])),
            "conv_clamp": clamp,
            "mapping_lr_multiplier": lr,
            **_mapping(tensors, recorded, source),
        },
    )
    _check_schedule(config, {f"L{i}": layers[i] for i in layers}, tensors, source)
    tensors.setdefault("synthesis.input.transform", torch.eye(3))  # the image is not moved
    for name in [name for name in tensors if _LAYER.match(name)]:
        match = _LAYER.match(name)
        assert match
        tensors[f"synthesis.L{match[1]}{name[match.end() :]}"] = tensors.pop(name)
    return config, [*unsure, *doubt]


def _check_schedule(
    config: GeneratorConfig, layers: Mapping[str, re.Match[str]], tensors: dict[str, Tensor], source: str
) -> None:
    """Refuse a network whose sizes or filters are not those of its schedule; add filters that the file lacks."""
    assert config.layout is not None
    for spec in layer_specs(config.resolution, config.layout):
        found = layers[spec.name]
        up = (spec.up_taps, spec.in_cutoff, spec.in_half_width, False)
        down = (spec.down_taps, spec.out_cutoff, spec.out_half_width, spec.radial)
        same = int(found[2]) == spec.out_size
        for kind, (taps, cutoff, half_width, radial) in (("up_filter", up), ("down_filter", down)):
            stored = tensors.get(f"{found[0]}.{kind}")
            expected = lowpass(taps, cutoff, half_width, spec.tmp_rate, radial=radial) if taps > 1 else None
            if expected is None:
                same &= stored is None
            elif stored is None:
                tensors[f"{found[0]}.{kind}"] = torch.as_tensor(expected).to(torch.float32)
            else:
                same &= stored.shape == expected.shape and np.allclose(stored.float().numpy(), expected, atol=1e-3)
        if not same:
            raise UnknownFormatError(
                f"{source}: layer {found[0]} has another size or filter than the published schedule",
                "Give the .pkl that it was saved from: a state dict does not record its schedule.",
            )


def _config(source: str, arguments: Mapping[str, Any]) -> GeneratorConfig:
    try:
        return GeneratorConfig(**arguments)
    except ValueError as error:
        raise CorruptFileError(f"{source}: no generator has these shapes: {error}") from error
