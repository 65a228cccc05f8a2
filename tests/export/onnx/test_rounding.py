"""The integers of int8 kernels against the definition of GPTQ, one least-squares problem after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.export.fused.generator import FusedGenerator
from dcp_deploy.export.onnx.precision import convolutions, measure_ranges
from dcp_deploy.export.onnx.rounding import DAMPING, IntegerKernel, round_kernel
from dcp_deploy.export.runners.runner import latents_of
from dcp_deploy.generators import Generator

from ..conftest import integer_kernels, random_generator

CONV1 = ["b4.conv1", "b8.conv1", "b16.conv1"]


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator((8, 8, 8, 8, 8, 8))


def problem(seed: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight [4, inputs, 3, 3] and the second moments of fewer windows than it has columns."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, inputs, 3, 3, generator=draw)
    columns = weight[0].numel()
    windows = torch.randn(columns, columns // 2, generator=draw, dtype=torch.float64)
    return weight, windows @ windows.T / windows.shape[1]


def restored(kernel: IntegerKernel) -> torch.Tensor:
    return torch.from_numpy(kernel.integers).double() * torch.from_numpy(kernel.steps).double()[:, None, None, None]


def nearest(weight: torch.Tensor) -> IntegerKernel:
    steps = weight.abs().amax(dim=(1, 2, 3)) / 127
    return IntegerKernel((weight / steps[:, None, None, None]).round().numpy(), steps.numpy())


def moved(weight: torch.Tensor, kernel: IntegerKernel, moments: torch.Tensor) -> float:
    """Return the mean square change of the outputs: tr(E H E')."""
    error = (weight.double() - restored(kernel)).flatten(1)
    return float((error @ moments * error).sum())


def one_column_after_the_other(weight: torch.Tensor, moments: torch.Tensor) -> np.ndarray:
    """Round by the definition: after each column, solve for the remaining ones. Slow."""
    flat = weight.double().flatten(1)
    steps = (flat.abs().amax(dim=1) / 127).float().double()
    moments = moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    integers = torch.zeros_like(flat)
    left = flat.clone()
    order = moments.diagonal().argsort(descending=True, stable=True)
    for done, column in enumerate(order, start=1):
        integers[:, column] = (left[:, column] / steps).round().clamp(-127, 127)
        error = left[:, column] - integers[:, column] * steps
        rest = order[done:]
        # Least squares: the change of the rest that makes up for the error of this column.
        left[:, rest] += error[:, None] * torch.linalg.solve(moments[rest][:, rest], moments[rest, column])
    return integers.reshape(weight.shape).numpy()


@given(seed=st.integers(0, 1000), inputs=st.integers(1, 4))
def test_integers_are_those_of_the_definition(seed: int, inputs: int) -> None:
    weight, moments = problem(seed, inputs)
    # Two ways of summing float64: a weight within 1e-9 of the middle between two integers is not to be expected.
    assert np.array_equal(round_kernel(weight, moments).integers, one_column_after_the_other(weight, moments))


def test_many_columns_are_taken_in_blocks() -> None:
    weight, moments = problem(0, inputs=33)  # 297 columns, three blocks
    assert np.array_equal(round_kernel(weight, moments).integers, one_column_after_the_other(weight, moments))


def test_outputs_move_less_than_with_the_nearest_integers() -> None:
    weight, moments = problem(1, inputs=16)
    assert moved(weight, round_kernel(weight, moments), moments) < 0.5 * moved(weight, nearest(weight), moments)


@pytest.mark.parametrize("moments", [torch.eye(18), torch.zeros(18, 18), torch.full((18, 18), torch.inf)])
def test_moments_that_say_nothing_give_the_nearest_integers(moments: torch.Tensor) -> None:
    weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(round_kernel(weight, moments.double()).integers, nearest(weight).integers)


def test_a_channel_of_zeros_stays_zero_at_any_step() -> None:
    weight, moments = problem(2, inputs=2)
    weight[1] = 0
    kernel = round_kernel(weight, moments)
    assert not kernel.integers[1].any()
    assert kernel.steps[1] == 1


def test_steps_are_a_127th_of_each_channels_largest_weight() -> None:
    weight, moments = problem(3, inputs=2)
    kernel = round_kernel(weight, moments)
    assert kernel.integers.dtype == np.int8
    assert kernel.steps == pytest.approx(weight.abs().amax(dim=(1, 2, 3)).numpy() / 127)
    assert np.abs(kernel.integers).max() <= 127


def test_layers_are_those_with_an_ordinary_convolution(generator: Generator) -> None:
    ranges = measure_ranges(generator, latents=1)
    assert list(integer_kernels(generator, ranges)) == CONV1
    polyphase = integer_kernels(generator, ranges, upsample="polyphase")
    assert list(polyphase) == ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    assert polyphase["b8.conv0"].integers.shape == (32, 8, 3, 3)


def weights_and_windows(generator: Generator, seeds: Sequence[int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return weight and all windows [K, P] of every conv1, for images at psi 1."""
    fused = FusedGenerator(generator)
    layers = convolutions(fused)
    inputs: dict[str, torch.Tensor] = {}
    for layer in CONV1:
        layers[layer].register_forward_hook(lambda module, args, out, layer=layer: inputs.update({layer: args[0]}))
    fused(torch.from_numpy(latents_of(seeds, 12)), torch.ones(len(seeds)))
    return {
        layer: (layers[layer].get_buffer("weight"), F.unfold(x.double(), 3, padding=1).transpose(0, 1).flatten(1))
        for layer, x in inputs.items()
    }


def test_moments_are_those_of_the_layers_own_inputs(generator: Generator) -> None:
    kernels = integer_kernels(generator, measure_ranges(generator, latents=3, psis=(1.0,), seed=5))
    for layer, (weight, windows) in weights_and_windows(generator, [5, 6, 7]).items():
        expected = round_kernel(weight, windows @ windows.T / windows.shape[1])
        # float32 sums of the images' products: an integer may fall to the other side, and few others follow it.
        assert (kernels[layer].integers != expected.integers).mean() < 0.01


def test_images_that_were_not_looked_at_move_less_too(generator: Generator) -> None:
    kernels = integer_kernels(generator, measure_ranges(generator))
    for layer, (weight, windows) in weights_and_windows(generator, range(16)).items():
        moments = windows @ windows.T / windows.shape[1]
        assert moved(weight, kernels[layer], moments) < 0.6 * moved(weight, nearest(weight), moments)


@pytest.mark.gpu
def test_a_generator_on_a_gpu_gets_the_same_integers() -> None:
    on_cpu, on_gpu = random_generator((8, 8, 8, 8, 8, 8)), random_generator((8, 8, 8, 8, 8, 8)).to("cuda")
    ranges = measure_ranges(on_cpu)
    expected, found = integer_kernels(on_cpu, ranges), integer_kernels(on_gpu, ranges)
    assert list(found) == CONV1
    for layer in CONV1:  # another order of summation: an integer may fall to the other side
        assert (found[layer].integers != expected[layer].integers).mean() < 0.01
