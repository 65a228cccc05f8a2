"""Files of directions are read as written, and inconsistent ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from dcp_deploy.checkpoints.directions import Direction, check_directions, read_directions, save_directions
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError
from dcp_deploy.generators import GeneratorConfig

KEY = "dcp_deploy.directions"
SMILE = Direction(torch.tensor([0.6, 0.0, 0.8]), (2, 5), 1.5)
CONFIG = GeneratorConfig(16, (8,) * 6, z_dim=3, w_dim=3, mapping_layers=1)  # 6 slots


def test_directions_are_read_as_written_in_order(tmp_path: Path) -> None:
    written = {"smile": SMILE, "age": Direction(torch.tensor([0.0, 1.0, 0.0]), (0, 0), 0.25)}
    found = read_directions(save_directions(written, tmp_path / "d.safetensors"))
    assert list(found) == ["smile", "age"]
    for name, one in written.items():
        assert torch.equal(found[name].vector, one.vector)
        assert (found[name].layers, found[name].sigma) == (one.layers, one.sigma)


def test_the_file_has_the_documented_format(tmp_path: Path) -> None:
    path = save_directions({"smile": SMILE}, tmp_path / "d.safetensors")
    with safe_open(path, framework="np") as stream:
        assert json.loads(stream.metadata()[KEY]) == {"smile": {"layers": [2, 5], "sigma": 1.5}}
        assert stream.get_tensor("smile").tolist() == pytest.approx([0.6, 0.0, 0.8])


@given(steps=st.floats(-5, 5), first=st.integers(0, 5), length=st.integers(1, 6))
def test_a_move_changes_its_slots_by_steps_of_sigma_and_no_others(steps: float, first: int, length: int) -> None:
    last = min(5, first + length - 1)
    ws = torch.ones(2, 6, 3)
    moved = replace(SMILE, layers=(first, last)).move(ws, steps)
    inside = torch.tensor([first <= slot <= last for slot in range(6)])
    assert torch.allclose(moved[:, inside] - 1, (steps * 1.5 * SMILE.vector).expand(2, last - first + 1, 3), atol=1e-5)
    assert torch.equal(moved[:, ~inside], ws[:, ~inside])
    assert torch.equal(ws, torch.ones(2, 6, 3))


def test_each_row_can_move_by_a_different_number_of_steps() -> None:
    moved = SMILE.move(torch.zeros(2, 6, 3), torch.tensor([0.0, 1.0]))
    assert moved[0].abs().sum() == 0 and moved[1, 2].tolist() == pytest.approx([0.9, 0.0, 1.2])


SLOPED = Direction(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), (3, 4), 2.0)


def test_a_vector_for_each_slot_moves_its_slot(tmp_path: Path) -> None:
    found = read_directions(save_directions({"sloped": SLOPED}, tmp_path / "d.safetensors"))["sloped"]
    assert torch.equal(found.vector, SLOPED.vector)
    check_directions({"sloped": found}, CONFIG)
    moved = found.move(torch.zeros(2, 6, 3), torch.tensor([1.0, -0.5]))
    expected = torch.zeros(2, 6, 3)
    expected[0, 3], expected[1, 3] = torch.tensor([2.0, 0.0, 2.0]), torch.tensor([-1.0, 0.0, -1.0])
    assert torch.equal(moved, expected)


ABOUT = {"layers": [0, 1], "sigma": 1.0}
UNIT = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        ({"a": UNIT}, {"a": {"layers": [1, 0], "sigma": 1.0}}),
        ({"a": UNIT}, {"a": {"layers": [-1, 0], "sigma": 1.0}}),
        ({"a": UNIT}, {"a": {"layers": [0, 1], "sigma": 0.0}}),
        ({"a": UNIT}, {"a": {"layers": [0, 1]}}),
        ({"a": UNIT}, {"a": [0, 1]}),
        ({"a": UNIT}, [1]),
        ({"a": UNIT}, {}),
        ({"a": UNIT, "b": UNIT}, {"a": ABOUT}),
        ({"a": UNIT}, {"a": ABOUT, "b": ABOUT}),
        ({"a": UNIT, "b": torch.tensor([1.0])}, {"a": ABOUT, "b": ABOUT}),
        ({"a": 2 * UNIT}, {"a": ABOUT}),
        ({"a": UNIT * torch.nan}, {"a": ABOUT}),
        ({"a": UNIT.half()}, {"a": ABOUT}),
        ({"a": UNIT[None]}, {"a": ABOUT}),
        ({"a": UNIT[None].repeat(3, 1)}, {"a": ABOUT}),
        ({"a": 2 * UNIT[None].repeat(2, 1)}, {"a": ABOUT}),
        ({"a": UNIT[None, None].repeat(1, 2, 1)}, {"a": ABOUT}),
        ({"a": torch.tensor(1.0)}, {"a": {"layers": [0, 0], "sigma": 1.0}}),
    ],
)
def test_inconsistent_files_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], about: Any) -> None:
    path = tmp_path / "d.safetensors"
    save_file({name: one.clone() for name, one in tensors.items()}, path, metadata={KEY: json.dumps(about)})
    with pytest.raises(CorruptFileError, match="not usable directions"):
        read_directions(path)


def test_missing_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_directions(tmp_path / "nowhere.safetensors")
    save_file({"a.weight": UNIT}, tmp_path / "other.safetensors")
    with pytest.raises(UnknownFormatError, match="no directions in a safetensors file of the weights of a network"):
        read_directions(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not at all")
    with pytest.raises(UnknownFormatError, match="unknown content"):
        read_directions(tmp_path / "text.safetensors")
    whole = save_directions({"smile": SMILE}, tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CorruptFileError, match="not a readable"):
        read_directions(tmp_path / "cut.safetensors")


def test_directions_must_fit_the_generator() -> None:
    check_directions({"smile": SMILE}, CONFIG)
    for wrong in (
        replace(SMILE, layers=(0, 6)),
        replace(SMILE, vector=torch.tensor([1.0])),
        replace(SLOPED, layers=(5, 6)),
    ):
        with pytest.raises(InputError, match="smile"):
            check_directions({"smile": wrong}, CONFIG)
