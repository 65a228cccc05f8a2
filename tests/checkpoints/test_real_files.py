"""Files in the layouts that people bring, most of them written by the original code, give the original's images.

The files lie in ``cases/``, a folder for each kind, with latents and images of the original code in ``expected.npz``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import read_checkpoint, save_generator
from dcp_deploy.errors import UnknownFormatError, UsageError
from dcp_deploy.generators import Generator, GeneratorConfig

from . import nvidia_writer, rosinality_writer

CASES = Path(__file__).parent / "cases"
TOLERANCE = 3e-5  # float32 sums in another order, on images of magnitude 4


def images(generator: Generator, z: Any) -> Any:
    with torch.no_grad():
        return generator(torch.from_numpy(z).float()).numpy()


def largest_difference(path: Path, expected: str = "img", network: str | None = None) -> float:
    arrays = np.load(path.parent / "expected.npz")
    found = images(read_checkpoint(path, network=network).generator, arrays["z"])
    return float(np.abs(found - arrays[expected]).max())


@pytest.mark.parametrize(
    "file",
    [
        "A1/A1_projected.pkl",
        "A2/A2_model.pt",
        "A4/A4_nv_flat.pth",
        "A5/A5_avg18.pt",
        "A5/A5_psp.pt",
        "A8/A8_gs_only.pkl",
        "A16/A16_DictConfig.pt",
        "A16/A16_posix.pt",
        "A17/A17__orig_mod.pt",
        "A17/A17_generator.pt",
        "A17/A17_lightning.ckpt",
        "own_beside/own_beside_set_of_numbers.pt",
        "own_beside/own_beside_tuple_keys.pt",
        "own_dict_G_Gs/own_Gs.pkl",
        "own_extra_key/own_extra_tensors.pt",
        "own_key/own_key_ema.pt",
        "own_key/own_key_params_ema.pt",
        "own_tuple/own_tuple.pkl",
    ],
)
def test_a_file_gives_the_images_of_the_original_code(file: str) -> None:
    assert largest_difference(CASES / file) <= TOLERANCE


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("A3/A3_cond_converted.pt", UnknownFormatError, r"style\.1\.weight is \[32, 64\].*without its embedding"),
        ("A9/A9_nonsq.pkl", UnknownFormatError, r"not square \(resolution_h 32, resolution_w 16\)"),
        ("A13/A13_mmgen_bare.pth", UnknownFormatError, "mmgeneration.*BGR"),
        ("A22/A22_layer_features.pkl", UnknownFormatError, "layer_features is 24"),
        ("A23/A23_4.pt", UnknownFormatError, "4 channels, images with an alpha channel"),
    ],
)
def test_a_file_that_cannot_be_read_is_called_by_its_true_name(file: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_checkpoint(CASES / file)
    assert "damaged" not in str(caught.value)


def test_a_rectangular_file_of_stylegan_human_gives_images_of_its_size() -> None:
    path = CASES / "A6" / "A6_human.pkl"
    generator = read_checkpoint(path).generator
    assert (generator.config.base, generator.config.image_size) == ((4, 2), (32, 16))
    assert images(generator, np.zeros((1, 32))).shape == (1, 3, 32, 16)


def test_a_rectangular_network_is_read_from_every_layout(tmp_path: Path) -> None:
    config = GeneratorConfig(16, (4,) * 6, z_dim=8, w_dim=8, mapping_layers=2, base=(4, 6))
    generator = Generator(config).eval()
    torch.save({"g_ema": rosinality_writer.rosinality_state(generator)}, tmp_path / "rosinality.pt")
    torch.save(dict(generator.state_dict()), tmp_path / "nvidia.pt")
    (tmp_path / "nvidia.pkl").write_bytes(nvidia_writer.nvidia_pickle(generator))
    for path in tmp_path.iterdir():
        found = read_checkpoint(path).generator
        assert found.config == config
        expected = {name: value for name, value in generator.state_dict().items() if name != "mapping.w_avg"}
        assert all(torch.equal(found.state_dict()[name], value) for name, value in expected.items())


def test_stylegan_xl_without_classes_is_read_without_its_unused_embedding() -> None:
    checkpoint = read_checkpoint(CASES / "own_xl" / "own_xl_c0.pkl")
    assert checkpoint.generator.config.kind == "stylegan3"
    assert checkpoint.unread == ("torch.nn.modules.sparse.Embedding",)


# ---- notes ----


def test_a_missing_noise_map_is_generated_with_a_note() -> None:
    checkpoint = read_checkpoint(CASES / "A24" / "A24_one_noise.pt")
    assert checkpoint.notes == (
        "no noise map noises.noise_3: drawn from seed 0, so constant noise differs from the original's",
    )


def test_tensors_that_the_network_does_not_need_are_named() -> None:
    assert read_checkpoint(CASES / "own_extra_key" / "own_extra_tensors.pt").notes == (
        "not needed and left out: w_avg_extra",
    )


def test_an_assumed_learning_rate_multiplier_is_noted_unless_the_weights_confirm_it() -> None:
    (note,) = read_checkpoint(CASES / "own_lr_mlp" / "own_lrmlp0.05.pt").notes
    assert "lr_mlp 0.01 is assumed" in note
    assert "size 20 instead of about 100" in note


def test_names_of_a_pickle_that_nothing_reads_are_listed() -> None:
    checkpoint = read_checkpoint(CASES / "A1" / "A1_projected.pkl")
    assert "pg_modules.discriminator.ProjectedDiscriminator" in checkpoint.unread
    assert "torch_utils.persistence._reconstruct_persistent_obj" not in checkpoint.unread


# ---- several networks ----


def test_a_network_is_chosen_by_its_name() -> None:
    path = CASES / "A15" / "A15_dragan_pti.pkl"
    assert largest_difference(path, "img_ema") <= TOLERANCE
    assert largest_difference(path, "img", network="G") <= TOLERANCE
    checkpoint = read_checkpoint(path)
    assert [(one.name, one.chosen, one.same_weights) for one in checkpoint.networks] == [
        ("G_ema", True, True),
        ("G", False, False),
    ]
    assert checkpoint.notes == ("this is G_ema; the file also holds G with other weights (--network NAME)",)
    assert read_checkpoint(path, network="G").notes == (
        "these are the weights of G as trained; not of the moving average",
    )


@pytest.mark.parametrize("wanted", ["H", "", "G_ema.synthesis"])
def test_a_name_that_the_file_does_not_have_is_refused_with_those_it_has(wanted: str) -> None:
    with pytest.raises(UsageError, match="G_ema, G"):
        read_checkpoint(CASES / "A15" / "A15_dragan_pti.pkl", network=wanted)


def test_a_file_of_one_generator_takes_no_name(tiny_generator: Generator, tmp_path: Path) -> None:
    path = save_generator(tiny_generator, tmp_path / "g.safetensors")
    with pytest.raises(UsageError, match="network"):
        read_checkpoint(path, network="G_ema")


# ---- wrappings of the same weights ----

WRAPPINGS: dict[str, Any] = {
    "bare": lambda state: state,
    "a usual key": lambda state: {"ema_state_dict": state, "step": 3},
    "two keys": lambda state: {"state": {"model": {"params_ema": state}}},
    "shadow": lambda state: {"generator": 1, "shadow": state},
    "prefixes": lambda state: {"g_ema": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    "ema_pytorch": lambda state: {
        **{f"online_model.{name}": torch.zeros_like(value) for name, value in state.items()},
        **{f"ema_model.{name}": value for name, value in state.items()},
        "initted": torch.ones(1),
    },
    "g_ema is None": lambda state: {"g_ema": None, "g": state},
    "a list": lambda state: [state, {"epoch": 3}],
    "beside a foreign network": lambda state: {"netD": torch.nn.Linear(2, 2), "netG_ema": state},
    "beside another state dict": lambda state: {"encoder": {"layer.weight": torch.zeros(2)}, "decoder": state},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_state_dict_is_found_in_any_wrapping(
    wrapping: str, zipped: bool, tiny_generator: Generator, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    state = rosinality_writer.rosinality_state(tiny_generator)
    path.write_bytes(rosinality_writer.torch_bytes(WRAPPINGS[wrapping](state), zipped=zipped))
    found = read_checkpoint(path).generator.state_dict()
    expected = {name: value for name, value in tiny_generator.state_dict().items() if name != "mapping.w_avg"}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_a_state_dict_is_read_from_every_container(
    layout: str, suffix: str, tiny_generator: Generator, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    if layout == "nvidia":
        state = {name: tensor.detach() for name, tensor in tiny_generator.state_dict().items()}
    else:
        state = rosinality_writer.rosinality_state(tiny_generator)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    elif suffix == ".npz":
        np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    found = read_checkpoint(path).generator.state_dict()
    expected = {name: value for name, value in tiny_generator.state_dict().items() if name != "mapping.w_avg"}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_module_of_torch_saved_whole_is_read(zipped: bool, tiny_generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    path.write_bytes(rosinality_writer.torch_bytes({"G": tiny_generator}, zipped=zipped))
    found = read_checkpoint(path).generator.state_dict()
    assert all(torch.equal(found[name], value) for name, value in tiny_generator.state_dict().items())
