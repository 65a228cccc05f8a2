"""The flag --network: a file that holds a tuned generator beside the old average, read by every verb.

The case is a file of NVIDIA's original code with G_ema (old) and G (tuned), as DragGAN's copies of PTI's export have.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import load_generator

from .conftest import Command

CASE = Path(__file__).parents[1] / "checkpoints" / "cases" / "A15"
FILE = CASE / "A15_dragan_pti.pkl"


@pytest.mark.parametrize(
    ("words", "image"), [((), "img_ema"), (("--network", "G_ema"), "img_ema"), (("--network", "G"), "img")]
)
def test_each_network_of_the_file_draws_its_own_images(dcp: Command, words: tuple[str, ...], image: str) -> None:
    assert dcp("convert", FILE, "-o", "g.safetensors", *words).code == 0
    generator = load_generator("g.safetensors")
    with np.load(CASE / "expected.npz", allow_pickle=False) as expected, torch.inference_mode():
        drawn = generator(torch.from_numpy(expected["z"]).float())
        assert np.abs(drawn.numpy() - expected[image]).max() < 3e-5  # two orders of summation in float32


def test_inspect_names_the_networks_and_says_that_their_weights_differ(dcp: Command) -> None:
    assert "G_ema (read), G (other weights: --network G)" in dcp("inspect", FILE).out
    assert "G_ema (other weights: --network G_ema), G (read)" in dcp("inspect", FILE, "--network", "G").out
    facts = dcp("inspect", FILE, "--json").json
    assert facts["unread"] == []
    assert facts["networks"] == [
        {"name": "G_ema", "chosen": True, "same_weights": True},
        {"name": "G", "chosen": False, "same_weights": False},
    ]


def test_inspect_says_that_weights_are_the_same(dcp: Command, tmp_path: Path, models: Path) -> None:
    assert dcp("convert", models / "t.safetensors", "-o", "t.pt", "--to", "rosinality").code == 0
    assert "g (the same weights), g_ema (read)" in dcp("inspect", "t.pt").out
    assert "networks  " not in dcp("inspect", models / "t.safetensors").out  # it has one, without a name


@pytest.mark.parametrize("how", [("--seeds", "1"), ("--seeds", "1", "--mix", "2@0-1")], ids=["latents", "codes"])
def test_sample_draws_the_chosen_network(dcp: Command, how: tuple[str, ...]) -> None:
    pictures = []
    for words in ((), ("--network", "G_ema"), ("--network", "G")):
        assert dcp("sample", FILE, "-o", "a.png", *how, *words).code == 0
        pictures.append(Path("a.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_the_gate_compares_the_chosen_network(dcp: Command) -> None:
    assert dcp("convert", FILE, "-o", "g.safetensors", "--network", "G").code == 0
    few = ("--latents", 2, "--psi", 1, "--json")
    chosen = dcp("verify", FILE, "g.safetensors", "--network", "G", *few)
    assert chosen.code == 0 and chosen.json["a"]["name"] == FILE.name
    assert dcp("verify", FILE, "g.safetensors", *few).code == 5


BESIDE = ("t.safetensors", "--teacher", FILE)


@pytest.mark.parametrize(
    "words",
    [
        ("convert", FILE, "-o", "x.safetensors"),
        ("score", FILE, "-o", "x.safetensors"),
        ("prune", FILE, "--score", "random", "-o", "x.safetensors"),
        ("distill", *BESIDE, "-o", "x.safetensors"),
        ("export", FILE, "-o", "x.onnx"),
        ("export", *BESIDE, "-o", "x.onnx"),
        ("verify", FILE, "t.safetensors"),
        ("bench", FILE),
        ("bench", *BESIDE),
        ("sample", FILE),
        ("sample", FILE, "--interpolate", "1,2"),
        ("eval", FILE),
        ("eval", *BESIDE),
        ("directions", FILE, "-o", "x.safetensors"),
        ("project", "a.png", "--model", FILE),
        ("project", "a.png", "--model", *BESIDE),
        ("inspect", FILE),
        ("build", "--teacher", FILE, "-o", "run"),
        ("build", "--teacher", FILE, "-o", "run", "--dry-run"),
    ],
    ids=lambda words: " ".join(Path(word).name for word in words),
)
def test_every_verb_looks_for_the_network_in_the_teachers_file(
    dcp: Command, tmp_path: Path, models: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "t.safetensors").symlink_to(models / "t.safetensors")
    ended = dcp(*words, "--network", "Gs")
    assert ended.code == 2
    assert "--network 'Gs' is not one network of the file" in ended.err and "G_ema, G" in ended.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "t.onnx"),
        ("sample", "t.onnx"),
        ("sample", "t.onnx", "--interpolate", "1,2"),
        ("eval", "t.onnx"),
        ("bench", "t.onnx"),
        ("verify", "t.onnx", "t.safetensors"),
        ("verify", "t.onnx", "http://127.0.0.1:1"),
        ("inspect", "folder"),
        ("inspect", "t.safetensors"),
    ],
    ids=" ".join,
)
def test_a_file_without_named_networks_has_nothing_to_choose(
    dcp: Command, tmp_path: Path, models: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("t.safetensors", "t.onnx"):
        (tmp_path / name).symlink_to(models / name)
    ended = dcp(*words, "--network", "G")
    assert ended.code == 2 and "Leave out --network." in ended.err
