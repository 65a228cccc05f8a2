"""State dicts in NVIDIA's names are read as the networks that they were saved from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcp_deploy.checkpoints import read_checkpoint
from dcp_deploy.checkpoints.layouts import nvidia_state, save_layout
from dcp_deploy.errors import CorruptFileError, UnknownFormatError
from dcp_deploy.generators import Generator, GeneratorConfig

from . import small_files

LR = "the learning rate multiplier 0.01 is assumed"


def small(kind: str) -> Generator:
    """Return a network of the published kind; the mapping's weights have their initial size, which confirms 0.01."""
    if kind == "2":
        return small_files.stylegan2()
    torch.manual_seed(0)
    options = {"channel_base": 512, "channel_max": 16, "z_dim": 32, "w_dim": 32}
    config = GeneratorConfig.stylegan3(16, kind[1], **options)  # type: ignore[arg-type]
    if kind.endswith("c"):
        config = replace(config, c_dim=3)
    return Generator(config).eval()


def assert_same(found: Generator, expected: Generator) -> None:
    assert found.config == replace(expected.config, num_fp16_res=found.config.num_fp16_res)
    tensors = expected.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize("kind", ["3t", "3r", "3tc"])
def test_a_stylegan3_is_read_with_the_published_schedule_and_clamp(kind: str, tmp_path: Path) -> None:
    generator = small(kind)
    torch.save(nvidia_state(generator), tmp_path / "g.pt")
    checkpoint = read_checkpoint(tmp_path / "g.pt")
    assert_same(checkpoint.generator, generator)
    assert "no conv_clamp: 256.0 is assumed, as in the published networks of this kind" in checkpoint.notes


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["2", "3r"])
def test_what_convert_records_beside_the_tensors_is_read_back(kind: str, suffix: str, tmp_path: Path) -> None:
    original = small(kind)
    config = replace(original.config, conv_clamp=100.0, mapping_lr_multiplier=0.25)
    if config.layout is not None:
        config = replace(config, layout=replace(config.layout, output_scale=0.5))
    generator = Generator(config).eval()
    save_layout(generator, tmp_path / f"g{suffix}", "nvidia")
    checkpoint = read_checkpoint(tmp_path / f"g{suffix}")
    assert_same(checkpoint.generator, generator)
    assert checkpoint.notes == ()


def test_a_multiplier_that_the_weights_do_not_confirm_is_noted(tmp_path: Path) -> None:
    generator = Generator(replace(small("2").config, mapping_lr_multiplier=0.5)).eval()
    torch.save(nvidia_state(generator), tmp_path / "g.pt")
    assert any(note.startswith(LR) for note in read_checkpoint(tmp_path / "g.pt").notes)


@pytest.mark.parametrize("kind", ["3t", "3r"])
def test_buffers_that_follow_from_the_schedule_may_be_missing(kind: str, tmp_path: Path) -> None:
    generator = small(kind)
    ends = ("_filter", ".transform")
    kept = {name: value for name, value in nvidia_state(generator).items() if not name.endswith(ends)}
    torch.save(kept, tmp_path / "g.pt")
    assert_same(read_checkpoint(tmp_path / "g.pt").generator, generator)


def test_another_schedule_without_a_record_of_it_is_refused(tmp_path: Path) -> None:
    generator = small("3t")
    assert generator.config.layout
    other = Generator(replace(generator.config, layout=replace(generator.config.layout, first_stopband=5.0))).eval()
    torch.save(nvidia_state(other), tmp_path / "g.pt")
    with pytest.raises(UnknownFormatError, match="another size or filter than the published schedule"):
        read_checkpoint(tmp_path / "g.pt")


@pytest.mark.parametrize(
    ("name", "tensor", "error", "message"),
    [
        ("synthesis.b4.torgb.weight", torch.zeros(1, 16, 1, 1), UnknownFormatError, "1 channels, grey images"),
        ("synthesis.b8.conv0.weight", torch.zeros(16, 16, 1, 1), UnknownFormatError, "kernel_size"),
        ("synthesis.b8.skip.weight", torch.zeros(16, 16, 1, 1), UnknownFormatError, "resnet"),
        ("synthesis.b8.conv1.extra", torch.zeros(3), UnknownFormatError, r"other layers.*synthesis\.b8\.conv1\.extra"),
        ("mapping.fc0.weight", None, CorruptFileError, "mapping"),
        ("synthesis.b4.conv1.weight", None, CorruptFileError, r"synthesis\.b4\.conv1\.weight is missing"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    name: str, tensor: torch.Tensor | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    state = dict(nvidia_state(small("2")))
    state.pop(name, None)
    torch.save(state if tensor is None else {**state, name: tensor}, tmp_path / "g.pt")
    with pytest.raises(error, match=message):
        read_checkpoint(tmp_path / "g.pt")
