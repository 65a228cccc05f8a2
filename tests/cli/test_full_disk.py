"""A full disk, and a limit on the size of files: every verb that writes ends with exit code 4 and loses nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from dcp_deploy.evaluation import quality
from dcp_deploy.export.bundle import sizing
from dcp_deploy.kernels.cpu import library
from dcp_deploy.shipping import publishing
from dcp_deploy.shipping.publishing import Publication

from ..hub_server import TOKEN, HubServer
from ..limits import content_of, fill, limited, mounted
from .conftest import Command

DISK = 256 * 1024  # bytes
SMALLEST = 512  # bytes, a limit below every result and above every message
OLD = b"an earlier result"
AGAIN = (".lock", "config.toml")  # of a run directory

BUILD = "--dataset ffhq --teacher t.safetensors --align 2 --steps 1 --device cpu"
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
    "build": f"build {BUILD} --ratio 0.5 --out OUT",
    "sweep": f"sweep {BUILD} --ratio 0.25,0.5 --out OUT",
}


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("disk"), DISK) as folder:
        yield folder


@pytest.fixture
def disk(mount: Path) -> Path:
    """A small disk that is empty."""
    for path in mount.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return mount


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


def results(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, without run directories, their locks and settings: the next attempt uses those."""
    runs = [lock.parent for lock in folder.rglob(".lock")]
    kept = {str(one.relative_to(folder)) for run in runs for one in (run, *run.parents) if one.is_relative_to(folder)}
    found = content_of(folder).items()
    return {name: content for name, content in found if name not in kept and Path(name).name not in AGAIN}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_exit_4_and_loses_nothing(dcp: Command, inputs: Path, disk: Path, name: str) -> None:
    words, _ = prepare(name, dcp, disk)
    fill(disk)
    before = content_of(disk)
    ended = dcp(*words)
    assert ended.code == 4, ended.err
    assert "no space left" in ended.err and "bug" not in ended.err
    assert results(disk) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_on_the_size_of_files_is_exit_4_and_loses_nothing(dcp: Command, inputs: Path, name: str) -> None:
    folder = inputs / "results"
    folder.mkdir()
    words, before = prepare(name, dcp, folder)
    with limited(SMALLEST):
        ended = dcp(*words, "--quiet")
    assert ended.code == 4, ended.err
    assert "larger than this machine allows" in ended.err and "bug" not in ended.err
    assert results(folder) == before


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    publication = Publication({"student.onnx": tmp_path / "t.onnx"}, "of a student\n" * 100, "MIT")
    monkeypatch.setattr(publishing, "publication_of", lambda run, repository: publication)
    yield server
    server.close()


def test_push_on_a_full_disk_publishes_nothing(
    dcp: Command, inputs: Path, disk: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    ended = dcp("push", "run", "hf://me/net")
    assert ended.code == 4 and "no space left" in ended.err
    assert hub.files == {} and list(disk.iterdir()) == [disk / "filler"]


def test_push_below_a_limit_on_the_size_of_files_publishes_nothing(dcp: Command, inputs: Path, hub: HubServer) -> None:
    with limited(SMALLEST):
        ended = dcp("push", "run", "hf://me/net", "--quiet")
    assert ended.code == 4 and "larger than this machine allows" in ended.err
    assert hub.files == {} and not hub.exists


def test_a_file_of_the_hub_that_does_not_fit_on_the_disk_is_exit_4(
    dcp: Command, inputs: Path, disk: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["t.safetensors"] = (inputs / "t.safetensors").read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk / "hub"))
    fill(disk)
    ended = dcp("inspect", "hf://me/net/t.safetensors")
    assert ended.code == 4 and "no space left" in ended.err, ended.err


@pytest.mark.slow  # a compiler works until it cannot write
def test_kernels_that_cannot_be_compiled_for_want_of_space_are_exit_4(
    dcp: Command, inputs: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk)
    library.cpu_operators.cache_clear()  # an earlier test may have opened them in this process
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(inputs / "cache"))
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setattr(library, "FLAGS", [flag.replace("-O3", "-O0") for flag in library.FLAGS])  # takes less time
    ended = dcp("bench", "t.onnx", "--backends", "onnxruntime-winograd", "--rounds", 2, "--seconds", 0)
    assert ended.code == 4 and "no space left" in ended.err and "Free some space" in ended.err


def test_a_cache_on_a_full_disk_can_be_cleared(dcp: Command, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(disk))
    kernel = disk / "kernels" / f"cpu-{'0' * 32}.so"
    kernel.parent.mkdir()
    kernel.write_bytes(bytes(8192))
    fill(disk)
    assert dcp("cache", "clear", "kernels").code == 0
    assert not kernel.exists() and (disk / "filler").exists()
