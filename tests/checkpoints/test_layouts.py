"""Generators written in the layouts of the original code have its names, shapes and values, and come back unchanged."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from dcp_deploy.checkpoints import layouts, read_checkpoint
from dcp_deploy.checkpoints.fitting import empty
from dcp_deploy.checkpoints.layouts import (
    FACTS,
    nvidia_arguments,
    nvidia_state,
    rosinality_document,
    rosinality_options,
    rosinality_state,
    save_layout,
)
from dcp_deploy.checkpoints.loading import read_network
from dcp_deploy.checkpoints.pickles.torch_file import read_torch_file
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator, GeneratorConfig

from .rosinality_writer import torch_bytes
from .test_rosinality import FILES, TOLERANCE, original, pruned

Arrays = Mapping[str, np.ndarray]
Golden = Callable[[str], Arrays]
State = Mapping[str, torch.Tensor]

# From the instantiated networks of the original code, by configuration: every name in order, with its shape.
SHAPES = json.loads((Path(__file__).parent / "cases" / "original_shapes.json").read_text())
REAL = {
    "rosinality_256": GeneratorConfig.stylegan2(256, 32768),
    "rosinality_1024": GeneratorConfig.stylegan2(1024, 32768),
    "stylegan2_256_paper256": GeneratorConfig.stylegan2(256, 16384),
    "stylegan2_1024_config_f": GeneratorConfig.stylegan2(1024, 32768),
    "stylegan3_t_256_cbase16384": GeneratorConfig.stylegan3(256, "t", 16384),
    "stylegan3_r_1024": GeneratorConfig.stylegan3(1024, "r", 32768),
}


def network(**changes: Any) -> Generator:
    """Return an 8 px generator with random biases, strengths and mean code, and these entries of its config."""
    sizes: dict[str, Any] = {"widths": (6, 5, 4, 3), "z_dim": 6, "w_dim": 6, "mapping_layers": 2}
    generator = Generator(GeneratorConfig(8, **{**sizes, **changes})).eval().requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        if name.endswith((".bias", ".noise_strength", ".w_avg")):
            tensor.normal_()
    return generator


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor), name


# ---- rosinality ----


@pytest.mark.parametrize("name", ["rosinality_32", "rosinality_pruned_32"])
def test_a_golden_network_is_written_as_the_original_code_has_it(name: str, golden: Golden, tmp_path: Path) -> None:
    arrays = golden(name)
    mean = torch.from_numpy(arrays["latent_avg"])
    data = memoryview(torch_bytes({"g_ema": original(arrays), "latent_avg": mean}))
    save_layout(read_network(read_torch_file(data, name)).generator, tmp_path / "student.pt", "rosinality")
    document = torch.load(tmp_path / "student.pt", weights_only=True)
    assert_same(document["g_ema"], original(arrays))
    assert torch.equal(document["latent_avg"], mean)
    with torch.no_grad():
        image = read_checkpoint(tmp_path / "student.pt").generator(torch.from_numpy(arrays["z"]), psi=0.7)
    np.testing.assert_allclose(image.numpy(), arrays["img_const_psi0.7"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["dcp_pruned_torch213.pt", "ros_training_zip_torch213.pt"])
def test_a_file_of_the_original_code_is_written_again_unchanged(name: str, tmp_path: Path) -> None:
    save_layout(read_checkpoint(FILES / name).generator, tmp_path / "again.pt", "rosinality")
    with torch.serialization.safe_globals([argparse.Namespace]):
        before = torch.load(FILES / name, weights_only=True)["g_ema"]
    after = torch.load(tmp_path / "again.pt", weights_only=True)
    assert_same(after["g_ema"], before)
    assert_same(after["g"], before)  # DCP-GAN's and StyleKD's training starts from both


@pytest.mark.parametrize("name", REAL)
def test_published_configurations_have_the_original_names_and_shapes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "_copies", lambda generator: generator.state_dict())  # no values, only shapes
    generator = empty(Generator, REAL[name])
    state = rosinality_state(generator) if name.startswith("rosinality") else nvidia_state(generator)
    state.pop("latent_avg", None)  # beside the state dict
    assert {key: list(tensor.shape) for key, tensor in state.items()} == SHAPES[name]


@pytest.mark.parametrize("name", ["rosinality_256", "rosinality_1024"])
def test_modules_and_convolutions_come_in_the_original_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_copies", lambda generator: generator.state_dict())
    state = rosinality_document(empty(Generator, REAL[name]))["g_ema"]
    for part in ("conv.weight", "modulation.bias", "noise", "style"):
        assert [key for key in state if part in key] == [key for key in SHAPES[name] if part in key]
    modules = [key.split(".")[0] for key in state]
    assert modules == [key.split(".")[0] for key in SHAPES[name]]


def test_the_order_of_names_gives_the_widths(tiny_generator: Generator) -> None:
    # What CAGAN's and DCP-GAN's loaders derive the network from: inputs of every convolution, outputs of the last.
    state = rosinality_document(tiny_generator)["g_ema"]
    convs = [state[key] for key in state if key == "conv1.conv.weight" or ("convs" in key and "conv.weight" in key)]
    assert (*(conv.shape[2] for conv in convs), convs[-1].shape[1]) == tiny_generator.config.widths


@settings(max_examples=30)
@given(config=pruned(), lr=st.sampled_from([0.01, 0.05, 1.0]), z_dim=st.sampled_from([3, 4, 7]))
def test_any_widths_come_back_bit_for_bit(config: GeneratorConfig, lr: float, z_dim: int) -> None:
    config = replace(config, mapping_lr_multiplier=lr, z_dim=z_dim)
    generator = Generator(config)
    generator.mapping.w_avg.normal_()
    loaded = read_network(read_torch_file(memoryview(torch_bytes(rosinality_document(generator))), "student.pt"))
    assert loaded.generator.config == config
    assert loaded.notes == ()
    assert_same(loaded.generator.state_dict(), generator.state_dict())


def test_options_are_read_as_attributes_and_as_entries(tmp_path: Path) -> None:
    save_layout(network(mapping_lr_multiplier=0.05), tmp_path / "s.pt", "rosinality")
    args = torch.load(tmp_path / "s.pt", weights_only=True)["args"]
    expected = {"arch": "stylegan2", "size": 8, "latent": 6, "n_mlp": 2, "lr_mlp": 0.05}
    assert dict(args) == expected and vars(args) == expected
    assert (args.size, args["size"]) == (8, 8)


@pytest.mark.parametrize(("name", "multiplier"), [("rosinality_1024", 2), ("stylegan2_256_paper256", 1)])
def test_full_widths_have_a_channel_multiplier(name: str, multiplier: int) -> None:
    assert rosinality_options(REAL[name])["channel_multiplier"] == multiplier


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "follow from no channel_multiplier"),
        ({"mapping_lr_multiplier": 0.05}, r"lr_mlp is 0\.05, not 0\.01"),
        ({"z_dim": 5}, r"latents have 5 numbers and codes 6.* EqualLinear\(5, 6, lr_mul=0\.01"),
        ({"conv_clamp": 1e4}, "conv_clamp 10000 is left out.*16 sample images stay within"),
    ],
    ids=str,
)
def test_what_the_original_code_needs_to_know_is_said(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    notes = save_layout(network(**changes), tmp_path / "s.pt", "rosinality")
    assert len(notes) == 1 + bool(changes)
    assert re.search(note, "\n".join(notes))


def rectangular() -> Generator:
    generator = network()
    object.__setattr__(generator.config, "base", (8, 4))  # as a config for rectangular images has it
    return generator


@pytest.mark.parametrize(
    ("generator", "reason"),
    [
        (lambda: network(c_dim=3), "a network with 3 classes"),
        (lambda: network(conv_clamp=0.25), r"conv_clamp 0\.25 limits the activations"),
        (lambda: Generator(GeneratorConfig.stylegan3(16, "t", 64, 4, z_dim=4, w_dim=4)), "a StyleGAN3"),
        (rectangular, "grows from 8x4 instead of 4x4"),
    ],
    ids=["classes", "clamp", "StyleGAN3", "rectangular"],
)
def test_what_rosinalitys_layout_cannot_hold_is_refused(
    generator: Callable[[], Generator], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        save_layout(generator(), tmp_path / "s.pt", "rosinality")
    assert "--to nvidia" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_clamp_that_never_acts_is_left_out_without_a_difference(tmp_path: Path) -> None:
    generator = network(conv_clamp=1e4)
    save_layout(generator, tmp_path / "s.pt", "rosinality")
    loaded = read_checkpoint(tmp_path / "s.pt").generator
    z = torch.randn(4, 6)
    with torch.no_grad():
        assert loaded.config.conv_clamp is None and torch.equal(loaded(z), generator(z))


# ---- NVIDIA ----

GOLDEN = pytest.mark.parametrize(
    "name", ["sg2ada_32", "sg2ada_32_cond_clamp", "sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"]
)


@GOLDEN
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_golden_network_is_written_with_nvidias_tensors(
    name: str, suffix: str, golden: Golden, golden_generator: Callable[[str], Generator], tmp_path: Path
) -> None:
    path = tmp_path / f"student{suffix}"
    save_layout(golden_generator(name), path, "nvidia")
    found = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert_same(found, original(golden(name)))


@GOLDEN
def test_the_arguments_are_those_the_original_network_was_made_with(
    name: str, golden: Golden, golden_generator: Callable[[str], Generator]
) -> None:
    expected = json.loads(str(golden(name)["config"]))["init_kwargs"]
    expected |= expected.pop("synthesis_kwargs", {})
    config = replace(golden_generator(name).config, num_fp16_res=expected.get("num_fp16_res", 0))
    found = nvidia_arguments(config)
    assert found.pop("mapping_kwargs") == {"lr_multiplier": 0.01, **expected.pop("mapping_kwargs")}
    flat = found | found.pop("synthesis_kwargs")
    # The class, and how fast a mean moved in training, are not part of the network.
    assert expected.keys() - flat.keys() <= {"class_name", "magnitude_ema_beta"}
    same = expected.keys() & flat.keys()
    assert {key: flat[key] for key in same} == {key: expected[key] for key in same}


def test_the_arguments_describe_the_schedule_of_stylegan3() -> None:
    config = GeneratorConfig.stylegan3(32, "r", 64, 8)
    assert config.layout is not None
    layout = replace(config.layout, num_layers=10, margin=6, first_cutoff=3.0, output_scale=0.5, filter_size=4)
    synthesis = nvidia_arguments(replace(config, layout=layout, widths=(8,) * 11))["synthesis_kwargs"]
    expected = {"num_layers": 10, "margin_size": 6, "first_cutoff": 3.0, "output_scale": 0.5, "filter_size": 4}
    assert {name: synthesis[name] for name in expected} == expected
    assert (synthesis["use_radial_filters"], synthesis["conv_kernel"]) == (True, 1)


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("stylegan")])
def test_the_arguments_give_the_published_widths(name: str) -> None:
    config = REAL[name]
    synthesis = nvidia_arguments(config)["synthesis_kwargs"]
    widths = (synthesis["channel_base"], synthesis["channel_max"])
    family = GeneratorConfig.stylegan3 if config.layout else GeneratorConfig.stylegan2
    assert family(config.resolution, channel_base=widths[0], channel_max=widths[1]).widths == config.widths


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_arguments_and_terms_lie_beside_nvidias_tensors(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    generator = network(widths=(4, 4, 2, 2), c_dim=3, conv_clamp=256.0, num_fp16_res=1)
    notes = save_layout(generator, path, "nvidia", licence="research only", provenance={"file": "t.pkl"})
    assert len(notes) == 1 and "conv_clamp 256" in notes[0]
    if suffix == ".pt":
        facts = vars(torch.load(path, weights_only=True))
    else:
        with safe_open(path, framework="pt") as stream:
            facts = json.loads(stream.metadata()[FACTS])
    assert facts["licence"] == "research only" and json.loads(facts["provenance"]) == {"file": "t.pkl"}
    assert facts["init_kwargs"] == {
        "z_dim": 6,
        "c_dim": 3,
        "w_dim": 6,
        "img_resolution": 8,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01},
        "synthesis_kwargs": {"channel_base": 16, "channel_max": 4, "conv_clamp": 256.0, "num_fp16_res": 1},
    }


def test_pruned_widths_in_nvidias_names_get_a_note(tmp_path: Path) -> None:
    assert "the widths of the tensors" in save_layout(network(), tmp_path / "s.pt", "nvidia")[0]
    assert "channel_base" not in torch.load(tmp_path / "s.pt", weights_only=True).init_kwargs["synthesis_kwargs"]


def test_a_narrowed_synthesis_input_of_stylegan3_gets_a_note(tmp_path: Path) -> None:
    config = GeneratorConfig.stylegan3(16, "t", 64, 4, z_dim=4, w_dim=4)
    layout = replace(config.layout, fourier_features=6)  # type: ignore[type-var]  # a StyleGAN3 has one
    notes = save_layout(Generator(replace(config, layout=layout)), tmp_path / "s.pt", "nvidia")
    assert any("the widths of the tensors" in note for note in notes)


# ---- files ----


def test_terms_and_origin_travel_as_texts(tmp_path: Path) -> None:
    save_layout(network(), tmp_path / "s.pt", "rosinality", licence="research only", provenance={"file": "t.pkl"})
    document = torch.load(tmp_path / "s.pt", weights_only=True)
    assert document["licence"] == "research only" and json.loads(document["provenance"]) == {"file": "t.pkl"}


@pytest.mark.parametrize(("layout", "suffix"), [("rosinality", "pt"), ("nvidia", "pt"), ("nvidia", "safetensors")])
def test_the_same_generator_gives_the_same_bytes(layout: Any, suffix: str, tmp_path: Path) -> None:
    generator = network()
    for name in ("one", "two"):
        save_layout(generator, tmp_path / f"{name}.{suffix}", layout)
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_only_the_tensors_are_stored_not_the_memory_they_are_views_of(tmp_path: Path) -> None:
    generator = network()
    generator.mapping.w_avg = torch.zeros(1_000_000)[:6]
    save_layout(generator, tmp_path / "s.pt", "rosinality")
    assert (tmp_path / "s.pt").stat().st_size < 100_000
