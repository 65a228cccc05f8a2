"""The discriminator of a training file in rosinality's naming gives the logits of the formulas; others are refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcp_deploy.checkpoints import read_discriminator
from dcp_deploy.errors import CorruptFileError, UnknownFormatError
from dcp_deploy.generators.ops import fir_kernel

from .rosinality_writer import State, torch_bytes

WIDTHS = (5, 6, 7)  # at 16, 8 and 4 px


def training_state() -> State:
    """Return the d of a training file, with the names and shapes of its code and random values."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    state = {"convs.0.0.weight": drawn(WIDTHS[0], 3, 1, 1), "convs.0.1.bias": drawn(WIDTHS[0])}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(WIDTHS), start=1):
        state |= {
            f"convs.{i}.conv1.0.weight": drawn(fan_in, fan_in, 3, 3),
            f"convs.{i}.conv1.1.bias": drawn(fan_in),
            f"convs.{i}.conv2.0.kernel": fir_kernel(),
            f"convs.{i}.conv2.1.weight": drawn(fan_out, fan_in, 3, 3),
            f"convs.{i}.conv2.2.bias": drawn(fan_out),
            f"convs.{i}.skip.0.kernel": fir_kernel(),
            f"convs.{i}.skip.1.weight": drawn(fan_out, fan_in, 1, 1),
        }
    last = WIDTHS[-1]
    state |= {"final_conv.0.weight": drawn(last, last + 1, 3, 3), "final_conv.1.bias": drawn(last)}
    state |= {"final_linear.0.weight": drawn(last, 16 * last), "final_linear.0.bias": drawn(last)}
    return state | {"final_linear.1.weight": drawn(1, last), "final_linear.1.bias": drawn(1)}


def written(path: Path, value: object) -> Path:
    path.write_bytes(torch_bytes(value))
    return path


def logits(state: State, x: Tensor) -> Tensor:
    """Compute Karras et al. 2020, StyleGAN2, figure 7c and section 4, step by step, under the file's names."""

    def scaled(name: str) -> Tensor:
        return state[name] / math.sqrt(state[name][0].numel())

    def active(x: Tensor, bias: str) -> Tensor:
        shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
        return math.sqrt(2) * F.leaky_relu(x + state[bias].reshape(shape), 0.2)

    def halved(x: Tensor, name: str, pad: int) -> Tensor:
        channels = x.shape[1]
        blurred = F.conv2d(F.pad(x, (pad,) * 4), fir_kernel().expand(channels, 1, 4, 4), groups=channels)
        return F.conv2d(blurred, scaled(name), stride=2)

    x = active(F.conv2d(x, scaled("convs.0.0.weight")), "convs.0.1.bias")
    for i in range(1, len(WIDTHS)):
        inner = active(F.conv2d(x, scaled(f"convs.{i}.conv1.0.weight"), padding=1), f"convs.{i}.conv1.1.bias")
        inner = active(halved(inner, f"convs.{i}.conv2.1.weight", 2), f"convs.{i}.conv2.2.bias")
        x = (inner + halved(x, f"convs.{i}.skip.1.weight", 1)) / math.sqrt(2)
    spread = torch.sqrt(x.var(dim=0, unbiased=False) + 1e-8).mean()  # four images: one group
    x = torch.cat([x, spread.expand(len(x), 1, 4, 4)], dim=1)
    x = active(F.conv2d(x, scaled("final_conv.0.weight"), padding=1), "final_conv.1.bias").flatten(1)
    x = active(x @ scaled("final_linear.0.weight").T, "final_linear.0.bias")
    return (x @ scaled("final_linear.1.weight").T + state["final_linear.1.bias"])[:, 0]


def test_the_logits_follow_from_the_tensors_of_the_file(tmp_path: Path) -> None:
    state = training_state()
    found = read_discriminator(written(tmp_path / "550000.pt", {"g": {}, "d": state, "g_ema": {}}))
    assert (found.config.resolution, found.config.widths, found.config.c_dim) == (16, WIDTHS, 0)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found(images), logits(state, images), rtol=1e-4, atol=1e-4)  # float32 sums
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_files_without_a_discriminator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="this file has no discriminator"):
        read_discriminator(written(tmp_path / "a.pt", {"g_ema": training_state()}))
    (tmp_path / "b.txt").write_bytes(b"neither a pickle nor a file of torch")
    with pytest.raises(UnknownFormatError, match="this format has no readable discriminator"):
        read_discriminator(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"convs.1.skip.0.kernel": torch.ones(4, 4) / 16}, UnknownFormatError, "another low-pass filter"),
        ({"convs.0.0.weight": torch.ones(5)}, CorruptFileError, "is missing, or not the weight"),
        ({"final_conv.1.bias": torch.ones(3)}, CorruptFileError, "the tensors do not fit"),
        ({"extra": torch.ones(3)}, CorruptFileError, "unexpected extra"),
        ({"final_conv.1.bias": torch.full((7,), math.nan)}, CorruptFileError, "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, change: State, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_discriminator(written(tmp_path / "d.pt", {"d": training_state() | change}))
