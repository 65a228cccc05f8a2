"""Styles of all layers in one launch: on the host, on a GPU, and as an operator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dcp_deploy.kernels import operators, reference
from dcp_deploy.kernels.cuda import calls
from dcp_deploy.kernels.cuda.calls import Variant, modulation_call
from dcp_deploy.kernels.cuda.modulation import ModulationTables, layer_views, modulation_tables

Run = Callable[..., None]

# Inputs and outputs per layer: one channel, odd widths, no outputs, more of each than a block or a tile holds.
WIDTHS = {"small": ((1, 3, 8), (1, 5, 0)), "large": ((7, 600, 65, 64), (130, 70, 0, 64))}


def inputs_of(name: str, batch: int) -> tuple[ModulationTables, tuple[torch.Tensor, ...]]:
    random = torch.Generator().manual_seed(0)
    inputs, outputs = WIDTHS[name]
    layers = modulation_tables(inputs, outputs)
    styles = torch.randn(batch, sum(inputs), generator=random) * 10.0 ** torch.randint(
        -3, 5, (batch, 1), generator=random
    )
    energy = torch.rand(sum(i * o for i, o in zip(inputs, outputs, strict=True)), generator=random)
    return layers, (styles, energy, torch.rand(len(inputs), generator=random) * 1e-3)


@pytest.mark.parametrize("variant", ["fast", "naive"])
@pytest.mark.parametrize("batch", [0, 1, 4, 5])
@pytest.mark.parametrize("name", WIDTHS)
def test_the_kernel_is_the_reference(run: Run, name: str, batch: int, variant: Variant) -> None:
    layers, tensors = inputs_of(name, batch)
    sizes = layers.direction_size, layers.scale_size
    results = tuple(torch.full((batch * size,), -1.0) for size in sizes)
    run(modulation_call(*tensors, layers.layers, layers.blocks, *results, variant=variant), order=batch % 3)
    expected = reference.modulation(*tensors, layers.layers, layers.blocks, *sizes)
    for widths, result, wanted in zip(WIDTHS[name], results, expected, strict=True):
        pairs = zip(layer_views(result, batch, widths), layer_views(wanted, batch, widths), strict=True)
        for view, other in pairs:
            torch.testing.assert_close(view, other, rtol=1e-5, atol=0)  # sums of up to 600 positive numbers


def test_a_batch_beyond_the_grid_is_walked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_GRID_Y", 1)
    for variant in ("fast", "naive"):
        test_the_kernel_is_the_reference(run, "small", 9, variant)


def test_styles_that_are_all_zero_leave_finite_scales(run: Run) -> None:
    layers, (styles, energy, root_eps) = inputs_of("small", 2)
    results = torch.ones(2 * layers.direction_size), torch.ones(2 * layers.scale_size)
    run(modulation_call(styles * 0, energy, root_eps, layers.layers, layers.blocks, *results))
    views = layer_views(results[0], 2, WIDTHS["small"][0]), layer_views(results[1], 2, WIDTHS["small"][1])
    assert all(not view.any() for view in views[0])
    assert all(view.isfinite().all() for view in views[1])


def test_every_layer_is_a_dense_tensor_at_16_bytes() -> None:
    layers = modulation_tables((3, 5), (2, 0))
    views = layer_views(torch.arange(3.0 * layers.direction_size), 3, (3, 5))
    assert [view.shape for view in views] == [(3, 3), (3, 5)]
    assert all(view.is_contiguous() and view.data_ptr() % 16 == 0 for view in views)
    assert layers.layers.tolist() == [[3, 2, 0, 0, 0, 0], [5, 0, 3, 4, 4, 6]]
    assert layers.blocks.tolist() == [[0, 0], [1, 0]]


def test_torch_accepts_the_operator() -> None:
    layers, tensors = inputs_of("small", 3)
    arguments = (*tensors, layers.layers, layers.blocks, layers.direction_size, layers.scale_size)
    assert set(torch.library.opcheck(operators.modulation, arguments).values()) == {"SUCCESS"}


@pytest.mark.gpu
def test_on_a_gpu_the_operator_is_the_reference() -> None:
    layers, tensors = inputs_of("small", 3)
    sizes = layers.direction_size, layers.scale_size
    moved = [tensor.cuda() for tensor in (*tensors, layers.layers, layers.blocks)]
    results = operators.modulation(*moved, *sizes)
    expected = operators.modulation(*tensors, layers.layers, layers.blocks, *sizes)
    for widths, result, wanted in zip(WIDTHS["small"], results, expected, strict=True):
        for view, other in zip(layer_views(result.cpu(), 3, widths), layer_views(wanted, 3, widths), strict=True):
            torch.testing.assert_close(view, other, rtol=1e-5, atol=0)
