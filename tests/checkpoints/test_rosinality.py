"""Files of rosinality's stylegan2-pytorch and its descendants give the original images, or are refused by name."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.checkpoints.checkpoint import Checkpoint
from dcp_deploy.checkpoints.loading import read_network
from dcp_deploy.checkpoints.pickles.torch_file import read_torch_file
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError
from dcp_deploy.generators import Generator, GeneratorConfig

from . import rosinality_writer

FILES = Path(__file__).parents[1] / "data" / "checkpoints"
TOLERANCE = 2e-5  # the reference ran on another version of torch, which sums in another order

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])

Read = Callable[..., Checkpoint]
Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def read() -> Read:
    """``read(document, **options of torch_bytes)`` reads a file that holds the document."""

    def back(document: Any, **options: Any) -> Checkpoint:
        return read_network(read_torch_file(memoryview(rosinality_writer.torch_bytes(document, **options)), "model.pt"))

    return back


@pytest.fixture
def state(tiny_generator: Generator) -> dict[str, torch.Tensor]:
    """The state dict of the tiny generator under rosinality's names."""
    named: dict[str, torch.Tensor] = rosinality_writer.rosinality_state(tiny_generator)
    return named


def original(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {key[3:]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith("sd/")}


def assert_images(generator: Generator, arrays: Arrays, *, truncated: bool = True) -> None:
    """Compare images: constant noise, mixed codes, no noise, truncation."""
    z, ws = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["ws_mix"])
    with torch.no_grad():
        images = {
            "img_const": generator(z),
            "img_const_ws_mix": generator.synthesis(ws),
            "img_none": generator(z, noise="none"),
            "img_const_psi0.7": generator(z, psi=0.7),
        }
    for name, image in images.items():
        if truncated or name != "img_const_psi0.7":
            np.testing.assert_allclose(image.numpy(), arrays[name], atol=TOLERANCE, rtol=0, err_msg=name)


# ---- what is read ----


@BOTH
@pytest.mark.parametrize("name", ["rosinality_32", "rosinality_pruned_32"])
def test_reference_weights_give_the_reference_images(
    name: str, zipped: bool, golden: Callable[[str], Arrays], read: Read
) -> None:
    arrays = golden(name)
    document = {"g_ema": original(arrays), "latent_avg": torch.from_numpy(arrays["latent_avg"])}
    checkpoint = read(document, zipped=zipped)
    assert checkpoint.format == "rosinality"
    assert checkpoint.notes == ()
    assert_images(checkpoint.generator, arrays)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("dcp_pruned_torch213.pt", (33, 27, 45, 22, 18, 30, 12, 9)),
        ("ros_training_zip_torch213.pt", (40, 40, 40, 40, 32, 32, 16, 16)),
    ],
)
def test_files_of_the_original_code_give_its_images(name: str, widths: tuple[int, ...]) -> None:
    data = memoryview((FILES / name).read_bytes())
    checkpoint = read_network(read_torch_file(data, name))
    assert checkpoint.generator.config.widths == widths
    assert checkpoint.notes == ("no latent_avg: the mean code is that of 10,000 mapped latents of seed 0",)
    with np.load(FILES / f"{name}.npz", allow_pickle=False) as arrays:
        assert_images(checkpoint.generator, arrays, truncated=False)


def test_the_options_of_a_training_run_are_kept() -> None:
    name = "ros_training_zip_torch213.pt"
    checkpoint = read_network(read_torch_file(memoryview((FILES / name).read_bytes()), name))
    assert checkpoint.extra["state_dict"] == "g_ema"
    assert checkpoint.extra["options"]["arch"] == "stylegan2"
    assert checkpoint.extra["options"]["iter"] == 800000
    assert "argparse.Namespace" in checkpoint.globals


@st.composite
def pruned(draw: st.DrawFn) -> GeneratorConfig:
    resolution = draw(st.sampled_from([4, 8, 16, 32]))
    count = 2 * (resolution.bit_length() - 1) - 2
    return GeneratorConfig(
        resolution=resolution,
        widths=tuple(draw(st.lists(st.integers(1, 7), min_size=count, max_size=count))),
        z_dim=4,
        w_dim=4,
        mapping_layers=draw(st.integers(1, 3)),
    )


@settings(max_examples=30)
@given(config=pruned(), prefix=st.sampled_from(["", "module."]), bare=st.booleans(), zipped=st.booleans())
def test_any_widths_are_read_bit_for_bit(
    read: Read, config: GeneratorConfig, prefix: str, bare: bool, zipped: bool
) -> None:
    generator = Generator(config)
    generator.mapping.w_avg.normal_()
    named = {prefix + name: tensor for name, tensor in rosinality_writer.rosinality_state(generator).items()}
    mean = {"latent_avg": generator.mapping.w_avg if bare else generator.mapping.w_avg[None]}
    loaded = read({**named, **mean} if bare else {"g_ema": named, **mean}, zipped=zipped).generator
    assert loaded.config == config
    for name, tensor in generator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_loaded_generator_is_float32_trainable_and_in_evaluation_mode(tiny_generator: Generator, read: Read) -> None:
    generator = read(rosinality_writer.converted(tiny_generator)).generator
    assert not generator.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in generator.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_read(
    dtype: torch.dtype, tiny_generator: Generator, state: dict[str, torch.Tensor], read: Read
) -> None:
    mean = tiny_generator.mapping.w_avg.to(dtype)
    loaded = read({"g_ema": {name: tensor.to(dtype) for name, tensor in state.items()}, "latent_avg": mean})
    for name, tensor in tiny_generator.state_dict().items():
        assert torch.equal(loaded.generator.state_dict()[name], tensor.to(dtype).float()), name


def test_without_the_moving_average_g_is_read_with_a_note(
    tiny_generator: Generator, state: dict[str, torch.Tensor], read: Read
) -> None:
    checkpoint = read({"g": state, "d": {}, "latent_avg": tiny_generator.mapping.w_avg})
    assert checkpoint.notes == ("these are the weights of g as trained; the file has no average",)
    assert checkpoint.extra["state_dict"] == "g"
    with torch.no_grad():
        z = torch.randn(2, 16)
        assert torch.equal(checkpoint.generator(z), tiny_generator(z))


def test_missing_noise_maps_are_drawn_from_a_fixed_seed_with_a_note(
    tiny_generator: Generator, state: dict[str, torch.Tensor], read: Read
) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.startswith("noises.")}
    document = {"g_ema": old, "latent_avg": tiny_generator.mapping.w_avg}
    first, second = read(document), read(document)
    assert first.notes == ("no noise maps: drawn from seed 0, so constant noise differs from the original's",)
    z = torch.randn(2, 16)
    with torch.no_grad():
        assert torch.equal(first.generator(z), second.generator(z))
        assert torch.equal(first.generator(z, noise="none"), tiny_generator(z, noise="none"))
    maps = torch.cat([conv.noise_const.flatten() for _, conv in first.generator.synthesis.convs()])
    assert abs(maps.mean()) < 0.1 and abs(maps.std() - 1) < 0.1  # 2,704 standard normal numbers


def test_a_missing_mean_code_is_estimated_with_a_note(
    tiny_generator: Generator, state: dict[str, torch.Tensor], read: Read
) -> None:
    checkpoint = read({"g_ema": state})
    assert checkpoint.notes == ("no latent_avg: the mean code is that of 10,000 mapped latents of seed 0",)
    with torch.no_grad():
        codes = tiny_generator.mapping.w(torch.randn(20_000, 16))
    error = (checkpoint.generator.mapping.w_avg - codes.mean(dim=0)).abs() / codes.std(dim=0)
    assert error.max() < 0.06  # five standard errors of the difference of the two means


def test_weights_of_another_learning_rate_get_a_note(
    tiny_generator: Generator, state: dict[str, torch.Tensor], read: Read
) -> None:
    mean = tiny_generator.mapping.w_avg
    scaled = {name: tensor / 100 if name.startswith("style.") else tensor for name, tensor in state.items()}
    assert "lr_mlp 0.01 is assumed" in read({"g_ema": scaled, "latent_avg": mean}).notes[0]
    recorded = read({"g_ema": scaled, "latent_avg": mean, "args": argparse.Namespace(lr_mlp=1.0)})
    assert recorded.notes == ()
    z = torch.randn(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(recorded.generator(z), tiny_generator(z), atol=1e-5, rtol=0)


# ---- what is refused ----


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convs.1.conv.weight": torch.zeros(1, 12, 12, 1, 1)}, r"convs\.1\.conv\.weight is \[1, 12, 12, 1, 1\].*3x3"),
        ({"style.0.weight": torch.zeros(16, 16)}, r"style\.0\.weight.*StyleKD"),
        ({"to_rgbs.0.iwt.ll": torch.zeros(2, 2)}, r"SWAGAN.*to_rgbs\.0\.iwt\.ll"),
        ({"convs.0.conv.blur.kernel": torch.ones(4, 4)}, r"convs\.0\.conv\.blur\.kernel.*low-pass"),
    ],
    ids=["kernel 1x1", "mlp_cfg", "wavelets", "another filter"],
)
def test_variants_that_compute_something_else_are_refused_by_the_tensor_that_differs(
    changes: dict[str, torch.Tensor], message: str, state: dict[str, torch.Tensor], read: Read
) -> None:
    with pytest.raises(UnknownFormatError, match=message):
        read({"g_ema": {**state, **changes}})


TENSOR = torch.zeros(2)


def test_swagan_is_refused_by_its_options_too(state: dict[str, torch.Tensor], read: Read) -> None:
    with pytest.raises(UnknownFormatError, match="SWAGAN"):
        read({"g_ema": state, "args": argparse.Namespace(arch="swagan")})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"params": {"size": 1}, "ckpt": {"layers.0.weight": torch.zeros(1)}}, "params, ckpt.*MobileStyleGAN"),
        ({"state_dict": {}, "epoch": 3}, r"state_dict \(empty\), epoch"),
        ({"g_ema": None}, r"g_ema \(empty\)"),
        ({f"k{i}": 0 for i in range(30)}, r"k0, .*k7, \.\.\."),
        ({}, "dictionary of "),
        ([1, 2], "a list"),
        (TENSOR, "a tensor"),
    ],
    ids=["MobileStyleGAN", "Lightning", "nothing", "many", "empty", "list", "tensor"],
)
def test_other_content_is_unknown_and_named(document: Any, message: str, read: Read) -> None:
    with pytest.raises(UnknownFormatError, match=message) as caught:
        read(document)
    assert ("directions --import" if document is TENSOR else "rosinality") in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("convs.3.noise.weight", None, r"missing convs\.3\.noise\.weight \[1\]"),
        ("convs.3.conv.weight", None, r"5 convolutions after the first"),
        ("style.1.weight", None, r"style\.1\.weight is missing"),
        ("noises.noise_2", torch.zeros(1, 1, 4, 4), r"noises\.noise_2 is \[1, 1, 4, 4\]"),
        ("convs.6.conv.weight", torch.zeros(1, 4, 8, 3, 3), r"7 convolutions after the first"),
        ("convs.1.conv.weight", torch.zeros(1, 12, 5, 3, 3), r"convs\.1\.conv\.weight is \[1, 12, 5, 3, 3\]"),
        ("conv1.conv.weight", torch.zeros(12, 12, 3, 3, 3, 3), r"conv1\.conv\.weight is .* 5 axes were expected"),
        ("input.input", torch.full((1, 12, 4, 4), float("nan")), "not finite"),
        ("input.input", torch.zeros(1, 12, 4, 4, dtype=torch.int32), "int32"),
        ("convs.1.activate.bias", 5, "convs.1.activate.bias is not a tensor"),
        ("input.input", torch.zeros(0), "has no values"),
    ],
    ids=range(11),
)
def test_tensors_that_do_not_belong_together_are_refused_by_name(
    name: str, tensor: Any, message: str, state: dict[str, torch.Tensor], read: Read
) -> None:
    changed = without(state, name) if tensor is None else {**state, name: tensor}
    with pytest.raises(CorruptFileError, match=message):
        read({"g_ema": changed})


def test_a_layer_with_other_tensors_than_ours_is_refused(state: dict[str, torch.Tensor], read: Read) -> None:
    with pytest.raises(
        UnknownFormatError, match=r"other layers than ours: unexpected convs\.1\.attention\.weight \[2\]"
    ):
        read({"g_ema": {**state, "convs.1.attention.weight": torch.zeros(2)}})


@pytest.mark.parametrize(("mean", "message"), [(torch.zeros(3), r"latent_avg is \[3\]"), ("w", "latent_avg")])
def test_a_mean_code_of_another_shape_or_type_is_refused(
    mean: Any, message: str, state: dict[str, torch.Tensor], read: Read
) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read({"g_ema": state, "latent_avg": mean})


def test_a_resolution_beyond_all_models_is_refused_before_noise_is_drawn(
    state: dict[str, torch.Tensor], read: Read
) -> None:
    many = {f"convs.{i}.conv.weight": torch.zeros(1, 1, 1, 3, 3) for i in range(60)}
    with pytest.raises(CorruptFileError, match="60 convolutions after the first do not make"):
        read({"g_ema": {**state, **many}})


@settings(max_examples=100)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused(changes: list[tuple[float, int]]) -> None:
    """In the older format, which has no checksums, so that damage goes through to the names and shapes."""
    generator = Generator(GeneratorConfig(resolution=4, widths=(2, 2), z_dim=2, w_dim=2, mapping_layers=1))
    damaged = bytearray(rosinality_writer.torch_bytes(rosinality_writer.converted(generator), zipped=False))
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    with contextlib.suppress(InputError):
        read_network(read_torch_file(memoryview(bytes(damaged)), "model.pt"))
