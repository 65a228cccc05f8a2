"""Directions of other tools are read from every layout, and placed in the slots of a generator with length 1."""

from __future__ import annotations

import math
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from dcp_deploy.checkpoints.direction_import import ForeignDirections, placed, read_foreign_directions
from dcp_deploy.checkpoints.directions import Direction, read_directions, save_directions
from dcp_deploy.errors import InputError, UnknownFormatError, UsageError
from dcp_deploy.generators import GeneratorConfig

from .array_files import ALONE, CASES, WRITERS

SLOTS, WIDTH = 6, 4
CONFIG = GeneratorConfig(16, (4,) * SLOTS, z_dim=4, w_dim=WIDTH, mapping_layers=1)
AXIS = np.float32([0.0, -3.0, 0.0, 4.0])

floats = st.floats(-100, 100, width=32)


def foreign(vector: np.ndarray | torch.Tensor) -> ForeignDirections:
    return ForeignDirections("age.npy", "one direction", {"age": torch.as_tensor(vector)}, {})


def place(
    vector: np.ndarray | torch.Tensor, layers: tuple[int, int] | None = None
) -> tuple[torch.Tensor, tuple[int, int]]:
    return placed(foreign(vector), "age", CONFIG, layers)


# ---- layouts ----


@pytest.mark.parametrize("name", ["F1_age.pt", "F1_age_boundary.npy"])
def test_one_vector_is_named_after_its_file(name: str) -> None:
    found = read_foreign_directions(CASES / "F1" / name)
    assert {key: tuple(vector.shape) for key, vector in found.vectors.items()} == {Path(name).stem: (32,)}
    assert list(read_foreign_directions(CASES / "F1" / name, name="age").vectors) == ["age"]


def test_components_of_ganspace_are_numbered_and_keep_their_deviations() -> None:
    found = read_foreign_directions(CASES / "F1" / "F1_ganspace_pca.pt")
    assert list(found.vectors) == [f"comp{i}" for i in range(10)] == list(found.sigmas)
    assert {tuple(vector.shape) for vector in found.vectors.values()} == {(32,)}
    some = read_foreign_directions(CASES / "F1" / "F1_ganspace_pca.pt", name="pose", count=2)
    assert list(some.vectors) == ["pose0", "pose1"] and "GANSpace" in some.layout


@given(
    vector=hnp.arrays(np.float32, WIDTH, elements=floats),
    writer=st.sampled_from(sorted(ALONE)),
    shape=st.sampled_from([(WIDTH,), (1, WIDTH), (1, 1, WIDTH)]),
)
def test_one_vector_is_read_as_written(vector: np.ndarray, writer: str, shape: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ALONE[writer](vector.reshape(shape), Path(folder) / "age.bin")
        found = read_foreign_directions(Path(folder) / "age.bin")
    assert np.array_equal(found.vectors["age"], vector)


@given(
    vectors=hnp.arrays(np.float32, (SLOTS, WIDTH), elements=floats),
    writer=st.sampled_from(sorted(ALONE)),
    shape=st.sampled_from([(SLOTS, WIDTH), (1, SLOTS, WIDTH), (1, 1, SLOTS, WIDTH), (SLOTS, 1, WIDTH)]),
)
def test_a_vector_for_each_slot_is_read_as_written(vectors: np.ndarray, writer: str, shape: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ALONE[writer](vectors.reshape(shape), Path(folder) / "pose.bin")
        found = read_foreign_directions(Path(folder) / "pose.bin")
    assert np.array_equal(found.vectors["pose"], vectors)


@given(
    components=hnp.arrays(np.float32, (3, WIDTH), elements=floats),
    writer=st.sampled_from(sorted(WRITERS)),
    names=st.sampled_from([("comp", "mean", "std"), ("lat_comp", "lat_mean", "lat_stdev")]),
    flat=st.booleans(),
)
def test_components_are_read_as_written(
    components: np.ndarray, writer: str, names: tuple[str, str, str], flat: bool
) -> None:
    stored = components if flat else components[:, None]
    arrays = dict(zip(names, (stored, components[:1], np.float32([3, 2, 1])), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[writer](arrays | {"act_comp": np.ones((3, 1, 9), np.float32)}, Path(folder) / "pca.npz")
        found = read_foreign_directions(Path(folder) / "pca.npz")
    assert np.array_equal(np.stack(list(found.vectors.values())), components)
    assert found.sigmas == {"comp0": 3.0, "comp1": 2.0, "comp2": 1.0}


def test_the_columns_of_eigvec_are_directions(tmp_path: Path) -> None:
    """As rosinality's apply_factor.py takes them: ``eigvec[:, index]``."""
    eigvec = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
    torch.save({"ckpt": "550000.pt", "eigvec": eigvec}, tmp_path / "factor.pt")
    found = read_foreign_directions(tmp_path / "factor.pt")
    assert list(found.vectors) == ["sefa0", "sefa1", "sefa2", "sefa3"] and "SeFa" in found.layout
    assert torch.equal(found.vectors["sefa2"], eigvec[:, 2])


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_named_vectors_keep_their_names(tmp_path: Path, writer: str) -> None:
    arrays = {"age": AXIS, "bias": np.array(1.0), "pose": np.ones((SLOTS, WIDTH), np.float32), "smile": 2 * AXIS[None]}
    WRITERS[writer](arrays, tmp_path / "named.npz")
    found = read_foreign_directions(tmp_path / "named.npz")
    assert {name: tuple(one.shape) for name, one in found.vectors.items()} == {
        "age": (WIDTH,),
        "smile": (WIDTH,),
        "pose": (SLOTS, WIDTH),
    }
    with pytest.raises(UsageError, match="age, pose, smile"):
        read_foreign_directions(tmp_path / "named.npz", name="new")


def test_one_named_vector_can_be_renamed(tmp_path: Path) -> None:
    save_file({"direction": torch.from_numpy(AXIS)}, tmp_path / "d.safetensors")
    assert list(read_foreign_directions(tmp_path / "d.safetensors", name="age").vectors) == ["age"]


@pytest.mark.parametrize("count", [0, -1, 11])
def test_counts_that_the_file_lacks_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="has 10 directions"):
        read_foreign_directions(CASES / "F1" / "F1_ganspace_pca.pt", count=count)


def test_other_files_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "projected_w.npz", w=np.ones((1, SLOTS, WIDTH), np.float32))
    torch.save({"g_ema": {"conv.weight": torch.ones(2)}}, tmp_path / "network.pt")
    torch.save({"comp": torch.ones(2, 1, 4, 4)}, tmp_path / "features.pt")
    torch.save({"eigvec": torch.ones(WIDTH)}, tmp_path / "eigvec.pt")
    torch.save(torch.ones(2, 3, WIDTH), tmp_path / "batch.pt")
    (tmp_path / "number.pkl").write_bytes(pickle.dumps(3, protocol=4))
    words = {
        "projected_w.npz": "codes of images",
        "network.pt": "weights of a network",
        "features.pt": "components",
        "eigvec.pt": "columns",
        "batch.pt": r"no directions in a torch.save file of \[2, 3, 4\]",
        "number.pkl": "a pickle of 3",
    }
    for name, expected in words.items():
        with pytest.raises(UnknownFormatError, match=expected) as caught:
            read_foreign_directions(tmp_path / name)
        assert "Give one of these" in caught.value.remedy


def test_our_own_file_needs_no_import(tmp_path: Path) -> None:
    path = save_directions({"age": Direction(torch.eye(WIDTH)[0], (0, 1), 1.0)}, tmp_path / "d.safetensors")
    with pytest.raises(UsageError, match="already"):
        read_foreign_directions(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("F1_age.pt", "InterFaceGAN"),
        ("F1_age_boundary.npy", "InterFaceGAN"),
        ("F1_ganspace_pca.pt", "GANSpace"),
    ],
)
def test_where_our_file_is_wanted_the_error_names_format_and_import(name: str, words: str) -> None:
    with pytest.raises(UnknownFormatError, match=words) as caught:
        read_directions(CASES / "F1" / name)
    assert f"dcp-deploy directions MODEL --import {CASES / 'F1' / name}" in caught.value.remedy


# ---- placed in a generator ----


@given(vector=hnp.arrays(np.float32, WIDTH, elements=floats), scale=st.floats(1e-6, 1e6))
def test_a_vector_keeps_its_sense_and_gets_length_one(vector: np.ndarray, scale: float) -> None:
    vector = np.where(np.abs(vector) < 1e-3, 0, vector)  # so that no product of it vanishes in float32
    vector[0] += np.sign(vector[0]) or 1
    found, layers = place(torch.from_numpy(vector).double() * scale)
    assert layers == (0, SLOTS - 1)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-6)
    assert found.numpy() == pytest.approx(vector / np.linalg.norm(vector.astype(np.float64)), abs=1e-6)


def test_extreme_lengths_are_normalised() -> None:
    for scale in (1e-30, 1e30):
        found, _ = place(np.float32([scale, 0, 0, 0]))
        assert found.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_layers_choose_the_slots() -> None:
    assert place(AXIS, (2, 4))[1] == (2, 4)
    for layers in ((0, SLOTS), (4, 3), (-1, 2)):
        with pytest.raises(UsageError, match="slots of this generator: 0 to 5"):
            place(AXIS, layers)


def test_a_vector_for_each_slot_keeps_their_proportions() -> None:
    vectors = torch.zeros(SLOTS, WIDTH)
    vectors[1, 0], vectors[2, 1], vectors[4, 3] = 1.0, -2.0, 3.0
    found, layers = place(vectors)
    assert layers == (1, 4) and found.shape == (4, WIDTH)
    assert torch.allclose(found, vectors[1:5] / math.sqrt(14 / 4))
    assert float(found.square().sum(dim=1).mean()) == pytest.approx(1.0)
    cut, layers = place(vectors, (4, 5))
    assert layers == (4, 5) and torch.allclose(cut, torch.eye(WIDTH)[[3, 3]] * torch.tensor([[2**0.5], [0.0]]))


def test_equal_vectors_for_some_slots_are_one_vector() -> None:
    vectors = torch.zeros(SLOTS, WIDTH)
    vectors[2:5] = torch.from_numpy(AXIS)
    found, layers = place(vectors)
    assert layers == (2, 4) and found.tolist() == pytest.approx([0, -0.6, 0, 0.8])


def test_directions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="has 3 numbers; this generator has w_dim 4"):
        place(AXIS[:3])
    with pytest.raises(InputError, match="10 slots, as of StyleGAN2 of 64 px; this generator of 16 px has 6"):
        place(np.ones((10, WIDTH), np.float32))
    for zero in (np.zeros(WIDTH, np.float32), np.zeros((SLOTS, WIDTH), np.float32)):
        with pytest.raises(InputError, match="is zero"):
            place(zero)
    with pytest.raises(InputError, match="is zero"):
        place(torch.eye(SLOTS, WIDTH), (4, 5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    np.save(tmp_path / "age.npy", np.float32([1, bad, 0, 0]))
    with pytest.raises(InputError, match="not finite"):
        read_foreign_directions(tmp_path / "age.npy")
