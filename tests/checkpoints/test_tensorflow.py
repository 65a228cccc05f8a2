"""TensorFlow StyleGAN2 pickles give the images of the original, or are refused by the entry that differs."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.checkpoints.checkpoint import NVIDIA_LICENCE, Checkpoint
from dcp_deploy.checkpoints.loading import read_network
from dcp_deploy.checkpoints.pickles.content import read_pickle_file
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError, UnsafeFileError
from dcp_deploy.generators import Generator, GeneratorConfig

from . import tensorflow_writer

FILES = Path(__file__).parents[1] / "data" / "checkpoints"
TOLERANCE = 2e-5  # the reference ran on another version of torch, which sums in another order

REVISED = "G_synthesis_stylegan_revised"

Arrays = Mapping[str, np.ndarray]
Networks = tuple[Any, Any, Any]
Change = Callable[[Networks], Any]


def read(data: bytes, name: str = "network.pkl") -> Checkpoint:
    return read_network(read_pickle_file(memoryview(data), name))


@pytest.fixture
def changed(tiny_generator: Generator) -> Callable[..., bytes]:
    """``changed(change, **options)`` returns the tiny generator's pickle after ``change`` of the three networks."""

    def write(change: Change | None = None, **options: Any) -> bytes:
        networks = tensorflow_writer.tensorflow_networks(tiny_generator, **options)
        if change is not None:
            change(networks)
        data: bytes = tensorflow_writer.tensorflow_bytes(networks)
        return data

    return write


def component(networks: Networks, name: str) -> dict[str, Any]:
    """Return the state of one of the two networks inside Gs."""
    state: dict[str, Any] = networks[2].state["components"][name].state
    return state


def with_variable(part: str, name: str, value: Any) -> Change:
    """Return a change that sets a variable of a component; None removes it."""

    def change(networks: Networks) -> None:
        state = component(networks, part)
        variables = {**dict(state["variables"]), name: value}
        state["variables"] = [(key, array) for key, array in variables.items() if array is not None]

    return change


def with_state(**entries: Any) -> Change:
    """Return a change that sets entries of the state of Gs."""
    return lambda networks: networks[2].state.update(entries)


def assert_same(loaded: Generator, generator: Generator) -> None:
    """Compare bit for bit, except style biases, which were rounded by -1 and +1."""
    assert loaded.config == generator.config
    for name, tensor in generator.state_dict().items():
        tolerance = 1e-6 if name.startswith("synthesis") and name.endswith("affine.bias") else 0
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=tolerance, rtol=0, msg=name)
        assert loaded.state_dict()[name].is_contiguous(), name


# ---- what is read ----


def test_a_version_4_file_gives_the_images_of_the_original() -> None:
    checkpoint = read((FILES / "tf_stylegan2_v4_32.pkl").read_bytes())
    generator = checkpoint.generator
    with np.load(FILES / "tf_stylegan2_v4_32.npz", allow_pickle=False) as arrays, torch.no_grad():
        z, ws = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["ws_mix"])
        for name, image in {
            "img_const": generator(z),
            "img_const_psi0.7": generator(z, psi=0.7),
            "img_const_ws_mix": generator.synthesis(ws),
            "img_none": generator(z, noise="none"),
        }.items():
            np.testing.assert_allclose(image.numpy(), arrays[name], atol=TOLERANCE, rtol=0, err_msg=name)
    assert checkpoint.format == "tensorflow"
    assert checkpoint.licence == NVIDIA_LICENCE
    assert checkpoint.notes == ()
    assert "dnnlib.tflib.network.Network" in checkpoint.globals
    assert checkpoint.extra == {"version": 4, "trained_with": "StyleGAN2", "network": "Gs"}


def test_a_class_conditional_version_5_file_with_a_clamp_gives_the_reference_images(
    golden: Callable[[str], Arrays], golden_generator: Callable[[str], Generator]
) -> None:
    arrays, generator = golden("sg2ada_32_cond_clamp"), golden_generator("sg2ada_32_cond_clamp")
    networks = tensorflow_writer.tensorflow_networks(generator, version=5, conv_clamp=1.5, num_fp16_res=2)
    checkpoint = read(tensorflow_writer.tensorflow_bytes(networks))
    assert checkpoint.extra == {"version": 5, "trained_with": "StyleGAN2-ADA", "network": "Gs"}
    config = checkpoint.generator.config
    assert (config.c_dim, config.conv_clamp, config.num_fp16_res) == (3, 1.5, 2)
    with torch.no_grad():
        z, c = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["c"])
        for name, image in {
            "img_const": checkpoint.generator(z, c),
            "img_const_psi0.7": checkpoint.generator(z, c, psi=0.7),
        }.items():
            np.testing.assert_allclose(image.numpy(), arrays[name], atol=TOLERANCE, rtol=0, err_msg=name)


@st.composite
def configs(draw: st.DrawFn) -> GeneratorConfig:
    resolution = draw(st.sampled_from([4, 8, 16, 32]))
    count = 2 * (resolution.bit_length() - 1) - 2
    return GeneratorConfig(
        resolution=resolution,
        widths=tuple(draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))),
        z_dim=draw(st.integers(1, 5)),
        w_dim=draw(st.integers(1, 5)),
        c_dim=draw(st.integers(0, 3)),
        mapping_layers=draw(st.integers(1, 3)),
    )


@settings(max_examples=25)
@given(config=configs(), version=st.sampled_from([4, 5]), protocol=st.integers(2, 5))
def test_any_network_is_read_unchanged(config: GeneratorConfig, version: int, protocol: int) -> None:
    generator = Generator(config)
    generator.mapping.w_avg.normal_()
    networks = tensorflow_writer.tensorflow_networks(generator, version=version)
    assert_same(read(tensorflow_writer.tensorflow_bytes(networks, protocol)).generator, generator)


def test_a_loaded_generator_is_float32_trainable_and_in_evaluation_mode(changed: Callable[..., bytes]) -> None:
    generator = read(changed()).generator
    assert not generator.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in generator.parameters())


def test_options_that_do_not_change_the_function_are_ignored(
    changed: Callable[..., bytes], tiny_generator: Generator
) -> None:
    options = {
        "resolution_w": 32, "resolution_h": 32, "randomize_noise": True, "fmap_base": 8192, "fused_modconv": False,
        "architecture": "skip", "resample_kernel": (1, 3, 3, 1), "dtype": "float32",
    }  # fmt: skip
    assert_same(read(changed(**options)).generator, tiny_generator)


def test_the_learning_rate_multiplier_is_read(changed: Callable[..., bytes]) -> None:
    assert read(changed(mapping_lrmul=0.5)).generator.config.mapping_lr_multiplier == 0.5


def test_lsun_car_gets_a_note_on_its_black_bars() -> None:
    generator = Generator(GeneratorConfig(resolution=512, widths=(2,) * 16, z_dim=2, w_dim=2, mapping_layers=1))
    data = tensorflow_writer.tensorflow_bytes(tensorflow_writer.tensorflow_networks(generator))
    assert "512x384" in read(data, "stylegan2-car-config-f.pkl").notes[0]
    assert read(data, "carpets.pkl").notes == ()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "resnet"}, "architecture 'resnet'"),
        ({"architecture": "orig"}, "architecture 'orig'"),
        ({"num_channels": 1}, "num_channels 1"),
        ({"use_noise": False}, "use_noise False"),
        ({"nonlinearity": "relu"}, "nonlinearity 'relu'"),
        ({"resample_kernel": [1, 2, 1]}, r"resample_kernel \[1, 2, 1\]"),
        ({"resample_kernel": None}, "resample_kernel None"),
        ({"normalize_latents": 1}, "normalize_latents 1"),
        ({"synthesis_func": "G_synthesis_stylegan_revised"}, "G_synthesis_stylegan_revised.*b to d"),
        ({"attention": 3}, "unknown option attention"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_change_the_function_are_refused_by_name_and_value(
    options: dict[str, Any], message: str, changed: Callable[..., bytes]
) -> None:
    with pytest.raises(UnknownFormatError, match=message) as caught:
        read(changed(**options))
    assert "configuration e or f" in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_variable("mapping", "LabelConcat/weight", np.zeros((3, 16), np.float32)), "LabelConcat/weight"),
        (with_variable("synthesis", "ToRGB_lod0/weight", np.zeros((1, 1), np.float32)), "ToRGB_lod0/weight"),
        (with_variable("synthesis", "8x8/Skip/weight", np.zeros((1, 1), np.float32)), "8x8/Skip/weight"),
        (with_state(version=3), "version 3"),
        (with_state(version=None), "version None"),
        (lambda networks: component(networks, "synthesis").update(build_func_name=REVISED), "b to d"),
    ],
    ids=["LabelConcat", "ToRGB_lod", "Skip", "version 3", "no version", "revised"],
)  # fmt: skip
def test_other_networks_are_refused_by_the_entry_that_differs(
    change: Change, message: str, changed: Callable[..., bytes]
) -> None:
    with pytest.raises(UnknownFormatError, match=message):
        read(changed(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_variable("mapping", "Dense0/weight", None), r"mapping/Dense0/weight is missing"),
        (with_variable("mapping", "Dense1/bias", None), r"missing mapping/Dense1/bias \[16\]"),
        (with_variable("synthesis", "noise3", None), r"missing synthesis/noise3 \[1, 1, 16, 16\]"),
        (with_variable("synthesis", "8x8/Conv1/bias", np.zeros(3, np.float32)), r"8x8/Conv1/bias is \[3\]"),
        (with_variable("synthesis", "8x8/Conv1/weight", np.zeros(3, np.float32)), "no generator has these shapes"),
        (with_variable("synthesis", "8x8/Conv1/bias", np.full(10, np.nan, np.float32)), "not finite"),
        (with_variable("synthesis", "8x8/Conv1/bias", np.zeros(10, np.int32)), "int32"),
        (with_variable("synthesis", "8x8/Conv1/bias", "text"), r"8x8/Conv1/bias is not an array"),
        (with_variable("synthesis", "extra", np.zeros(1, np.float32)), r"unexpected synthesis/extra \[1\]"),
        (with_state(variables=None), "variables of a network are not a list"),
        (with_state(variables=[("lod",)]), "not a list of names and arrays"),
        (with_state(static_kwargs=None), "options of a network are not a dictionary"),
        (with_state(components={}), "Gs has no mapping network"),
        (with_state(components=None), "Gs has no mapping network"),
    ],
    ids=range(14),
)
def test_networks_that_contradict_themselves_are_refused_by_name(
    change: Change, message: str, changed: Callable[..., bytes]
) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read(changed(change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 64}, "resolution is 64 in the options and 32 by the variables"),
        ({"resolution_w": 48}, "resolution_w is 48"),
        ({"label_size": 4}, "label_size is 4 in the options and 0"),
        ({"mapping_lrmul": 0}, "mapping_lrmul is 0"),
        ({"mapping_lrmul": float("nan")}, "mapping_lrmul is nan"),
        ({"conv_clamp": -1}, "conv_clamp is -1"),
        ({"num_fp16_res": "4"}, "num_fp16_res is '4'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_options_are_refused_by_name_and_value(
    options: dict[str, Any], message: str, changed: Callable[..., bytes]
) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read(changed(**options))


@pytest.mark.parametrize("value", [None, [1, 2, 3], {"Gs": 1}, (1, 2, 3)], ids=str)
def test_other_pickles_are_unknown(value: Any) -> None:
    with pytest.raises(UnknownFormatError, match="a file without a generator"):
        read(pickle.dumps(value))


def test_a_pickle_with_a_call_is_refused_and_not_executed() -> None:
    with pytest.raises(UnsafeFileError, match=r"posix\.system"):
        read((FILES / "evil_os_system.pkl").read_bytes())


def test_source_text_in_the_file_is_not_run(changed: Callable[..., bytes], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = f"open({str(marker)!r}, 'w').close()"
    read(changed(with_state(build_module_src=text)))
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(share: float, changed: Callable[..., bytes]) -> None:
    data = changed()
    with pytest.raises(CorruptFileError):
        read(data[: int(share * len(data))])


@settings(max_examples=100)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused(changes: list[tuple[float, int]]) -> None:
    generator = Generator(GeneratorConfig(resolution=4, widths=(2, 2), z_dim=2, w_dim=2, c_dim=1, mapping_layers=1))
    damaged = bytearray(tensorflow_writer.tensorflow_bytes(tensorflow_writer.tensorflow_networks(generator)))
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    with contextlib.suppress(InputError):
        read(bytes(damaged))
