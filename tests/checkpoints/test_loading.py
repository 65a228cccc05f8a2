"""Every format is recognised by its content and loads into the same kind of generator, with notes on what it lacked."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import Checkpoint, load_generator, read_checkpoint, save_generator, sniff
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError
from dcp_deploy.export.runners.loading import load_runner
from dcp_deploy.generators import Generator

from . import nvidia_writer, rosinality_writer, tensorflow_writer

DATA = Path(__file__).parents[1] / "data" / "checkpoints"

FORMATS = {
    "native": "safetensors",
    "nvidia": "pickle",
    "tensorflow": "pickle",
    "torch zip": "torch",
    "torch legacy": "torch",
}
Write = Callable[[str, Generator], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """``written("nvidia", generator)`` writes a file of that format; its name does not reveal the format."""

    def write(form: str, generator: Generator) -> Path:
        path = tmp_path / "teacher.bin"
        if form == "native":
            return save_generator(generator, path)
        if form == "nvidia":
            path.write_bytes(nvidia_writer.nvidia_pickle(generator))
        elif form == "tensorflow":
            path.write_bytes(tensorflow_writer.tensorflow_bytes(tensorflow_writer.tensorflow_networks(generator)))
        else:
            document = rosinality_writer.converted(generator)
            path.write_bytes(rosinality_writer.torch_bytes(document, zipped=form == "torch zip"))
        return path

    return write


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_known_and_gives_the_same_generator(
    written: Write, tiny_generator: Generator, form: str
) -> None:
    path = written(form, tiny_generator)
    assert sniff(path) == FORMATS[form]
    checkpoint = read_checkpoint(path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.format == {"torch": "rosinality"}.get(form.split()[0], form)
    generator = checkpoint.generator
    assert not generator.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in generator.parameters())
    z = torch.randn(2, 16)
    with torch.no_grad():
        # TensorFlow files store the style biases less one, which costs their last bit.
        torch.testing.assert_close(generator(z, psi=0.7), tiny_generator(z, psi=0.7), atol=2e-5, rtol=0)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_can_be_run(written: Write, tiny_generator: Generator, form: str) -> None:
    runner = load_runner(written(form, tiny_generator))
    z = np.random.RandomState(0).randn(1, 16)
    with torch.no_grad():
        expected = tiny_generator(torch.from_numpy(z).float())
    np.testing.assert_allclose(runner(z), expected.numpy(), atol=2e-5)


def test_the_extra_of_a_native_file_is_read(tiny_generator: Generator, tmp_path: Path) -> None:
    path = save_generator(tiny_generator, tmp_path / "g.safetensors", extra={"teacher": "ffhq"})
    assert read_checkpoint(path).extra == {"teacher": "ffhq"}


def test_notes_are_logged_when_a_generator_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    path = DATA / "ros_training_zip_torch213.pt"
    notes = read_checkpoint(path).notes
    with caplog.at_level(logging.WARNING, logger="dcp_deploy"):
        load_generator(path)
    assert notes
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {note}" for note in notes]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b'{"requestStatus": {"statusCode": "NOT_FOUND"}}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"(dp0\nS'G_ema'\n.", "not a checkpoint"),
        (b"\x00" * 100, "not a checkpoint"),
        (b"\x80", "not a checkpoint"),
    ],
)
def test_other_content_is_refused_with_a_guess_at_what_it_is(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(content)
    assert sniff(path) == "other"
    with pytest.raises(UnknownFormatError, match=hint):
        read_checkpoint(path)


def test_paths_that_are_not_readable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pkl").touch()
    for act in (sniff, read_checkpoint, load_generator):
        with pytest.raises(CorruptFileError, match="empty"):
            act(tmp_path / "empty.pkl")
        with pytest.raises(InputError, match="a folder, not a file"):
            act(tmp_path)
        with pytest.raises(InputError, match="no such file"):
            act(tmp_path / "nowhere.pkl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.pkl"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        read_checkpoint(path)
