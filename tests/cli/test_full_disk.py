"""A full disk, and a limit on the size of files: every verb that writes ends with exit code 4 and loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.evaluation import quality
from dcp_deploy.export.bundle import sizing

from ..limits import content_of, fill, limited, mounted
from .conftest import Command

DISK = 256 * 1024  # bytes
SMALLEST = 512  # bytes, a limit below every result and above every message
OLD = b"an earlier result"

BENCH = "--backends onnxruntime --rounds 2 --seconds 0"
COMMANDS = {
    "convert": "convert t.safetensors -o OUT.safetensors",
    "convert --to rosinality": "convert t.safetensors --to rosinality -o OUT.pt",
    "convert --to nvidia": "convert t.safetensors --to nvidia -o OUT.pt",
    "score": "score t.safetensors -o OUT.safetensors",
    "score, resumable": "score t.safetensors --score diversity --latents 4 --directions 2 -o OUT.safetensors",
    "prune": "prune t.safetensors --score random -o OUT.safetensors",
    "distill": "distill p.safetensors --teacher t.safetensors --dataset none --steps 1 -o OUT.safetensors",
    "export": "export t.safetensors -o OUT.onnx",
    "engine": "engine t.onnx --target sm89 -o OUT.engine",
    "verify": "verify t.onnx t.onnx --latents 2 -o OUT.json",
    "verify --worst": "verify t.onnx t.onnx --latents 2 --worst OUT.png",
    "bench": f"bench t.onnx {BENCH} -o OUT.json",
    "bench --markdown": f"bench t.onnx {BENCH} --markdown OUT.md",
    "bench --plot": f"bench t.onnx {BENCH} --plot OUT.png",
    "bench compare": "bench compare b.json b.json -o OUT.json",
    "eval": "eval t.safetensors --teacher t.safetensors --samples 700 -o OUT.json",
    "sample": "sample t.onnx --seeds 0-3 -o OUT.png",
    "sample, animated": "sample t.safetensors --interpolate 0,1 -o OUT.gif",
    "sample --each": "sample t.onnx --seeds 0-3 --each -o OUT",
    "directions": "directions t.safetensors --count 8 -o OUT.safetensors",
    "project": "project 0.png 1.png 2.png --model t.safetensors --steps 1 -o OUT",
    "bundle": "bundle t.onnx -o OUT",
    "bundle, packed": "bundle t.onnx -o OUT.tar.zst",
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("disk"), DISK) as folder:
        yield folder


@pytest.fixture
def inputs(models: Path, dcp: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the commands read, in the working directory."""
    monkeypatch.setattr(sizing, "SECONDS", 0.05)
    measured = quality.Evaluation({"fid": 1.25}, {"lpips": "no weights here"} | {str(n): "why" for n in range(40)})
    monkeypatch.setattr(quality, "evaluate_file", lambda *arguments, **settings: measured)
    for name in ("t.safetensors", "t.onnx"):
        shutil.copy(models / name, tmp_path)
    for number in range(3):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def prepare(name: str, dcp: Command, folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """Make what only some commands read, and an earlier result. Return the words and what is in the folder."""
    words = COMMANDS[name].split()
    if "p.safetensors" in words:
        assert dcp("prune", "t.safetensors", "--score", "random", "--align", 1, "-o", "p.safetensors").code == 0
    if "b.json" in words:
        assert dcp("bench", "t.onnx", *BENCH.split(), "-o", "b.json").code == 0
    (place,) = (word for word in words if word.startswith("OUT"))
    out = folder / place
    if place != "OUT" and ".tar" not in place:
        out.write_bytes(OLD)
    return [str(out) if word == place else word for word in words], content_of(folder)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_exit_4_and_loses_nothing(dcp: Command, inputs: Path, disk: Path, name: str) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    words, _ = prepare(name, dcp, disk)
    fill(disk)
    before = content_of(disk)
    ended = dcp(*words)
    assert ended.code == 4, ended.err
    assert "no space left" in ended.err and "bug" not in ended.err
    assert content_of(disk) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_on_the_size_of_files_is_exit_4_and_loses_nothing(dcp: Command, inputs: Path, name: str) -> None:
    folder = inputs / "results"
    folder.mkdir()
    words, before = prepare(name, dcp, folder)
    with limited(SMALLEST):
        ended = dcp(*words, "--quiet")
    assert ended.code == 4, ended.err
    assert "larger than this machine allows" in ended.err and "bug" not in ended.err
    assert content_of(folder) == before
