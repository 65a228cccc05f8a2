"""Reading a damaged file of any format gives a generator or one of our errors."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.checkpoints import read_checkpoint
from dcp_deploy.errors import InputError

from . import small_files

FORMATS = {
    "nvidia-stylegan2": "nvidia",
    "nvidia-stylegan3": "nvidia",
    "tensorflow": "tensorflow",
    "torch-legacy": "rosinality",
    "torch-zip": "rosinality",
    "torch-module": "nvidia",
    "nvidia-names": "nvidia",
    "npz": "nvidia",
    "safetensors": "nvidia",
    "native": "native",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


@pytest.mark.parametrize("form", FORMATS)
def test_the_small_files_are_valid(place: Path, form: str) -> None:
    place.write_bytes(small_files.whole(form, small_files.small_files()[form]))
    assert read_checkpoint(place).format == FORMATS[form]


@pytest.mark.parametrize("form", FORMATS)
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_damaged_files_raise_nothing_but_our_errors(place: Path, form: str, seed: int) -> None:
    contents = small_files.small_files()
    damaged = small_files.damaged(contents[form], list(contents.values()), Random(seed))
    place.write_bytes(small_files.whole(form, damaged))
    try:
        read_checkpoint(place)
    except InputError as error:
        assert error.exit_code == 3
        assert str(place) in error.message


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    with pytest.raises(InputError):
        read_checkpoint(place)
