"""NVIDIA's TensorFlow StyleGAN2 networks: pickles of (G, D, Gs), each a dnnlib.tflib.network.Network.

Version 4 is StyleGAN2, version 5 StyleGAN2-ADA. A network has options, variables as arrays, and source text that
NVIDIA's own loader runs; this module never reads that text. A variable becomes one of our tensors by permuting axes, by
rotating the kernels of up-sampling convolutions, and by adding 1 to the biases of the style layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ..errors import UnknownFormatError
from ..generators import Generator, GeneratorConfig
from .checkpoint import NVIDIA_LICENCE, Checkpoint
from .fitting import Origin, empty, fill, shapes_of
from .networks import Found
from .pickles.content import Content, NetworkRecord
from .pickles.numpy_values import ArrayRecord
from .pickles.values import Load, is_number, printable

VERSIONS = {4: "StyleGAN2", 5: "StyleGAN2-ADA"}

_READS = "Give one of these: StyleGAN2 of configuration e or f and StyleGAN2-ADA, both with skip connections."
# Options that change what is computed. The values are what our networks compute, and also the default of each option.
_FIXED: dict[str, Any] = {
    "architecture": "skip",
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "normalize_latents": True,
    "num_channels": 3,
    "resample_kernel": [1, 3, 3, 1],
    "use_noise": True,
}
# Options that go into the config, that follow from the shapes of variables, that only training uses, or that choose
# between two ways to compute the same.
_HARMLESS = {
    "components", "conv_clamp", "dlatent_avg_beta", "dlatent_broadcast", "dlatent_size", "dtype", "fmap_base",
    "fmap_const", "fmap_decay", "fmap_max", "fmap_min", "fused_modconv", "is_template_graph", "is_training",
    "is_validation", "label_size", "latent_size", "mapping_fmaps", "mapping_func", "mapping_layers", "mapping_lrmul",
    "num_fp16_res", "randomize_noise", "resolution", "resolution_h", "resolution_w", "return_dlatents",
    "style_mixing_prob", "synthesis_func", "truncation_cutoff", "truncation_cutoff_val", "truncation_psi",
    "truncation_psi_val",
}  # fmt: skip
_BLOCK = re.compile(r"synthesis/([0-9]{1,5})x\1/")
_DENSE = re.compile(r"mapping/Dense[0-9]{1,3}/weight")
_FUNCTIONS = (
    "G_main", "G_mapping", "G_synthesis", "G_synthesis_stylegan2", "mapping", "synthesis",
)  # fmt: skip  # the functions that build the networks that are read
_REVISED = "G_synthesis_stylegan_revised"
# Variables of networks that compute something else.
_OTHERS = re.compile(r"mapping/LabelConcat/.*|synthesis/.*(ToRGB_lod[0-9]+|Skip|StyleMod)/.*")


def read_tensorflow(found: Found, smoothed: NetworkRecord, content: Content) -> Checkpoint:
    """Read a TensorFlow StyleGAN2, usually Gs, the moving average.

    Raises UnknownFormatError for versions and architectures that compute something else, CorruptFileError for a file
    that is damaged or contradicts itself.
    """
    load, source = content.load, content.load.source
    version = _version(smoothed, source)
    networks = {"": smoothed, **_components(smoothed, load)}
    options = _options(networks.values(), load)
    variables = {
        prefix + name: tensor for prefix, network in networks.items() for name, tensor in _variables(network, load)
    }
    functions = [options.get("synthesis_func"), options.get("mapping_func")]
    functions += [network.state.get("build_func_name") for network in networks.values()]
    _refuse_other_architectures(options, functions, variables, source)
    config = _config(options, variables, load)
    generator = fill(empty(Generator, config).eval(), shapes_of(variables), lambda: variables, source, origins(config))
    extra = {"version": version, "trained_with": VERSIONS[version], "network": found.name or "the file itself"}
    return Checkpoint(generator, "tensorflow", _notes(source, config), content.globals, NVIDIA_LICENCE, extra)


def origins(config: GeneratorConfig) -> dict[str, Origin]:
    """Return, for each tensor of a StyleGAN2 generator, the variable of Gs that it comes from."""
    table = {
        "mapping.w_avg": Origin("dlatent_avg"),
        "synthesis.b4.const": Origin("synthesis/4x4/Const/const", leading=1),
    }
    dense = {f"fc{i}": f"Dense{i}" for i in range(config.mapping_layers)}
    for ours, theirs in {**dense, **({"embed": "LabelEmbed"} if config.c_dim else {})}.items():
        table[f"mapping.{ours}.weight"] = Origin(f"mapping/{theirs}/weight", axes=(1, 0))
        table[f"mapping.{ours}.bias"] = Origin(f"mapping/{theirs}/bias")
    for i, conv in enumerate(config.layer_names[1:]):  # the first is the constant
        size = conv.split(".")[0][1:]
        up = conv.endswith("conv0")
        theirs = f"synthesis/{size}x{size}/{'Conv0_up' if up else 'Conv1' if i else 'Conv'}"
        table |= _modulated(f"synthesis.{conv}", theirs, flipped=up)
        table[f"synthesis.{conv}.noise_strength"] = Origin(f"{theirs}/noise_strength")
        table[f"synthesis.{conv}.noise_const"] = Origin(f"synthesis/noise{i}", leading=2)
    for r in config.resolutions:
        table |= _modulated(f"synthesis.b{r}.torgb", f"synthesis/{r}x{r}/ToRGB")
    return table


def _modulated(ours: str, theirs: str, *, flipped: bool = False) -> dict[str, Origin]:
    """Return the origins of a modulated convolution."""
    return {
        f"{ours}.weight": Origin(f"{theirs}/weight", axes=(3, 2, 0, 1), flipped=flipped),
        f"{ours}.bias": Origin(f"{theirs}/bias"),
        f"{ours}.affine.weight": Origin(f"{theirs}/mod_weight", axes=(1, 0)),
        f"{ours}.affine.bias": Origin(f"{theirs}/mod_bias", plus=1.0),
    }


# ---- the content of the pickle ----


def _version(network: NetworkRecord, source: str) -> int:
    version = network.state.get("version")
    if type(version) is not int or version not in VERSIONS:
        raise UnknownFormatError(
            f"{source}: a TensorFlow network of version {_shown(version)}; StyleGAN and older have versions below 4",
            _READS,
        )
    return version


def _components(network: NetworkRecord, load: Load) -> dict[str, NetworkRecord]:
    """Return the two networks inside Gs, by the prefix of their variables."""
    found = network.state.get("components")
    components: dict[str, NetworkRecord] = {}
    for name in ("mapping", "synthesis"):
        component = found.get(name) if isinstance(found, dict) else None
        if type(component) is not NetworkRecord:
            raise load.damaged(f"Gs has no {name} network")
        components[f"{name}/"] = component
    return components


def _options(networks: Iterable[NetworkRecord], load: Load) -> dict[str, Any]:
    """Return the options of all networks; where they differ, the inner network counts."""
    merged: dict[str, Any] = {}
    for network in networks:
        options = network.state.get("static_kwargs")
        if not isinstance(options, dict) or not all(type(name) is str for name in options):
            raise load.damaged("the options of a network are not a dictionary of names")
        merged |= options
    return merged


def _variables(network: NetworkRecord, load: Load) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each variable of one network."""
    variables = network.state.get("variables")
    if type(variables) is not list:
        raise load.damaged("the variables of a network are not a list")
    for variable in variables:
        if type(variable) is not tuple or len(variable) != 2 or type(variable[0]) is not str:
            raise load.damaged("the variables of a network are not a list of names and arrays")
        name, value = variable
        if name == "lod":  # the progress of progressive growing
            continue
        if type(value) is ArrayRecord:
            if value.dtype.kind != "f":
                raise load.damaged(f"variable {printable(name)} is stored as {value.dtype}, floats were expected")
            yield printable(name), torch.from_numpy(value.array(load))
        elif is_number(value):  # a variable without axes is stored as a numpy number
            yield printable(name), torch.tensor(float(value))
        else:
            raise load.damaged(f"variable {printable(name)} is not an array of numbers")


# ---- the network ----


def _refuse_other_architectures(
    options: Mapping[str, Any], functions: list[Any], variables: Iterable[str], source: str
) -> None:
    wrong = [f"{name} {_shown(options[name])}" for name, ours in _FIXED.items() if not _same(options, name, ours)]
    height, width = options.get("resolution_h"), options.get("resolution_w")
    if type(height) is int and type(width) is int and height != width:
        wrong.append(f"images that are not square (resolution_h {height}, resolution_w {width})")
    unknown = [name for name in functions if type(name) is str and name not in (*_FUNCTIONS, _REVISED)]
    wrong += [f"function {printable(name)}" for name in unknown]
    if _REVISED in functions:
        wrong.append(f"{_REVISED} (configurations b to d)")
    wrong += [f"unknown option {printable(name)}" for name in options.keys() - _FIXED.keys() - _HARMLESS]
    wrong += [f"variable {name}" for name in variables if _OTHERS.fullmatch(name)]
    if wrong:
        shown = ", ".join(wrong[:6])
        raise UnknownFormatError(f"{source}: a TensorFlow network that computes something else: {shown}", _READS)


def _same(options: Mapping[str, Any], name: str, ours: Any) -> bool:
    value = options.get(name, ours)
    value = list(value) if type(value) is tuple else value
    return type(value) is type(ours) and bool(value == ours)


def _shown(value: Any) -> str:
    """Return a value from the file for a message; only the type of nested ones, which may be endless."""
    plain = (str, int, float, bool, type(None))
    flat = type(value) in (list, tuple) and len(value) <= 8 and all(type(entry) in plain for entry in value)
    return printable(repr(value)) if flat or type(value) in plain else f"of type {type(value).__name__}"


def _config(options: Mapping[str, Any], variables: Mapping[str, Tensor], load: Load) -> GeneratorConfig:
    """Derive resolution, widths and depth from the variables, and take the rest from the options."""
    blocks = sorted({int(found[1]) for found in map(_BLOCK.match, variables) if found})
    convs = ["4x4/Conv", *(f"{size}x{size}/{conv}" for size in blocks[1:] for conv in ("Conv0_up", "Conv1"))]
    embed = variables.get("mapping/LabelEmbed/weight")
    try:
        first_in, w_dim = variables["mapping/Dense0/weight"].shape
        c_dim = 0 if embed is None else embed.shape[0]
        config = GeneratorConfig(
            resolution=max(blocks, default=0),
            widths=(
                variables["synthesis/4x4/Const/const"].shape[1],
                *(variables[f"synthesis/{conv}/weight"].shape[3] for conv in convs),
            ),
            z_dim=first_in - (w_dim if c_dim else 0),
            w_dim=w_dim,
            c_dim=c_dim,
            mapping_layers=sum(_DENSE.fullmatch(name) is not None for name in variables),
            **_numbers(options, load),
        )
    except KeyError as error:
        raise load.damaged(f"variable {error.args[0]} is missing") from error
    except (IndexError, ValueError) as error:
        raise load.damaged(f"no generator has these shapes: {printable(str(error))}") from error
    sizes = dict.fromkeys(("resolution", "resolution_h", "resolution_w"), config.resolution)
    for name, found in {**sizes, "label_size": config.c_dim}.items():
        if not _same(options, name, found):
            raise load.damaged(f"{name} is {_shown(options[name])} in the options and {found} by the variables")
    return config


def _numbers(options: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """Return the entries of the config that only the options record."""
    multiplier = options.get("mapping_lrmul", 0.01)
    clamp = options.get("conv_clamp")
    halves = options.get("num_fp16_res", 0)
    for name, value, valid in (
        ("mapping_lrmul", multiplier, is_number(multiplier) and multiplier > 0),
        ("conv_clamp", clamp, clamp is None or (is_number(clamp) and clamp > 0)),
        ("num_fp16_res", halves, type(halves) is int and halves >= 0),
    ):
        if not valid:
            raise load.damaged(f"{name} is {_shown(value)} in the options")
    return {"mapping_lr_multiplier": float(multiplier), "conv_clamp": clamp, "num_fp16_res": halves}


def _notes(source: str, config: GeneratorConfig) -> tuple[str, ...]:
    words = re.findall("[a-z]+", PurePath(source).name.lower())
    if config.resolution == 512 and {"car", "cars", "lsuncar"} & set(words):
        return ("LSUN car: the images are 512x384, with black bars above and below to make them 512x512",)
    return ()
