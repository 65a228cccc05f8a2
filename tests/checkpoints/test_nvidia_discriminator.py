"""The discriminator of NVIDIA's snapshots gives the logits of the papers' formulas; others are refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dcp_deploy.checkpoints import read_discriminator
from dcp_deploy.checkpoints.loading import mapped
from dcp_deploy.checkpoints.pickles.content import read_pickle_file
from dcp_deploy.checkpoints.pickles.persistence import Module, module_tree
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError, UnsafeFileError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator

from . import assembler as a
from . import nvidia_writer, small_files

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
Write = Callable[..., Path]


@pytest.fixture
def original() -> Discriminator:
    """A discriminator of 16 px: uneven widths, groups of two, nonzero biases, a clamp that many values exceed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Discriminator(DiscriminatorConfig(16, (5, 6, 7), mbstd_group=2, conv_clamp=0.5))
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


@pytest.fixture
def written(nvidia_file: Write, tiny_generator: Generator, original: Discriminator) -> Write:
    """``written(**options of nvidia_pickle)``: a snapshot with ``original`` as D."""
    return lambda **options: nvidia_file(tiny_generator, **{"discriminator": original, **options})


def pictures(size: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# ---- the network by its formulas, step by step in float64, from the records of the file ----


class Slow:
    """Karras et al. 2020, StyleGAN2, figure 7c and section 4; the gains, clamps and groups are those in the file."""

    def __init__(self, path: Path) -> None:
        data = mapped(path)
        content = read_pickle_file(data, str(path))
        self.load = content.load
        self.network: Module = module_tree(content.value["D"], self.load)

    def tensor(self, module: Module, name: str) -> Tensor:
        return module.tensors[name].tensor(self.load).double()

    def conv(self, module: Module, x: Tensor) -> Tensor:
        weight = self.tensor(module, "weight") * module.facts["weight_gain"]
        kernel = weight.shape[-1]
        if module.facts["down"] == 2:
            # The filter's four taps and the kernel's k share a padding that keeps every second result centred.
            low_pass = self.tensor(module, "resample_filter")
            x = F.pad(x, (1 + kernel // 2,) * 4)
            x = torch.stack([F.conv2d(channel[:, None], low_pass[None, None])[:, 0] for channel in x.unbind(1)], 1)
        else:
            x = F.pad(x, (kernel // 2,) * 4)
        rows = range(0, x.shape[2] - kernel + 1, module.facts["down"])
        patches = [[x[:, :, i : i + kernel, j : j + kernel] for j in rows] for i in rows]
        y = torch.stack([torch.stack([torch.einsum("bikl,oikl->bo", p, weight) for p in row], 2) for row in patches], 2)
        return y if module.facts["activation"] == "linear" else self.active(module, y)

    def active(self, module: Module, x: Tensor) -> Tensor:
        x = x + self.tensor(module, "bias").reshape(-1, *[1] * (x.ndim - 2))
        x = torch.where(x < 0, 0.2 * x, x) * math.sqrt(2)
        clamp = module.facts.get("conv_clamp")
        return x if clamp is None else x.clamp(-clamp, clamp)

    def dense(self, module: Module, x: Tensor) -> Tensor:
        return x @ (self.tensor(module, "weight") * module.facts["weight_gain"]).T

    def with_deviation(self, module: Module, x: Tensor) -> Tensor:
        """Append the deviation; a group is every M-th image of a batch of M groups (Karras et al. 2018, section 3)."""
        groups = len(x) // min(module.facts["group_size"], len(x))
        spread = [((x[m::groups].var(0, unbiased=False) + 1e-8) ** 0.5).mean() for m in range(groups)]
        channel = torch.stack([spread[n % groups] for n in range(len(x))])
        return torch.cat([x, channel.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        *blocks, last = self.network.children.values()
        x = self.conv(blocks[0].children["fromrgb"], images.double())
        for block in blocks:
            inner = self.conv(block.children["conv1"], self.conv(block.children["conv0"], x))
            x = (inner + self.conv(block.children["skip"], x)) / math.sqrt(2)
        x = self.conv(last.children["conv"], self.with_deviation(last.children["mbstd"], x)).flatten(1)
        x = self.active(last.children["fc"], self.dense(last.children["fc"], x))
        return (self.dense(last.children["out"], x) + self.tensor(last.children["out"], "bias"))[:, 0]


def assert_same_logits(found: Discriminator, path: Path) -> None:
    images = pictures(found.config.resolution)
    # float32 against float64: some hundred products a sum and ten layers stay within 1e-5 of logits of magnitude one.
    torch.testing.assert_close(found(images).double(), Slow(path)(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "widths", "clamp"),
    [("sg2ada_32_uncond_torch171", (16, 32, 40, 40), None), ("sg3t_32_torch213", (16, 32, 32, 32), 256.0)],
)
def test_files_of_the_original_code_follow_the_formulas(
    name: str, widths: tuple[int, ...], clamp: float | None
) -> None:
    found = read_discriminator(DATA / f"{name}.pkl")
    assert found.config == DiscriminatorConfig(32, widths, conv_clamp=clamp)
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in found.parameters())
    assert_same_logits(found, DATA / f"{name}.pkl")


def test_clamp_and_group_size_come_from_the_file(written: Write, original: Discriminator) -> None:
    path = written()
    found = read_discriminator(path)
    assert found.config == original.config
    assert_same_logits(found, path)
    unbounded = Discriminator(DiscriminatorConfig(16, (5, 6, 7), mbstd_group=2))
    unbounded.load_state_dict(found.state_dict())
    assert ((found(pictures(16)) - unbounded(pictures(16))).abs() > 1e-2).all()  # the clamp has an effect here


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_weight_comes_back_bit_for_bit(written: Write, original: Discriminator, protocol: int) -> None:
    found = read_discriminator(written(protocol=protocol, package="fork.utils")).state_dict()
    for name, tensor in original.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_half_precision_files_become_float32(written: Write, original: Discriminator) -> None:
    found = read_discriminator(written(dtype=torch.float16)).state_dict()
    for name, tensor in original.state_dict().items():
        assert torch.equal(found[name], tensor.half().float()), name


def test_strides_and_frozen_layers_do_not_matter(written: Write, original: Discriminator) -> None:
    """Weights may be stored channels-last, and layers that were frozen keep theirs as buffers."""

    def change(document: dict[str, Any]) -> None:
        conv = document["D"].at("b16.conv0").state
        conv["_parameters"]["weight"] = nvidia_writer.channels_last(conv["_parameters"]["weight"])
        for name in ("weight", "bias"):
            conv["_buffers"][name] = conv["_parameters"].pop(name).detach()

    found = read_discriminator(written(change=change))
    assert torch.equal(found(pictures(16)), original(pictures(16)))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("path", "facts", "message"),
    [
        ("b8", {"architecture": "skip"}, "b8: architecture is 'skip', and only 'resnet' is read"),
        ("b4", {"architecture": "orig"}, "b4: architecture is 'orig'"),
        ("", {"c_dim": 3}, "c_dim is 3, and only 0 is read"),
        ("", {"img_channels": 1}, "img_channels is 1"),
        ("", {"img_resolution": 48}, "img_resolution is 48"),
        ("b16.fromrgb", {"activation": "relu"}, "b16.fromrgb: activation is 'relu'"),
        ("b16.conv0", {"weight_gain": 1.0}, "b16.conv0: weight_gain is 1.0"),
        ("b16.conv1", {"down": 1}, "b16.conv1: down is 1"),
        ("b8.conv1", {"conv_clamp": 9.0}, "conv_clamp is "),
        ("b8.skip", {"conv_clamp": 0.5}, "b8.skip: conv_clamp is 0.5"),
        ("b8.skip", {"act_gain": 2.0}, "b8.skip: act_gain is 2.0"),
        ("b4.conv", {"padding": 0}, "b4.conv: padding is 0"),
        ("b4.fc", {"bias_gain": 0.5}, "b4.fc: bias_gain is 0.5"),
        ("b4.out", {"activation": "lrelu"}, "b4.out: activation is 'lrelu'"),
        ("b4.mbstd", {"num_channels": 2}, "b4.mbstd: num_channels is 2"),
        ("b4.mbstd", {"group_size": None}, "b4.mbstd: group_size is not a number of images"),
    ],
)
def test_discriminators_that_compute_something_else_are_refused_by_name(
    written: Write, path: str, facts: dict[str, Any], message: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        record = document["D"].at(path) if path else document["D"]
        record.state.update(facts)

    with pytest.raises(UnknownFormatError, match=message) as caught:
        read_discriminator(written(change=change, keys=("D",)))
    assert "residual, unconditional RGB" in caught.value.remedy


def test_another_class_filter_or_no_deviation_is_refused(written: Write) -> None:
    def projected(document: dict[str, Any]) -> None:
        document["D"].class_name = "ProjectedDiscriminator"

    def boxed(document: dict[str, Any]) -> None:
        document["D"].at("b8.skip").state["_buffers"]["resample_filter"] = torch.ones(4, 4) / 16

    def alone(document: dict[str, Any]) -> None:
        document["D"].at("b4").state["_modules"]["mbstd"] = None

    for change, message in (
        (projected, "Projected"),
        (boxed, r"b8\.skip\.resample"),
        (alone, "no minibatch deviation"),
    ):
        with pytest.raises(UnknownFormatError, match=message):
            read_discriminator(written(change=change, keys=("D",)))


@pytest.mark.parametrize("keys", [("G_ema",), ("G", "G_ema", "augment_pipe")])
def test_a_file_without_a_discriminator_is_refused(written: Write, keys: tuple[str, ...]) -> None:
    with pytest.raises(UnknownFormatError, match="this file has no discriminator, which would be under D"):
        read_discriminator(written(keys=keys))


def test_tensors_that_do_not_fit_are_named_as_in_the_file(written: Write) -> None:
    def damaged(kind: str) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            parameters = document["D"].at("b8.conv0").state["_parameters"]
            if kind == "missing":
                del parameters["bias"]
            elif kind == "nan":
                parameters["bias"] = torch.full((6,), math.nan)
            else:
                parameters["extra"] = torch.ones(2)

        return change

    for kind, message in (
        ("missing", r"missing b8\.conv0\.bias \[6\]"),
        ("nan", r"b8\.conv0\.bias holds values that are not finite"),
        ("extra", r"unexpected b8\.conv0\.extra"),
    ):
        with pytest.raises(CorruptFileError, match=message):
            read_discriminator(written(change=damaged(kind), keys=("D",)))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    evil = a.call(a.name("os", "mkdir"), a.text(str(tmp_path / "made")))
    (tmp_path / "d.pkl").write_bytes(a.whole(a.mapped((a.text("D"), evil))))
    with pytest.raises(UnsafeFileError, match=r"os\.mkdir"):
        read_discriminator(tmp_path / "d.pkl")
    assert not (tmp_path / "made").exists()


@pytest.fixture(scope="module")
def small() -> bytes:
    network = Discriminator(DiscriminatorConfig(8, (2, 3)))
    return bytes(nvidia_writer.nvidia_pickle(small_files.stylegan2(), discriminator=network, keys=("D",)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_damaged_files_raise_nothing_but_our_errors(small: bytes, place: Path, seed: int) -> None:
    place.write_bytes(small_files.damaged(small, [small], Random(seed)))
    try:
        read_discriminator(place)
    except InputError as error:
        assert error.exit_code == 3 and str(place) in error.message
