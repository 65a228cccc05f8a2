"""NVIDIA's snapshots, written by their code and by ours, give the original images; other variants are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import load_generator, read_checkpoint
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout

from . import nvidia_writer

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
GOLDEN = ("sg2ada_32", "sg2ada_32_cond_clamp", "sg3t_32", "sg3t_64_cond_clamp", "sg3r_64")

Build = Callable[[str], Generator]
Write = Callable[..., Path]


def same(loaded: Generator, original: Generator) -> None:
    assert loaded.config.to_dict() | {"num_fp16_res": 0} == original.config.to_dict() | {"num_fp16_res": 0}
    theirs = original.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, theirs[name]), name


# ---- files that NVIDIA's code wrote ----


@pytest.mark.parametrize("name", ["sg2ada_32_uncond_torch171", "sg3t_32_torch213", "trojan_module_src"])
def test_files_of_the_original_code_give_the_original_images(name: str) -> None:
    checkpoint = read_checkpoint(DATA / f"{name}.pkl")
    generator = checkpoint.generator.requires_grad_(False)
    with np.load(DATA / f"{name}.npz") as expected:
        z = torch.from_numpy(expected["z"]).float()
        # Sums in another order: images reach 3.6, and the paths are up to 30 layers of float32 long.
        for psi, key in ((1.0, "img_const"), (0.7, "img_const_psi0.7")):
            torch.testing.assert_close(generator(z, psi=psi), torch.from_numpy(expected[key]), atol=2e-5, rtol=0)
        images = generator.synthesis(torch.from_numpy(expected["ws_mix"]))
        torch.testing.assert_close(images, torch.from_numpy(expected["img_const_ws_mix"]), atol=2e-5, rtol=0)
    assert checkpoint.format == "nvidia"
    assert checkpoint.notes == ()


def test_origin_licence_and_names_in_the_pickle_are_reported() -> None:
    checkpoint = read_checkpoint(DATA / "sg2ada_32_uncond_torch171.pkl")
    assert checkpoint.extra["network"] == "G_ema"
    assert checkpoint.extra["class"] == "Generator"
    assert checkpoint.extra["training_set"] == "made-up.zip"
    assert json.loads(json.dumps(checkpoint.extra)) == checkpoint.extra
    assert "research or evaluation" in str(checkpoint.licence)
    assert checkpoint.globals[0] == "torch_utils.persistence._reconstruct_persistent_obj"
    assert "torch.FloatStorage" in checkpoint.globals


def test_the_recorded_precision_is_kept_in_the_config() -> None:
    assert read_checkpoint(DATA / "sg3t_32_torch213.pkl").generator.config.num_fp16_res == 4


# ---- variants ----


@pytest.mark.parametrize("name", GOLDEN)
def test_every_architecture_is_read_unchanged(golden_generator: Build, nvidia_file: Write, name: str) -> None:
    same(load_generator(nvidia_file(golden_generator(name))), golden_generator(name))


@pytest.mark.parametrize(
    ("name", "protocol"), [("sg2ada_32", 2), ("sg2ada_32", 3), ("sg2ada_32", 4), ("sg2ada_32", 5), ("sg3t_32", 2)]
)
def test_every_pickle_protocol_is_read(golden_generator: Build, nvidia_file: Write, name: str, protocol: int) -> None:
    same(load_generator(nvidia_file(golden_generator(name), protocol=protocol)), golden_generator(name))


@pytest.mark.parametrize("package", ["src.torch_utils", "stylegan2_ada.torch_utils"])
def test_forks_keep_the_persistence_module_elsewhere(
    tiny_generator: Generator, nvidia_file: Write, package: str
) -> None:
    same(load_generator(nvidia_file(tiny_generator, package=package)), tiny_generator)


def test_half_precision_files_with_g_ema_alone_are_read(tiny_generator: Generator, nvidia_file: Write) -> None:
    checkpoint = read_checkpoint(nvidia_file(tiny_generator, keys=("G_ema",), dtype=torch.float16))
    assert checkpoint.notes == ()
    for name, tensor in checkpoint.generator.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tiny_generator.state_dict()[name].half().float())


def test_weights_stored_channels_last_are_read_in_their_order(tiny_generator: Generator, nvidia_file: Write) -> None:
    def change(document: dict[str, Any]) -> None:
        for block in document["G_ema"].at("synthesis").state["_modules"].values():
            parameters = block.at("conv1").state["_parameters"]
            parameters["weight"] = torch.nn.Parameter(nvidia_writer.channels_last(parameters["weight"]))
            assert parameters["weight"].stride()[1] == 1

    same(load_generator(nvidia_file(tiny_generator, change=change)), tiny_generator)


def test_without_g_ema_g_is_read_with_a_note(tiny_generator: Generator, nvidia_file: Write) -> None:
    checkpoint = read_checkpoint(nvidia_file(tiny_generator, change=lambda d: {"G": d["G_ema"], "G_ema": None}))
    same(checkpoint.generator, tiny_generator)
    assert "weights of G as trained" in checkpoint.notes[0]
    assert checkpoint.extra["network"] == "G"


def test_a_network_pickled_alone_is_read_with_a_note(tiny_generator: Generator, nvidia_file: Write) -> None:
    checkpoint = read_checkpoint(nvidia_file(tiny_generator, change=lambda document: document["G_ema"]))
    same(checkpoint.generator, tiny_generator)
    assert len(checkpoint.notes) == 1


def test_a_missing_mean_code_is_estimated_with_a_note(
    tiny_generator: Generator, nvidia_file: Write, caplog: pytest.LogCaptureFixture
) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["G_ema"].at("mapping").state["_buffers"]["w_avg"]

    loaded = load_generator(nvidia_file(tiny_generator, change=change))
    assert "no w_avg" in caplog.text
    with torch.no_grad():
        codes = tiny_generator.mapping.w(torch.randn(20_000, 16))
    # Two means of 10,000 and 20,000 draws differ by about 0.012 standard deviations; six times that is allowed.
    assert ((loaded.mapping.w_avg - codes.mean(dim=0)).abs() < 0.075 * codes.std(dim=0)).all()


def test_networks_trained_without_noise_get_noise_of_strength_zero(
    tiny_generator: Generator, nvidia_file: Write
) -> None:
    def change(document: dict[str, Any]) -> None:
        for block in document["G_ema"].at("synthesis").state["_modules"].values():
            for name in {"conv0", "conv1"} & block.state["_modules"].keys():
                conv = block.at(name).state
                conv["use_noise"] = False
                del conv["_parameters"]["noise_strength"], conv["_buffers"]["noise_const"]

    checkpoint = read_checkpoint(nvidia_file(tiny_generator, change=change))
    z = torch.randn(2, 16)
    with torch.no_grad():
        assert torch.equal(checkpoint.generator(z, noise="const"), tiny_generator(z, noise="none"))
    assert "without noise" in checkpoint.notes[0]


def test_half_precision_blocks_are_counted(tiny_generator: Generator, nvidia_file: Write) -> None:
    def change(document: dict[str, Any]) -> None:
        for name in ("b16", "b32"):
            document["G_ema"].at(f"synthesis.{name}").state["use_fp16"] = True

    assert load_generator(nvidia_file(tiny_generator, change=change)).config.num_fp16_res == 2


def test_the_mapping_learning_rate_comes_from_the_record(nvidia_file: Write) -> None:
    config = GeneratorConfig(8, (3, 4, 3, 2), z_dim=4, w_dim=4, mapping_layers=1, mapping_lr_multiplier=0.5)
    assert load_generator(nvidia_file(Generator(config))).config == config


def test_an_unusual_stylegan3_schedule_is_read_from_the_records(nvidia_file: Write) -> None:
    layout = StyleGAN3Layout(3, num_layers=5, num_critical=1, margin=6, first_cutoff=1.5, first_stopband=4.0)
    config = GeneratorConfig(
        32, (3, 2, 2, 3, 2, 2), z_dim=4, w_dim=4, mapping_layers=1, kind="stylegan3", layout=layout, num_fp16_res=4
    )

    def change(document: dict[str, Any]) -> None:
        document["G_ema"].at("synthesis").state["_init_kwargs"]["first_stopband"] = 4.0

    generator = Generator(config)
    same(load_generator(nvidia_file(generator, change=change)), generator)
    # Without the option, the default stopband does not give the recorded sizes.
    with pytest.raises(UnknownFormatError, match=r"size is \(20, 20\), and only \(28, 28\) is read"):
        load_generator(nvidia_file(generator))


# ---- what is refused ----


def refusal(document_change: Mapping[str, Any], path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        record = document["G_ema"] if path == "" else document["G_ema"].at(path)
        record.state.update(document_change)

    return change


@pytest.mark.parametrize(
    ("path", "facts", "named"),
    [
        ("synthesis.b8", {"architecture": "resnet"}, "synthesis.b8: architecture is 'resnet'"),
        ("synthesis.b8.conv0", {"activation": "relu"}, "activation is 'relu'"),
        ("synthesis.b8.conv0", {"conv_clamp": 7.5}, "synthesis.b8.conv0: conv_clamp is 7.5"),
        ("synthesis.b8.conv1", {"act_gain": 1.0}, "act_gain is 1.0"),
        ("synthesis.b8.torgb", {"weight_gain": 1.0}, "weight_gain is 1.0"),
        ("mapping.fc1", {"bias_gain": 0.1}, "mapping.fc1: bias_gain is 0.1"),
        ("", {"img_channels": 1}, "img_channels is 1"),
        ("", {"img_resolution": 48}, "48"),
        ("", {"c_dim": 5}, "c_dim is 5"),
    ],
)
def test_networks_that_compute_something_else_are_refused_by_name(
    tiny_generator: Generator, nvidia_file: Write, path: str, facts: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnknownFormatError, match=named):
        load_generator(nvidia_file(tiny_generator, change=refusal(facts, path)))


@pytest.mark.parametrize(
    ("fact", "value"),
    [("in_cutoff", 3.0), ("padding", [1, 2, 3, 4]), ("down_radial", True), ("out_size", np.array([36, 44]))],
)
def test_stylegan3_layers_off_the_schedule_are_refused(
    golden_generator: Build, nvidia_file: Write, fact: str, value: Any
) -> None:
    def change(document: dict[str, Any]) -> None:
        layers = document["G_ema"].at("synthesis").state["_modules"]
        layers[next(name for name in layers if name.startswith("L3_"))].state[fact] = value

    with pytest.raises(UnknownFormatError, match=fact if fact != "down_radial" else "radial"):
        load_generator(nvidia_file(golden_generator("sg3t_32"), change=change))


def test_another_class_is_refused_with_its_name(tiny_generator: Generator, nvidia_file: Write) -> None:
    def change(document: dict[str, Any]) -> None:
        document["G_ema"].class_name = "TriPlaneGenerator"

    with pytest.raises(UnknownFormatError, match="TriPlaneGenerator"):
        load_generator(nvidia_file(tiny_generator, change=change))


def test_another_resampling_filter_is_refused(tiny_generator: Generator, nvidia_file: Write) -> None:
    def change(document: dict[str, Any]) -> None:
        document["G_ema"].at("synthesis.b8.conv0").state["_buffers"]["resample_filter"] = torch.ones(4, 4) / 16

    with pytest.raises(UnknownFormatError, match=r"b8\.conv0\.resample_filter"):
        load_generator(nvidia_file(tiny_generator, change=change))


def test_a_snapshot_without_a_generator_is_refused_with_its_keys(tiny_generator: Generator, nvidia_file: Write) -> None:
    with pytest.raises(UnknownFormatError, match="D, training_set_kwargs"):
        load_generator(nvidia_file(tiny_generator, keys=("D", "training_set_kwargs")))


def test_a_missing_attribute_and_a_missing_tensor_are_named(tiny_generator: Generator, nvidia_file: Write) -> None:
    def no_clamp(document: dict[str, Any]) -> None:
        del document["G_ema"].at("synthesis.b8.conv0").state["conv_clamp"]

    def no_bias(document: dict[str, Any]) -> None:
        del document["G_ema"].at("synthesis.b8.conv0").state["_parameters"]["bias"]

    with pytest.raises(CorruptFileError, match=r"synthesis\.b8\.conv0 lacks the attribute conv_clamp"):
        load_generator(nvidia_file(tiny_generator, change=no_clamp))
    with pytest.raises(CorruptFileError, match=r"missing synthesis\.b8\.conv0\.bias \[12\]"):
        load_generator(nvidia_file(tiny_generator, change=no_bias))


def test_values_that_are_not_finite_are_refused(tiny_generator: Generator, nvidia_file: Write) -> None:
    tiny_generator.mapping.w_avg[3] = float("nan")
    with pytest.raises(InputError, match=r"mapping\.w_avg"):
        load_generator(nvidia_file(tiny_generator))
