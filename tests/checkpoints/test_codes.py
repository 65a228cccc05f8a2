"""Codes of images are read from every layout that projectors write, and codes of other generators are refused."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from dcp_deploy.checkpoints import load_generator
from dcp_deploy.checkpoints.codes import read_codes
from dcp_deploy.checkpoints.directions import Direction, save_directions
from dcp_deploy.errors import InputError, UnknownFormatError
from dcp_deploy.generators import Generator, GeneratorConfig

from .array_files import ALONE, CASES, WRITERS

SLOTS, WIDTH = 6, 3
CONFIG = GeneratorConfig(16, (4,) * SLOTS, z_dim=3, w_dim=WIDTH, mapping_layers=1)
WS = torch.arange(2.0 * SLOTS * WIDTH).reshape(2, SLOTS, WIDTH) / 7

floats = st.floats(-1e3, 1e3, width=32)


@pytest.fixture(scope="module")
def nvidia() -> Generator:
    return load_generator(CASES / "F3" / "ctl_nv.pkl").eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["F3_projected_w.npz", "F3_0.pt"])
def test_codes_of_nvidia_and_pti_draw_the_same_image_as_their_own_code(nvidia: Generator, name: str) -> None:
    with np.load(CASES / "F3" / "expected.npz") as expected:
        ws = read_codes(CASES / "F3" / name, nvidia.config)
        assert np.array_equal(ws.numpy(), expected["ws"])
        assert np.abs(nvidia.synthesis(ws).numpy() - expected["img"]).max() < 3e-5  # the limit of all golden images


# ---- every layout round trip ----


@given(
    array=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(SLOTS), st.just(WIDTH)), elements=floats),
    writer=st.sampled_from(sorted(ALONE)),
    leading=st.integers(0, 2),
)
def test_an_array_alone_is_read_as_written(array: np.ndarray, writer: str, leading: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes"
        ALONE[writer](array.reshape((1,) * leading + array.shape), path)
        found = read_codes(path, CONFIG)
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), array)


@given(
    array=hnp.arrays(np.float32, (2, SLOTS, WIDTH), elements=floats),
    writer=st.sampled_from(sorted(WRITERS)),
    name=st.sampled_from(["w", "ws", "latent", "codes", "face"]),
)
def test_an_array_under_a_name_is_read_as_written(array: np.ndarray, writer: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.npz"  # numpy appends the ending otherwise
        WRITERS[writer]({name: array}, path)
        assert np.array_equal(read_codes(path, CONFIG).numpy(), array)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4"])
def test_other_floats_and_orders_become_float32(tmp_path: Path, kind: str) -> None:
    array = np.asfortranarray(WS.numpy().astype(kind))
    np.save(tmp_path / "c.npy", array)
    assert np.array_equal(read_codes(tmp_path / "c.npy", CONFIG).numpy(), array.astype(np.float32))


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (2, WIDTH), (1, 1, WIDTH), (2, 1, WIDTH), (2, 1, 1, WIDTH)])
def test_codes_of_one_vector_count_for_all_slots(tmp_path: Path, shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "w.npy", w)
    found = read_codes(tmp_path / "w.npy", CONFIG).numpy()
    assert found.shape[1:] == (SLOTS, WIDTH)
    assert np.array_equal(found, np.repeat(w.reshape(-1, 1, WIDTH), SLOTS, axis=1))


def test_as_many_rows_as_slots_are_one_code_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "w.npy", WS[0].numpy())
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read_codes(tmp_path / "w.npy", CONFIG), WS[:1])
    assert "one code with a vector for each slot" in caplog.text


def test_as_many_rows_as_another_generator_has_slots_are_codes_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "w.npy", np.ones((18, WIDTH), np.float32))
    assert read_codes(tmp_path / "w.npy", CONFIG).shape == (18, SLOTS, WIDTH)
    assert "taken as 18 codes, not as one as of StyleGAN2 of 1024 px" in caplog.text


@pytest.mark.parametrize("plus", [False, True])
def test_rosinality_s_projector_gives_a_code_for_each_image(
    tmp_path: Path, plus: bool, caplog: pytest.LogCaptureFixture
) -> None:
    latents = WS if plus else WS[:, 0]
    noise = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8)]
    images = {
        f"{i}.png": {"img": torch.zeros(3, 16, 16), "latent": latent, "noise": noise}
        for i, latent in enumerate(latents)
    }
    torch.save(images, tmp_path / "projected.pt")
    expected = WS if plus else WS[:, :1].expand(-1, SLOTS, -1)
    assert torch.equal(read_codes(tmp_path / "projected.pt", CONFIG), expected)
    assert "noise maps are not used" in caplog.text
    torch.save({"noises": noise, **images}, tmp_path / "older.pt")  # before 2020
    assert torch.equal(read_codes(tmp_path / "older.pt", CONFIG), expected)


def test_an_array_for_each_image_keeps_their_order(tmp_path: Path) -> None:
    torch.save({"b.png": WS[0], "a.png": WS[1]}, tmp_path / "named.pt")
    torch.save([WS[0], WS[1][None]], tmp_path / "listed.pt")
    for name in ("named.pt", "listed.pt"):
        assert torch.equal(read_codes(tmp_path / name, CONFIG), WS)


def test_our_projection_s_codes_are_those_of_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"teacher": WS + 1, "model": WS}, tmp_path / "ws.safetensors")
    assert torch.equal(read_codes(tmp_path / "ws.safetensors", CONFIG), WS)
    assert "not those of: teacher" in caplog.text


def test_what_lies_beside_codes_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", w=WS.numpy(), labels=np.arange(3), names=np.array(["a", "b"]), img=np.ones((2, 3, 4)))
    assert torch.equal(read_codes(tmp_path / "p.npz", CONFIG), WS)


# ---- refused ----


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 10, WIDTH), "10 slots, as of StyleGAN2 of 64 px; this generator of 16 px has 6"),
        ((1, 16, WIDTH), "16 slots, as of StyleGAN2 of 512 px or StyleGAN3;"),
        ((1, 5, WIDTH), "5 slots; this generator"),
        ((1, SLOTS, 4), "3 numbers in each of 6 slots"),
        ((2, 2, SLOTS, WIDTH), "2, 2, 6, 3"),
        ((), "3 numbers"),
        ((0, WIDTH), "no values"),
    ],
)
def test_codes_of_another_generator_are_refused(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    np.save(tmp_path / "c.npy", np.ones(shape, np.float32))
    with pytest.raises(InputError, match=words):
        read_codes(tmp_path / "c.npy", CONFIG)


def test_a_latent_of_one_image_with_other_slots_is_not_taken_for_several_codes(tmp_path: Path) -> None:
    torch.save({"a.png": {"latent": torch.ones(10, WIDTH)}}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="10 slots, as of StyleGAN2 of 64 px"):
        read_codes(tmp_path / "c.pt", CONFIG)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("writer", ["npy", "pt", "pkl"])
def test_values_that_are_not_finite_in_float32_are_refused(tmp_path: Path, bad: float, writer: str) -> None:
    array = WS.numpy().astype(np.float64)
    array[1, 2, 1] = bad
    ALONE[writer](array, tmp_path / "c")
    with pytest.raises(InputError, match="not finite"):
        read_codes(tmp_path / "c", CONFIG)


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_whole_numbers_are_refused(tmp_path: Path, writer: str) -> None:
    WRITERS[writer]({"w": np.ones((1, SLOTS, WIDTH), np.int64)}, tmp_path / "c.npz")
    with pytest.raises(InputError, match="floats were expected"):
        read_codes(tmp_path / "c.npz", CONFIG)


def test_other_files_are_named(tmp_path: Path) -> None:
    ones = np.ones((4, WIDTH), np.float32)
    np.savez(tmp_path / "z.npz", z=ones)
    np.savez(tmp_path / "pca.npz", comp=ones, mean=ones[:1], std=ones[:, 0])
    torch.save({"ckpt": "face.pt", "eigvec": torch.eye(WIDTH)}, tmp_path / "sefa.pt")
    torch.save({"g_ema": {"conv1.conv.weight": torch.ones(WIDTH)}}, tmp_path / "network.pt")
    torch.save({"text": "no arrays"}, tmp_path / "text.pt")
    save_directions({"age": Direction(torch.eye(WIDTH)[0], (0, 1), 1.0)}, tmp_path / "d.safetensors")
    words = {
        "z.npz": "latents z",
        "pca.npz": "directions",
        "sefa.pt": "directions",
        "d.safetensors": "directions",
        "network.pt": "weights of a network",
        "text.pt": "no codes in a torch.save file of {text no arrays}",
    }
    for name, expected in words.items():
        with pytest.raises(UnknownFormatError, match=expected):
            read_codes(tmp_path / name, CONFIG)
