"""Native files are read unchanged, and tensors that do not fit are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcp_deploy.checkpoints import load_generator, read_metadata, save_generator
from dcp_deploy.checkpoints.native import FORMAT
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError
from dcp_deploy.generators import Generator


@pytest.fixture
def saved(tiny_generator: Generator, tmp_path: Path) -> Path:
    return save_generator(tiny_generator, tmp_path / "g.safetensors", extra={"licence": "Apache-2.0"})


def rewrite(path: Path, *, document: object = None, **tensors: torch.Tensor | None) -> None:
    """Change tensors (None removes one; dots are written as __) or the metadata document of a native file."""
    state = load_file(path)
    for name, tensor in tensors.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    save_file(state, path, metadata={FORMAT: json.dumps(document or read_metadata(path))})


def test_a_saved_generator_comes_back_bit_for_bit(tiny_generator: Generator, saved: Path) -> None:
    loaded = load_generator(saved)
    assert loaded.config == tiny_generator.config
    z = torch.randn(2, 16)
    with torch.no_grad():
        assert torch.equal(loaded(z), tiny_generator(z))
    assert read_metadata(saved)["extra"] == {"licence": "Apache-2.0"}


def test_the_same_generator_gives_the_same_bytes(tiny_generator: Generator, saved: Path, tmp_path: Path) -> None:
    again = save_generator(tiny_generator, tmp_path / "again.safetensors", extra={"licence": "Apache-2.0"})
    assert again.read_bytes() == saved.read_bytes()


def test_half_precision_files_load_as_float32(tiny_generator: Generator, tmp_path: Path) -> None:
    half = load_generator(save_generator(tiny_generator, tmp_path / "h.safetensors", dtype=torch.float16))
    for name, tensor in half.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, tiny_generator.state_dict()[name], atol=1e-7, rtol=2**-11)


def test_a_wrong_shape_is_refused_by_name_and_shape(saved: Path) -> None:
    rewrite(saved, synthesis__b8__conv0__bias=torch.zeros(7))
    with pytest.raises(CorruptFileError, match=r"synthesis\.b8\.conv0\.bias is \[7\], the config needs \[12\]"):
        load_generator(saved)


def test_a_missing_and_an_unexpected_tensor_are_refused_by_name(saved: Path) -> None:
    rewrite(saved, mapping__w_avg=None, mapping__w_average=torch.zeros(16))
    with pytest.raises(CorruptFileError) as caught:
        load_generator(saved)
    assert "missing mapping.w_avg [16]" in str(caught.value)
    assert "unexpected mapping.w_average [16]" in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(saved: Path) -> None:
    rewrite(saved, mapping__w_avg=torch.full((16,), float("nan")))
    with pytest.raises(CorruptFileError, match=r"mapping\.w_avg"):
        load_generator(saved)


def test_integers_are_refused(saved: Path) -> None:
    rewrite(saved, mapping__w_avg=torch.zeros(16, dtype=torch.int64))
    with pytest.raises(CorruptFileError, match="int64"):
        load_generator(saved)


def test_a_config_that_cannot_be_built_is_refused(saved: Path) -> None:
    document = read_metadata(saved)
    document["config"]["resolution"] = 48
    rewrite(saved, document=document)
    with pytest.raises(CorruptFileError, match="48"):
        load_generator(saved)


def test_a_newer_format_version_is_refused(saved: Path) -> None:
    rewrite(saved, document={**read_metadata(saved), "version": 99})
    with pytest.raises(InputError, match="99"):
        load_generator(saved)


@pytest.mark.parametrize("size", [0, 4, 30, 300])
def test_truncated_files_are_refused(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(InputError):
        load_generator(saved)


def test_foreign_safetensors_and_other_files_are_unknown(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    text = tmp_path / "notes.safetensors"
    text.write_text("not a checkpoint at all")
    for path in (foreign, text):
        with pytest.raises(UnknownFormatError):
            load_generator(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        load_generator(tmp_path / "nowhere.safetensors")
