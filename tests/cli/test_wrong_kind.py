"""A model of another kind than a verb needs: the message says what it is and how to get the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout

from .conftest import Command


@pytest.fixture
def folder(tmp_path: Path, models: Path) -> Path:
    """The small models, an engine, a run directory and a bundle's folder in the working directory."""
    for name in ("t.safetensors", "t.onnx"):
        (tmp_path / name).symlink_to(models / name)
    (tmp_path / "t.engine").write_bytes(b"ftrt" + bytes(60))
    for place, record in (("run", "run.json"), ("pack", "manifest.json")):
        (tmp_path / place).mkdir()
        (tmp_path / place / record).write_text("{}")
    return tmp_path


EXPORTED_FROM = "Give the checkpoint that it was exported from."
EXPORT_FIRST = "Export it first: dcp-deploy export t.safetensors -o t.onnx"
BUILT_FROM = "Give the ONNX file that it was built from."


@pytest.mark.parametrize(
    ("words", "what", "way"),
    [
        (("score", "t.onnx", "-o", "x.safetensors"), "an exported ONNX file", EXPORTED_FROM),
        (("prune", "t.onnx", "--score", "random", "-o", "x.safetensors"), "an exported ONNX file", EXPORTED_FROM),
        (("export", "t.onnx", "-o", "x.onnx"), "an exported ONNX file", EXPORTED_FROM),
        (("score", "t.engine", "-o", "x.safetensors"), "a TensorRT engine", "Give the checkpoint"),
        (("engine", "t.safetensors", "-o", "x.engine"), "is a checkpoint", EXPORT_FIRST),
        (("engine", "t.engine", "-o", "x.engine"), "is a TensorRT engine", BUILT_FROM),
        (("engine", "pack", "-o", "x.engine"), "is a bundle", "Give the ONNX file of one of its models."),
        (("engine", "run", "-o", "x.engine"), "is a run directory", "Give a file in it: run/student.onnx"),
        (("bundle", "t.safetensors", "-o", "x"), "is a checkpoint", EXPORT_FIRST),
        (("bundle", "t.engine", "-o", "x"), "is a TensorRT engine", BUILT_FROM),
        (("sample", "run"), "is a run directory of build", "run/student.onnx, or pack it: dcp-deploy bundle run"),
        (("verify", "run", "t.onnx"), "is a run directory of build", "dcp-deploy bundle run"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
@pytest.mark.usefixtures("folder")
def test_the_message_names_the_kind_and_the_way(dcp: Command, words: tuple[str, ...], what: str, way: str) -> None:
    ended = dcp(*words)
    assert ended.code == 3
    assert what in ended.err and way in ended.err
    assert not [path for path in Path().iterdir() if path.name.startswith("x")]


def test_scores_and_directions_are_named_where_a_checkpoint_is_needed(dcp: Command, models: Path) -> None:
    assert dcp("score", models / "t.safetensors", "-o", "s.safetensors").code == 0
    assert dcp("directions", models / "t.safetensors", "--count", 2, "-o", "d.safetensors").code == 0
    for words in (("inspect", "s.safetensors"), ("prune", "s.safetensors", "-o", "x.safetensors")):
        ended = dcp(*words)
        assert ended.code == 3 and "s.safetensors: channel scores, not a checkpoint" in ended.err
        assert "Give them to prune as --scores." in ended.err
    ended = dcp("inspect", "d.safetensors")
    assert ended.code == 3 and "d.safetensors: editing directions, not a checkpoint" in ended.err


def test_content_of_an_unknown_kind_is_not_an_onnx_file(dcp: Command) -> None:
    Path("a.txt").write_text("not a model")
    for words in (("engine", "a.txt", "-o", "x.engine"), ("bundle", "a.txt", "-o", "x")):
        ended = dcp(*words)
        assert ended.code == 3 and "a.txt is not an ONNX file" in ended.err


def test_noise_inputs_of_a_stylegan3_are_refused_because_it_has_no_noise(dcp: Command) -> None:
    layout = StyleGAN3Layout(8, num_layers=2, num_critical=1, margin=4)
    config = GeneratorConfig(
        16, (8,) * 3, z_dim=8, w_dim=8, mapping_layers=1, conv_clamp=256.0, kind="stylegan3", layout=layout
    )
    save_generator(Generator(config), "g.safetensors")
    ended = dcp("export", "g.safetensors", "-o", "x.onnx", "--noise", "input")
    assert ended.code == 2 and "a stylegan3 has no noise" in ended.err
    assert not Path("x.onnx").exists()
