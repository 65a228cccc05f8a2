"""NVIDIA's PyTorch snapshots: the .pkl files of stylegan2-ada-pytorch, stylegan3 and repositories made from them.

A file holds G, D and G_ema as persistent modules. Only the generator asked for is decoded. Its config comes from the
attributes recorded in the modules and from shapes, never from defaults, which differ between the two repositories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UnknownFormatError
from ..generators import GeneratorConfig, StyleGAN3Layout, layer_specs
from ..generators.ops import fir_kernel
from .checkpoint import NVIDIA_LICENCE, Checkpoint
from .fitting import check_shapes, expected_shapes, fitted_generator
from .mean_code import LATENTS, mean_code
from .pickles.persistence import Module, PersistentRecord, module_tree, read_persistent
from .pickles.tensors import TensorView
from .pickles.values import Load, printable

_SQRT2 = math.sqrt(2.0)


def read_nvidia(data: memoryview, source: str) -> Checkpoint:
    """Read the generator of a snapshot: G_ema, or G with a note when there is none. Runs nothing from the file.

    Raises UnsafeFileError for a pickle that names anything unexpected, UnknownFormatError for networks that we do not
    draw, CorruptFileError for damaged files and for tensors that do not fit the recorded attributes.
    """
    load = Load.of(source, len(data))
    document = read_persistent(data, load)
    key, record = _generator_of(document, source)
    generator = module_tree(record, load)
    if generator.class_name != "Generator":
        raise generator.unsupported(f"{key or 'the network'} is of another class than Generator")
    synthesis = generator.child("synthesis")
    notes = [] if key == "G_ema" else [_WHY_NOT_EMA[key]]
    reader = _stylegan3 if "input" in synthesis.children else _stylegan2
    config, views, made = reader(generator, load)
    found = {name: view.shape for name, view in views.items()} | {name: tuple(t.shape) for name, t in made.items()}
    without_mean = "mapping.w_avg" not in found
    if without_mean:
        made["mapping.w_avg"] = torch.zeros(config.w_dim)
        found["mapping.w_avg"] = (config.w_dim,)
    check_shapes(expected_shapes(config), found, source)
    state = {name: view.tensor(load) for name, view in views.items()}
    network = fitted_generator(config, {**state, **made}, source)
    if without_mean:
        network.mapping.w_avg.copy_(mean_code(network))
        notes.append(f"no w_avg: the mean code is that of {LATENTS:,} mapped latents of a fixed seed")
    if any(name.endswith("noise_const") for name in made):
        notes.append("trained without noise: the noise strengths are zero")
    extra = {"class": generator.class_name, "network": key or "the file itself", **_facts(document, generator)}
    named = tuple(map(str, load.globals))
    return Checkpoint(network, "nvidia", tuple(notes), named, NVIDIA_LICENCE, extra)


_WHY_NOT_EMA = {
    "G": "no G_ema: these are the weights of G, without the moving average",
    "": "the file holds one network by itself; whether it is the moving average is not told",
}


def _generator_of(document: Any, source: str) -> tuple[str, PersistentRecord]:
    """The key of the generator ("" when the file is the network itself) and its record."""
    if type(document) is PersistentRecord:
        return "", document
    entries = document if isinstance(document, dict) else {}
    for key in ("G_ema", "G"):
        if type(entries.get(key)) is PersistentRecord:
            return key, entries[key]
    keys = ", ".join(printable(str(key), 40) for key in list(entries)[:8] if type(key) is str)
    raise UnknownFormatError(
        f"{source}: a pickle without a network under G_ema or G; it holds {keys or f'a {type(document).__name__}'}",
        "what is read: snapshots of NVIDIA's stylegan2-ada-pytorch and stylegan3",
    )


def _facts(document: Any, generator: Module) -> dict[str, Any]:
    """What is worth telling about the original, as JSON values."""
    facts: dict[str, Any] = {"module_version": generator.version if type(generator.version) is int else None}
    training_set = document.get("training_set_kwargs") if isinstance(document, dict) else None
    if isinstance(training_set, dict):
        path = training_set.get("path")
        if type(path) is str:
            facts["training_set"] = printable(path.replace("\\", "/").rstrip("/").rpartition("/")[2])
        for name in ("resolution", "use_labels", "xflip", "max_size"):
            if type(training_set.get(name)) in (int, bool):
                facts[f"training_set_{name}"] = training_set[name]
    return facts


# ---- what both kinds share ----


def _common(generator: Module) -> dict[str, Any]:
    """Sizes of codes and the mapping network, as arguments of a config."""
    generator.require("img_channels", 3)
    mapping = generator.child("mapping")
    layers = [mapping.child(f"fc{i}") for i in range(min(mapping.whole("num_layers"), len(mapping.children)))]
    if not layers:
        raise mapping.damaged("has no layers")
    lr = layers[0].number("bias_gain")
    if not 0 < lr <= 1e6:
        raise layers[0].unsupported(f"bias_gain is {lr}, a learning rate multiplier above 0 was expected")
    for layer in layers:
        check_dense(layer, "lrelu", lr)
    c_dim = mapping.child("embed").shape("weight", 2)[1] if "embed" in mapping.children else 0
    generator.require("c_dim", c_dim)
    if c_dim:
        check_dense(mapping.child("embed"), "linear", 1.0)
    return {
        "resolution": generator.whole("img_resolution"),
        "z_dim": generator.whole("z_dim"),
        "w_dim": generator.whole("w_dim"),
        "c_dim": c_dim,
        "mapping_layers": mapping.whole("num_layers"),
        "mapping_lr_multiplier": lr,
    }


def check_dense(layer: Module, activation: str, lr: float) -> None:
    """Refuse a layer whose equalised learning rate is not ours: weights times lr / sqrt(inputs), biases times lr."""
    layer.require("activation", activation)
    layer.require("bias_gain", lr)
    layer.require("weight_gain", lr / math.sqrt(max(layer.shape("weight", 2)[1], 1)))


def common_clamp(layers: list[Module]) -> float | None:
    """The one clamp of all layers; None for no clamp. Refuses layers that differ."""
    for layer in layers:
        layer.require("conv_clamp", layers[0].fact("conv_clamp"))
    return None if layers[0].fact("conv_clamp") is None else layers[0].number("conv_clamp")


def _config(generator: Module, arguments: Mapping[str, Any]) -> GeneratorConfig:
    try:
        return GeneratorConfig(**arguments)
    except ValueError as error:
        raise generator.unsupported(str(error)) from error


# ---- StyleGAN2 ----


def _stylegan2(generator: Module, load: Load) -> tuple[GeneratorConfig, dict[str, TensorView], dict[str, Tensor]]:
    """Config, tensors in the file, and tensors made up (noise of networks that were trained without)."""
    arguments = _common(generator)
    resolution = arguments["resolution"]
    if not 4 <= resolution <= 8192 or resolution & (resolution - 1):
        raise generator.unsupported(f"img_resolution is {resolution}, which is no power of two")
    blocks = [generator.child("synthesis").child(f"b{4 << i}") for i in range(resolution.bit_length() - 2)]
    for block in blocks:
        block.require("architecture", "skip")
    convs = [block.child(name) for block in blocks for name in ("conv0", "conv1")[block is blocks[0] :]]
    torgbs = [block.child("torgb") for block in blocks]
    for conv in convs:
        conv.require("activation", "lrelu")
        conv.require("act_gain", _SQRT2)
        conv.require("up", 2 if conv.path.endswith("conv0") else 1)
    for torgb in torgbs:
        torgb.require("weight_gain", 1 / math.sqrt(max(torgb.shape("weight", 4)[1], 1)))
    for layer in (*convs, *torgbs):
        check_dense(layer.child("affine"), "linear", 1.0)
    config = _config(
        generator,
        {
            **arguments,
            "widths": (blocks[0].shape("const", 3)[0], *(conv.shape("weight", 4)[0] for conv in convs)),
            "conv_clamp": common_clamp([*convs, *torgbs]),
            "num_fp16_res": sum(block.fact("use_fp16") is True for block in blocks),
        },
    )
    state = generator.state()
    drop_filters(state, load)
    return config, state, _silent_noise(convs)


def drop_filters(state: dict[str, TensorView], load: Load) -> None:
    """Take the resampling filters out: the filter is a constant of ours, so the file's must be the same."""
    ours = fir_kernel()
    for name in [name for name in state if name.endswith("resample_filter")]:
        view = state.pop(name)
        if view.shape != tuple(ours.shape) or not torch.allclose(view.tensor(load).float(), ours, atol=1e-5):
            raise UnknownFormatError(
                f"{load.source}: {name} is another filter than [1, 3, 3, 1]", "only the published filter is read"
            )


def _silent_noise(convs: list[Module]) -> dict[str, Tensor]:
    """Noise maps of strength zero for the layers without any."""
    made = {}
    for conv in convs:
        if conv.fact("use_noise") is False:
            size = int(conv.path.split(".")[1][1:])
            made[f"{conv.path}.noise_const"] = torch.zeros(size, size)
            made[f"{conv.path}.noise_strength"] = torch.zeros([])
    return made


# ---- StyleGAN3 ----


def _stylegan3(generator: Module, load: Load) -> tuple[GeneratorConfig, dict[str, TensorView], dict[str, Tensor]]:
    """Config, tensors in the file under our names, and none made up."""
    arguments = _common(generator)
    synthesis = generator.child("synthesis")
    entry = synthesis.child("input")
    layers = _layers(synthesis)
    layout = _layout(synthesis, entry, list(layers.values()))
    config = _config(
        generator,
        {
            **arguments,
            "kind": "stylegan3",
            "layout": layout,
            "widths": (entry.shape("weight", 2)[0], *(x.shape("weight", 4)[0] for x in list(layers.values())[:-1])),
            "conv_clamp": common_clamp(list(layers.values())),
            "num_fp16_res": synthesis.whole("num_fp16_res"),
        },
    )
    _check_schedule(config, entry, layers)
    for module in (entry, *layers.values()):
        check_dense(module.child("affine"), "linear", 1.0)
    renamed = {module.path: f"synthesis.{name}" for name, module in layers.items()}
    state = {}
    for name, view in generator.state().items():
        parts = name.split(".")
        prefix = ".".join(parts[:2])
        state[".".join([renamed.get(prefix, prefix), *parts[2:]])] = view
    return config, state, {}


def _layers(synthesis: Module) -> dict[str, Module]:
    """ "L0", "L1", ... to the modules, whose names also tell size and width."""
    count = synthesis.whole("num_layers") + 1
    named = {child.partition("_")[0]: module for child, module in synthesis.children.items() if child != "input"}
    expected = [f"L{i}" for i in range(count)] if 2 <= count <= 65 else []
    if not expected or sorted(named) != sorted(expected) or len(synthesis.children) != count + 1:
        raise synthesis.damaged(f"has {len(synthesis.children)} modules, which are not the input and its layers")
    return {name: named[name] for name in expected}


def _layout(synthesis: Module, entry: Module, layers: list[Module]) -> StyleGAN3Layout:
    """The schedule's parameters. The two stopbands leave no trace but in options, defaults of which are the same."""
    first = layers[0]
    rate = max(first.number("in_sampling_rate"), first.number("out_sampling_rate"), 1)
    stopbands = {name: synthesis.options[name] for name in _STOPBANDS if name in synthesis.options}
    if not all(type(value) in (int, float) for value in stopbands.values()):
        raise synthesis.damaged("has a stopband that is no number")
    try:
        layout = StyleGAN3Layout(
            fourier_features=entry.shape("freqs", 2)[0],
            conv_kernel=first.whole("conv_kernel"),
            radial=any(layer.fact("down_radial") is True for layer in layers),
            num_layers=synthesis.whole("num_layers"),
            num_critical=synthesis.whole("num_critical"),
            first_cutoff=entry.number("bandwidth"),
            margin=synthesis.whole("margin_size"),
            output_scale=synthesis.number("output_scale"),
            filter_size=first.whole("up_taps") // max(first.whole("up_factor"), 1),
            lrelu_upsampling=int(first.number("tmp_sampling_rate") / rate),
            **stopbands,
        )
    except ValueError as error:
        raise synthesis.unsupported(str(error)) from error
    if layout.filter_size > 16 or layout.lrelu_upsampling > 4:
        raise synthesis.unsupported(f"filters of {layout.filter_size} taps at {layout.lrelu_upsampling} times the rate")
    return layout


_STOPBANDS = ("first_stopband", "last_stopband_rel")


def _check_schedule(config: GeneratorConfig, entry: Module, layers: Mapping[str, Module]) -> None:
    """Every size, rate, cutoff and padding that the file records must be what our schedule gives."""
    assert config.layout is not None
    specs = layer_specs(config.resolution, config.layout)
    entry.require("size", (specs[0].in_size,) * 2)
    entry.require("sampling_rate", specs[0].in_rate)
    for spec, layer in zip(specs, layers.values(), strict=True):
        sides = {"in_size": (spec.in_size,) * 2, "out_size": (spec.out_size,) * 2, "padding": spec.padding * 2}
        expected = {
            **sides,
            "is_torgb": spec.torgb,
            "conv_kernel": spec.kernel,
            "in_sampling_rate": spec.in_rate,
            "out_sampling_rate": spec.out_rate,
            "tmp_sampling_rate": spec.tmp_rate,
            "in_cutoff": spec.in_cutoff,
            "out_cutoff": spec.out_cutoff,
            "in_half_width": spec.in_half_width,
            "out_half_width": spec.out_half_width,
            "up_factor": spec.up,
            "down_factor": spec.down,
            "up_taps": spec.up_taps,
            "down_taps": spec.down_taps,
        }
        for name, value in expected.items():
            layer.require(name, value)
        if spec.down_taps > 1:
            layer.require("down_radial", spec.radial)
