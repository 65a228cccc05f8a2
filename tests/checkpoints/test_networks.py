"""The search for generators in a file: what it finds, which it chooses, and that its work is bounded."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcp_deploy.checkpoints import read_checkpoint, read_discriminator
from dcp_deploy.checkpoints.networks import Found, StateDict
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError, UnsafeFileError
from dcp_deploy.generators import Generator

from . import nvidia_writer, rosinality_writer

State = dict[str, Tensor]


@pytest.fixture
def state(tiny_generator: Generator) -> State:
    return rosinality_writer.rosinality_state(tiny_generator)


@pytest.fixture
def other(state: State) -> State:
    """The same names with other values."""
    return {name: tensor + 1 for name, tensor in state.items() if "kernel" not in name} | {
        name: tensor for name, tensor in state.items() if "kernel" in name
    }


def chosen(document: Any, path: Path, **options: Any) -> State:
    torch.save(document, path)
    return dict(read_checkpoint(path, **options).generator.state_dict())


def is_first(found: State, generator: Generator) -> bool:
    return torch.equal(found["synthesis.b8.conv1.weight"], generator.state_dict()["synthesis.b8.conv1.weight"])


def test_an_average_without_names_is_noted(state: State, tmp_path: Path) -> None:
    """As torch_ema saves it: the weights that are read are not the averaged ones."""
    average = {"decay": 0.999, "num_updates": 9, "shadow_params": list(state.values()), "collected_params": None}
    torch.save({"g": state, "ema": average}, tmp_path / "g.pt")
    notes = read_checkpoint(tmp_path / "g.pt").notes
    assert f"ema.shadow_params is a moving average of {len(state)} tensors without names; it is not read" in notes
    assert any("not of the moving average" in note for note in notes)
    torch.save({"g_ema": state, "g": state, "betas": list(state.values())}, tmp_path / "g.pt")
    assert not any("without names" in note for note in read_checkpoint(tmp_path / "g.pt").notes)


# ---- the choice ----


@pytest.mark.parametrize(
    "name",
    [
        "ema",
        "G_ema",
        "netG-ema",
        "generatorEMA",
        "ema0.999",
        "shadow",
        "g_running",
        "gen_smooth",
        "avg",
        "averaged_model",
    ],
)
def test_names_of_averages_are_known(name: str) -> None:
    assert Found(name, StateDict("rosinality", {})).average


@pytest.mark.parametrize("name", ["G", "schema", "cinema", "no_ema", "G_ema_old", "non_ema_state_dict", "remains"])
def test_other_names_are_not_averages(name: str) -> None:
    assert not Found(name, StateDict("rosinality", {})).average


@pytest.mark.parametrize("raw", ["no_ema", "g", "G_ema_old", "model"])
def test_the_average_is_chosen_wherever_it_stands(
    raw: str, state: State, other: State, tiny_generator: Generator, tmp_path: Path
) -> None:
    found = chosen({raw: other, "ema": state, "g_optim": {}}, tmp_path / "g.pt")
    assert is_first(found, tiny_generator)


def test_a_list_without_an_average_is_read_with_a_note(state: State, other: State, tmp_path: Path) -> None:
    torch.save([state, other], tmp_path / "g.pt")
    assert any("--network" in note for note in read_checkpoint(tmp_path / "g.pt").notes)


def test_networks_of_one_name_are_numbered(
    state: State, other: State, tiny_generator: Generator, tmp_path: Path
) -> None:
    document = {"a.b": {"x": other}, "a": {"b": {"x": state}}}
    torch.save(document, tmp_path / "g.pt")
    names = [one.name for one in read_checkpoint(tmp_path / "g.pt").networks]
    assert names == ["a.b.x", "a.b.x#2"]
    assert is_first(chosen(document, tmp_path / "g.pt", network="a.b.x#2"), tiny_generator)


def test_views_of_one_storage_are_compared_by_their_own_values(state: State, tmp_path: Path) -> None:
    flat = torch.arange(2 * len(state["input.input"].flatten()), dtype=torch.float32)
    half = len(flat) // 2
    shape = state["input.input"].shape
    document = {
        "g": {**state, "input.input": flat[:half].reshape(shape)},
        "g_ema": {**state, "input.input": flat[half:].reshape(shape)},
    }
    torch.save(document, tmp_path / "g.pt")
    assert [one.same_weights for one in read_checkpoint(tmp_path / "g.pt").networks] == [False, True]


# ---- what is found ----


class Holder:
    """Stands for an average or a trainer of a class that the reader does not know."""

    def __init__(self, shadow: State) -> None:
        self.decay, self.shadow = 0.999, shadow


PLACES: dict[str, Any] = {
    "behind an encoder": lambda state: {"encoder": {"conv1.conv.weight": torch.zeros(3, 3, 3, 3)}, "decoder": state},
    "beside a transformer": lambda state: {
        "encoder.layers.0.blocks.0.attn.qkv.weight": torch.zeros(2),
        **{f"decoder.{name}": tensor for name, tensor in state.items()},
    },
    "an object": lambda state: {"g": None, "ema": Holder(state)},
    "a namespace": lambda state: argparse.Namespace(model=SimpleNamespace(g_ema=state)),
    "a number": lambda state: {0: {"epoch": 1}, 1: state},
    "numpy arrays": lambda state: {"g_ema": {name: tensor.numpy() for name, tensor in state.items()}},
    "a shell inside the names": lambda state: {name.replace("convs.", "convs.module."): t for name, t in state.items()},
    "many losses": lambda state: {"losses": [0.5] * 600_000, "g_ema": state},
    "a file name": lambda state: {"stats": "/data/x.npy", "g_ema": state},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_generator_is_found(place: str, state: State, tiny_generator: Generator, tmp_path: Path) -> None:
    assert is_first(chosen(PLACES[place](state), tmp_path / "weights.npy.pt"), tiny_generator)


class Linear(nn.Module):
    """A layer of the mapping network that records its learning rate multiplier, as rosinality's does."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.lr_mul = nn.Parameter(weight), nn.Parameter(bias), 0.25


def test_what_a_module_saved_whole_records_is_used(tiny_generator: Generator, tmp_path: Path) -> None:
    torch.save(rosinality_writer.whole_module(tiny_generator, Linear), tmp_path / "g.pt")
    assert read_checkpoint(tmp_path / "g.pt").generator.config.mapping_lr_multiplier == 0.25


def test_options_beside_the_weights_count_under_a_prefix_too(state: State, tmp_path: Path) -> None:
    mean = torch.zeros(16)
    prefixed = {f"generator.{name}": tensor for name, tensor in state.items()} | {"latent_avg": mean}
    torch.save({"state_dict": prefixed, "args": argparse.Namespace(lr_mlp=0.02)}, tmp_path / "g.pt")
    assert read_checkpoint(tmp_path / "g.pt").generator.config.mapping_lr_multiplier == 0.02


# ---- what would be drawn wrongly ----


def test_a_view_that_torch_negates_when_it_reads_is_refused(state: State, tmp_path: Path) -> None:
    negated = torch._neg_view(state["convs.0.conv.weight"])
    torch.save({"g_ema": {**state, "convs.0.conv.weight": negated}}, tmp_path / "g.pt")
    with pytest.raises(UnsafeFileError, match="negated"):
        read_checkpoint(tmp_path / "g.pt")


@pytest.mark.parametrize(
    ("path", "name"),
    [("mapping", "MappingNetworkNoNorm"), ("synthesis", "SynthesisNetworkBGR"), ("synthesis.b8.torgb", "ToYUVLayer")],
)
def test_a_part_of_another_class_is_refused(path: str, name: str, tiny_generator: Generator, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["G_ema"].at(path).class_name = name

    (tmp_path / "g.pkl").write_bytes(nvidia_writer.nvidia_pickle(tiny_generator, change=change))
    with pytest.raises(UnknownFormatError, match=name):
        read_checkpoint(tmp_path / "g.pkl")


def test_a_generator_inside_a_larger_one_is_refused(state: State, tmp_path: Path) -> None:
    inside = {f"generator.{name}": tensor for name, tensor in state.items()}
    torch.save({"g_ema": {**inside, "res.0.conv.weight": torch.zeros(2)}}, tmp_path / "g.pt")
    with pytest.raises(UnknownFormatError, match="DualStyleGAN"):
        read_checkpoint(tmp_path / "g.pt")


def test_weights_in_parts_are_refused(state: State, tmp_path: Path) -> None:
    split = {**state, "convs.0.conv.weight_orig": state["convs.0.conv.weight"]}
    torch.save({"g_ema": split}, tmp_path / "g.pt")
    with pytest.raises(UnknownFormatError, match="keeps in parts"):
        read_checkpoint(tmp_path / "g.pt")


@pytest.mark.parametrize("kind", ["sparse", "float8"])
def test_weights_of_types_that_are_not_read_are_named(kind: str, state: State, tmp_path: Path) -> None:
    weight = state["convs.0.conv.modulation.weight"]
    changed = weight.to_sparse() if kind == "sparse" else weight.to(torch.float8_e4m3fn)
    torch.save({"g_ema": {**state, "convs.0.conv.modulation.weight": changed}}, tmp_path / "g.pt")
    with pytest.raises(UnsafeFileError, match=r"convs\.0\.conv\.modulation\.weight is made by torch"):
        read_checkpoint(tmp_path / "g.pt")


# ---- bounds ----


def test_a_damaged_network_that_is_not_wanted_stops_nothing(tiny_generator: Generator, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["G"] = nvidia_writer.Persistent("Generator", _modules={"synthesis": 5})

    (tmp_path / "g.pkl").write_bytes(nvidia_writer.nvidia_pickle(tiny_generator, change=change))
    checkpoint = read_checkpoint(tmp_path / "g.pkl")
    assert is_first(dict(checkpoint.generator.state_dict()), tiny_generator)


@pytest.mark.parametrize(
    "document",
    [
        {f"a{i}.input.input": None for i in range(20_000)},
        {"A" * 1_000_000: {f"{'x' * 900}{i}.input.input": None for i in range(1500)}},
        {f"n{i}": {"input.input": torch.zeros(1)} for i in range(300)},
    ],
    ids=["prefixes", "long names", "many networks"],
)
def test_the_search_is_bounded(document: dict[str, Any], tmp_path: Path) -> None:
    torch.save(document, tmp_path / "g.pt")
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "g.pt")


@pytest.mark.parametrize("options", [{"lr_mlp": 1 << 2030}, {"lr_mlp": float("nan")}, {"lr_mlp": -1}])
def test_impossible_options_are_not_used(options: dict[str, Any], state: State, tmp_path: Path) -> None:
    torch.save({"g_ema": state, "args": argparse.Namespace(**options)}, tmp_path / "g.pt")
    assert read_checkpoint(tmp_path / "g.pt").generator.config.mapping_lr_multiplier == 0.01


def test_an_array_with_more_axes_than_numpy_s_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", **{"synthesis.b4.const": np.zeros((1,) * 8, np.float32)})
    data = (tmp_path / "g.npz").read_bytes()
    assert b"(1, 1, 1, 1, 1, 1, 1, 1)" in data
    with pytest.raises((CorruptFileError, UnknownFormatError)):
        read_checkpoint(tmp_path / "g.npz")


def test_a_discriminator_of_another_class_is_refused(tmp_path: Path) -> None:
    torch.save({"D": nn.Linear(2, 2)}, tmp_path / "d.pt")
    with pytest.raises(InputError, match="D"):
        read_discriminator(tmp_path / "d.pt")
