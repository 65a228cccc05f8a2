"""NVIDIA's PyTorch snapshots: the .pkl files of stylegan2-ada-pytorch, stylegan3 and repositories derived from them.

A file holds G, D and G_ema as persistent modules; torch.save writes such modules too. Only one generator is decoded.
Its config comes from recorded attributes and from shapes, never from defaults, which differ between the repositories.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..generators import Generator, GeneratorConfig, StyleGAN3Layout, layer_specs
from .checkpoint import NVIDIA_LICENCE, Checkpoint
from .fitting import check_filters, empty, fill, fill_mean_code, shapes_of
from .networks import Found
from .pickles.content import Content
from .pickles.persistence import Module, PersistentRecord, module_tree
from .pickles.tensors import TensorView
from .pickles.values import Load, printable

_SQRT2 = math.sqrt(2.0)


def read_nvidia(found: Found, record: PersistentRecord, content: Content) -> Checkpoint:
    """Read a generator of a snapshot.

    Raises UnknownFormatError for networks that compute something else, CorruptFileError for tensors that do not fit the
    recorded attributes, UnsafeFileError if a part of the network is of a class that is not read.
    """
    load, source = content.load, content.load.source
    generator = module_tree(record, load)
    if generator.class_name != "Generator":
        raise generator.unsupported(f"{found.name or 'the network'} is of another class than Generator")
    _check_parts(generator)
    synthesis = generator.child("synthesis")
    notes = [] if found.name else [_ALONE]
    reader = _stylegan3 if "input" in synthesis.children else _stylegan2
    config, views, made = reader(generator, load)
    if not config.c_dim:  # StyleGAN-XL keeps an embedding that it does not use
        views = {name: view for name, view in views.items() if not name.startswith("mapping.embed.")}
    has_mean = "mapping.w_avg" in views
    if not has_mean:
        made["mapping.w_avg"] = torch.zeros(config.w_dim)

    def read() -> dict[str, Tensor]:
        return {**content.tensors(views), **made}

    network = fill(empty(Generator, config).eval(), {**shapes_of(views), **shapes_of(made)}, read, source)
    if not has_mean:
        notes.append(fill_mean_code(network, "w_avg"))
    if any(name.endswith("noise_const") for name in made):
        notes.append("trained without noise: the noise strengths are zero")
    named = {"class": generator.class_name, "network": found.name or "the file itself"}
    extra = {**named, **_facts(content.value, generator)}
    return Checkpoint(network, "nvidia", tuple(notes), content.globals, NVIDIA_LICENCE, extra)


_ALONE = "the file holds one network alone and does not say whether it is the moving average"


# The class of each module and the modules inside it, by the last part of its path.
_PARTS: Mapping[str, tuple[str, str]] = {
    r"": ("Generator", r"synthesis|mapping"),
    r"synthesis": ("SynthesisNetwork", r"b[0-9]+|input|L[0-9]+_[0-9]+_[0-9]+"),
    r"mapping": ("MappingNetwork", r"fc[0-9]+|embed|embed_proj"),
    r"b[0-9]+": ("SynthesisBlock", r"conv0|conv1|torgb|skip"),
    r"conv[01]": ("SynthesisLayer", r"affine"),
    r"torgb": ("ToRGBLayer", r"affine"),
    r"skip": ("Conv2dLayer", r""),
    r"input": ("SynthesisInput", r"affine"),
    r"L[0-9]+_[0-9]+_[0-9]+": ("SynthesisLayer", r"affine"),
    r"fc[0-9]+|affine|embed_proj": ("FullyConnectedLayer", r""),
    r"embed": ("FullyConnectedLayer|Embedding", r""),
}


def _check_parts(generator: Module) -> None:
    """Refuse a network with a module of another class or with another part: what it computes is not known."""
    for module in generator.modules():
        last = module.path.rpartition(".")[2]
        classes, parts = next((found for name, found in _PARTS.items() if re.fullmatch(name, last)), ("", ""))
        if not re.fullmatch(classes, module.class_name):
            raise module.unsupported(f"a module of the class {module.class_name}, and {classes or 'none'} was expected")
        for child in module.children:
            if not re.fullmatch(parts, child):
                raise module.unsupported(f"it has a part {child} that our networks lack")


def _facts(document: Any, generator: Module) -> dict[str, Any]:
    """Return facts about the original, as JSON values."""
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


# ---- common to both kinds ----


def _common(generator: Module) -> dict[str, Any]:
    """Return the sizes of codes and mapping network, as arguments of a config."""
    generator.require(img_channels=3)
    mapping = generator.child("mapping")
    layers = [mapping.child(f"fc{i}") for i in range(min(mapping.whole("num_layers"), len(mapping.children)))]
    if not layers:
        raise mapping.damaged("has no layers")
    lr = layers[0].number("bias_gain")
    if not 0 < lr <= 1e6:
        raise layers[0].unsupported(f"bias_gain is {lr}, a learning rate multiplier above 0 was expected")
    for layer in layers:
        check_dense(layer, "lrelu", lr)
    w_dim = generator.whole("w_dim")
    for layer in layers:
        features = layer.shape("weight", 2)[0]
        if features != w_dim:
            raise layer.unsupported(f"layer_features is {features}, and only w_dim ({w_dim}) is read")
    return {
        "resolution": generator.whole("img_resolution"),
        "z_dim": generator.whole("z_dim"),
        "w_dim": w_dim,
        "c_dim": _classes(generator, mapping),
        "mapping_layers": mapping.whole("num_layers"),
        "mapping_lr_multiplier": lr,
    }


def _classes(generator: Module, mapping: Module) -> int:
    """Return the number of classes, after checking that labels are embedded as ours are."""
    if not generator.whole("c_dim"):
        return 0
    if "embed" not in mapping.children:
        raise generator.unsupported(f"c_dim is {generator.whole('c_dim')}, but labels are not embedded")
    embed = mapping.child("embed")
    if "embed_proj" in mapping.children or embed.class_name == "Embedding":
        raise mapping.unsupported("class embeddings of StyleGAN-XL, whose mapping network is read without classes only")
    generator.require(c_dim=embed.shape("weight", 2)[1])
    check_dense(embed, "linear", 1.0)
    return generator.whole("c_dim")


def check_dense(layer: Module, activation: str, lr: float) -> None:
    """Refuse a layer unless its equalised learning rate scales weights by lr / sqrt(inputs) and biases by lr."""
    gain = lr / math.sqrt(max(layer.shape("weight", 2)[1], 1))
    layer.require(activation=activation, bias_gain=lr, weight_gain=gain)


def common_clamp(layers: list[Module]) -> float | None:
    """Return the clamp of all layers, None without one. Refuse layers with different clamps."""
    for layer in layers:
        layer.require(conv_clamp=layers[0].fact("conv_clamp"))
    return None if layers[0].fact("conv_clamp") is None else layers[0].number("conv_clamp")


def _config(generator: Module, arguments: Mapping[str, Any]) -> GeneratorConfig:
    try:
        return GeneratorConfig(**arguments)
    except ValueError as error:
        raise generator.unsupported(str(error)) from error


# ---- StyleGAN2 ----


def _stylegan2(generator: Module, load: Load) -> tuple[GeneratorConfig, dict[str, TensorView], dict[str, Tensor]]:
    """Return the config, the tensors in the file, and zero noise for networks trained without noise."""
    arguments = _common(generator)
    resolution = arguments["resolution"]
    if not 4 <= resolution <= 8192 or resolution & (resolution - 1):
        raise generator.unsupported(f"img_resolution is {resolution}, which is not a power of two")
    blocks = [generator.child("synthesis").child(f"b{4 << i}") for i in range(resolution.bit_length() - 2)]
    for block in blocks:
        block.require(architecture="skip")
    convs = [block.child(name) for block in blocks for name in ("conv0", "conv1")[block is blocks[0] :]]
    torgbs = [block.child("torgb") for block in blocks]
    for conv in convs:
        if "padding" in conv.facts:
            conv.require(padding=1)
        conv.require(activation="lrelu", act_gain=_SQRT2, up=2 if conv.path.endswith("conv0") else 1)
    for torgb in torgbs:
        torgb.require(weight_gain=1 / math.sqrt(max(torgb.shape("weight", 4)[1], 1)))
    for layer in (*convs, *torgbs):
        check_dense(layer.child("affine"), "linear", 1.0)
    const = blocks[0].shape("const", 3)
    config = _config(
        generator,
        {
            **arguments,
            "base": const[1:],
            "widths": (const[0], *(conv.shape("weight", 4)[0] for conv in convs)),
            "conv_clamp": common_clamp([*convs, *torgbs]),
            "num_fp16_res": sum(block.fact("use_fp16") is True for block in blocks),
        },
    )
    state = generator.state()
    drop_filters(state, load)
    return config, state, _silent_noise(convs, config)


def drop_filters(state: dict[str, TensorView], load: Load) -> None:
    """Remove the resampling filters, which are a constant of our networks, after checking them."""
    views = {name: state.pop(name) for name in list(state) if name.endswith("resample_filter")}
    check_filters({name: view.tensor(load) for name, view in views.items()}, load.source, tolerance=1e-5)


def _silent_noise(convs: list[Module], config: GeneratorConfig) -> dict[str, Tensor]:
    """Return noise maps of strength zero for the layers without noise."""
    made = {}
    for conv in convs:
        if conv.fact("use_noise") is False:
            size = config.size_at(int(conv.path.split(".")[1][1:]))
            made[f"{conv.path}.noise_const"] = torch.zeros(size)
            made[f"{conv.path}.noise_strength"] = torch.zeros([])
    return made


# ---- StyleGAN3 ----


def _stylegan3(generator: Module, load: Load) -> tuple[GeneratorConfig, dict[str, TensorView], dict[str, Tensor]]:
    """Return the config, the tensors in the file under our names, and no additional ones."""
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
    """Return the modules by "L0", "L1", ...; in the file their names end with size and width."""
    count = synthesis.whole("num_layers") + 1
    named = {child.partition("_")[0]: module for child, module in synthesis.children.items() if child != "input"}
    expected = [f"L{i}" for i in range(count)] if 2 <= count <= 65 else []
    if not expected or sorted(named) != sorted(expected) or len(synthesis.children) != count + 1:
        raise synthesis.damaged(f"has {len(synthesis.children)} modules, which are not the input and its layers")
    return {name: named[name] for name in expected}


def _layout(synthesis: Module, entry: Module, layers: list[Module]) -> StyleGAN3Layout:
    """Return the schedule's parameters. The two stopbands are recorded only as options, with the defaults of ours."""
    first = layers[0]
    rate = max(first.number("in_sampling_rate"), first.number("out_sampling_rate"), 1)
    stopbands = {name: synthesis.options[name] for name in _STOPBANDS if name in synthesis.options}
    if not all(type(value) in (int, float) for value in stopbands.values()):
        raise synthesis.damaged("has a stopband that is not a number")
    try:
        return StyleGAN3Layout(
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


_STOPBANDS = ("first_stopband", "last_stopband_rel")


def _check_schedule(config: GeneratorConfig, entry: Module, layers: Mapping[str, Module]) -> None:
    """Refuse a file whose recorded sizes, rates, cutoffs and paddings are not those of our schedule."""
    assert config.layout is not None
    specs = layer_specs(config.resolution, config.layout)
    entry.require(size=(specs[0].in_size,) * 2, sampling_rate=specs[0].in_rate)
    same = ("in_cutoff", "out_cutoff", "in_half_width", "out_half_width", "up_taps", "down_taps")
    for spec, layer in zip(specs, layers.values(), strict=True):
        layer.require(
            in_size=(spec.in_size,) * 2,
            out_size=(spec.out_size,) * 2,
            padding=spec.padding * 2,
            is_torgb=spec.torgb,
            conv_kernel=spec.kernel,
            in_sampling_rate=spec.in_rate,
            out_sampling_rate=spec.out_rate,
            tmp_sampling_rate=spec.tmp_rate,
            up_factor=spec.up,
            down_factor=spec.down,
            **{name: getattr(spec, name) for name in same},
        )
        if spec.down_taps > 1:
            layer.require(down_radial=spec.radial)
