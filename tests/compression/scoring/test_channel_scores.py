from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.compression import ChannelScores, load_scores, save_scores
from dcp_deploy.errors import CorruptFileError, InputError
from dcp_deploy.generators import Generator


def some_scores() -> ChannelScores:
    source = torch.Generator().manual_seed(0)
    # Twelve layers: names must sort by number.
    layers = tuple(torch.rand(3 + i, generator=source, dtype=torch.float64) for i in range(12))
    return ChannelScores(layers, {"method": "diversity", "alpha": 5.0})


def test_scores_survive_the_file(tmp_path: Path) -> None:
    scores = some_scores()
    loaded = load_scores(save_scores(scores, tmp_path / "scores.safetensors"))
    assert loaded.settings == scores.settings
    assert all(torch.equal(a, b) for a, b in zip(loaded.scores, scores.scores, strict=True))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors"):
        load_scores(tmp_path / "none.safetensors")


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = save_scores(some_scores(), tmp_path / "scores.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptFileError):
        load_scores(path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"layer00": torch.zeros(3, dtype=torch.float64)}, path)
    with pytest.raises(InputError, match="is a safetensors file, not scores"):
        load_scores(path)


def test_a_generator_is_not_scores_and_the_message_says_so(tmp_path: Path, tiny_generator: Generator) -> None:
    path = save_generator(tiny_generator, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"is a generator, not scores\nScore the teacher: dcp-deploy score"):
        load_scores(path)


@pytest.mark.parametrize(
    "layer", [torch.tensor([1.0, float("nan")]).double(), torch.zeros(2), torch.zeros(2, 2).double()]
)
def test_layers_that_do_not_hold_scores_are_refused(tmp_path: Path, layer: torch.Tensor) -> None:
    path = save_scores(ChannelScores((layer,), {}), tmp_path / "scores.safetensors")
    with pytest.raises(CorruptFileError, match="layer 0"):
        load_scores(path)
