"""A converted file gives the images of its original and records its origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dcp_deploy.checkpoints import load_generator, provenance, read_checkpoint, read_metadata, save_generator
from dcp_deploy.checkpoints.provenance import UNKNOWN_LICENCE
from dcp_deploy.cli.app import app
from dcp_deploy.files import sha256_file
from dcp_deploy.generators import Generator

FILES = Path(__file__).parents[1] / "data" / "checkpoints"
ORIGINALS = [
    "sg2ada_32_uncond_torch171.pkl",
    "sg3t_32_torch213.pkl",
    "trojan_module_src.pkl",
    "tf_stylegan2_v4_32.pkl",
    "ros_training_zip_torch213.pt",
    "dcp_pruned_torch213.pt",
]


def convert(source: Path, target: Path) -> dict[str, object]:
    done = CliRunner().invoke(app, ["convert", str(source), "--out", str(target), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@torch.no_grad()
@pytest.mark.parametrize("name", ORIGINALS)
def test_a_converted_file_gives_bit_identical_images(name: str, tmp_path: Path) -> None:
    convert(FILES / name, tmp_path / "converted.safetensors")
    original, converted = load_generator(FILES / name), load_generator(tmp_path / "converted.safetensors")
    z = torch.randn(2, original.config.z_dim, generator=torch.Generator().manual_seed(0))
    assert original.config == converted.config
    assert torch.equal(original(z, psi=0.7), converted(z, psi=0.7))


def test_a_converted_file_records_its_origin_and_licence(tmp_path: Path) -> None:
    answer = convert(FILES / "sg3t_32_torch213.pkl", tmp_path / "converted.safetensors")
    story = read_metadata(tmp_path / "converted.safetensors")["extra"]
    source = story["source"]
    assert source["file"] == "sg3t_32_torch213.pkl"
    assert source["sha256"] == sha256_file(FILES / "sg3t_32_torch213.pkl")
    assert source["format"] == "nvidia"
    assert "research or evaluation only" in story["licence"]
    assert story["licence_source"] == "the format of sg3t_32_torch213.pkl (nvidia)"
    assert answer["source"] == {"format": "nvidia", "notes": [], "licence": story["licence"]}


def test_converting_twice_keeps_the_first_origin(tmp_path: Path) -> None:
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    convert(FILES / "dcp_pruned_torch213.pt", once)
    convert(once, twice)
    assert read_metadata(twice)["extra"] == read_metadata(once)["extra"]
    assert read_checkpoint(twice).licence == read_checkpoint(once).licence


def test_the_extra_of_a_native_file_is_kept(tiny_generator: Generator, tmp_path: Path) -> None:
    saved = save_generator(tiny_generator, tmp_path / "plain.safetensors", extra={"trained_on": "avatars"})
    story = provenance(read_checkpoint(saved), saved)
    assert story == {"trained_on": "avatars", "licence": UNKNOWN_LICENCE, "source": story["source"]}
    assert story["source"] == {
        "file": "plain.safetensors", "format": "native", "sha256": sha256_file(saved), "notes": []
    }  # fmt: skip
