"""The flags of ``sample``; its images are tested in tests/evaluation/test_pictures.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from dcp_deploy.checkpoints import load_generator

from .conftest import Command


@pytest.fixture
def model(models: Path) -> Path:
    """A 16 px generator with 6 slots and w_dim 8."""
    return models / "t.safetensors"


def test_the_suffix_decides_the_format(dcp: Command, model: Path) -> None:
    for name, kind in (("a.jpg", "JPEG"), ("a.PNG", "PNG"), ("a.webp", "WEBP")):
        assert dcp("sample", model, "-o", name, "--seeds", "0-1").code == 0
        with Image.open(name) as picture:
            assert picture.format == kind


def test_an_unknown_suffix_is_refused_before_the_model_is_read(dcp: Command) -> None:
    ended = dcp("sample", "gone.safetensors", "-o", "a.bmp")
    assert ended.code == 2 and "a.bmp" in ended.err and ".png, .jpg, .jpeg, .webp" in ended.err
    assert not list(Path().iterdir())


def test_mixes_and_an_animation(dcp: Command, model: Path) -> None:
    words = ("sample", model, "--mix", "7@4-5", "--mix", "8@0,1", "--interpolate", "1,2,3", "--frames", 6)
    ended = dcp(*words, "--json")
    assert ended.code == 0
    assert (ended.json["path"], ended.json["images"]) == ("sample.gif", 6)
    with Image.open("sample.gif") as picture:
        assert (picture.n_frames, picture.size) == (6, (16, 16))
    assert dcp("sample", model, "--config", "sample.gif.toml", "-o", "again.gif").code == 0
    assert Path("again.gif").read_bytes() == Path("sample.gif").read_bytes()


@pytest.mark.parametrize("key", ["class", "psi"])
def test_a_config_file_has_the_flags_names_as_keys(dcp: Command, model: Path, key: str) -> None:
    Path("c.toml").write_text(f'{key} = "1"\n')
    ended, flags = dcp("sample", model, "--config", "c.toml"), dcp("sample", model, f"--{key}", "1")
    assert (ended.code, ended.err.splitlines()[:1]) == (flags.code, flags.err.splitlines()[:1])


def test_each_writes_a_folder_and_its_settings_beside_it(dcp: Command, model: Path) -> None:
    for _ in range(2):  # into the same folder
        assert dcp("sample", model, "--each", "--seeds", "3,5", "-o", "faces").code == 0
    assert sorted(str(path) for path in Path().rglob("*.*")) == [
        "faces.toml", "faces/seed0003.png", "faces/seed0005.png",
    ]  # fmt: skip
    ended = dcp("sample", model, "--each", "-o", "faces.toml")
    assert ended.code == 2 and "is a file" in ended.err


def test_codes_are_drawn_with_an_edit(dcp: Command, model: Path) -> None:
    save_file({"ws": load_generator(model).mapping.w_avg.expand(2, 6, 8).contiguous()}, "codes.safetensors")
    assert dcp("directions", model, "-o", "d.safetensors", "--count", 1).code == 0
    words = ("sample", model, "--codes", "codes.safetensors")
    assert dcp(*words, "-o", "a.png", "--json").json["images"] == 2
    assert dcp(*words, "-o", "b.png", "--direction", "pc0=3", "--directions", "d.safetensors").code == 0
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes()
    ended = dcp(*words, "--seeds", "0-3")
    assert ended.code == 2 and "--seeds and --codes" in ended.err


@pytest.mark.parametrize("wrong", ["7", "7@", "@4", "x@4", "7@a", "-7@4", "7@5-4"])
def test_a_malformed_mix_is_a_usage_error(dcp: Command, model: Path, wrong: str) -> None:
    ended = dcp("sample", model, f"--mix={wrong}")
    assert ended.code == 2 and "--mix" in ended.err


def test_a_class_of_a_model_without_classes_is_a_usage_error(dcp: Command, model: Path) -> None:
    ended = dcp("sample", model, "--class", "0")
    assert ended.code == 2 and "not class-conditional" in ended.err


def test_an_mp4_without_its_extra_ends_before_the_work(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    ended = dcp("sample", "gone.safetensors", "--interpolate", "1,2", "-o", "a.mp4")
    assert ended.code == 4 and "dcp-deploy[video]" in ended.err


def test_the_default_place_is_checked_before_the_work(dcp: Command) -> None:
    Path("sample.png").mkdir()
    ended = dcp("sample", "gone.safetensors")
    assert ended.code == 2 and "sample.png is a folder" in ended.err
