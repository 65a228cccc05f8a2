"""The tiled filtered leaky ReLU against the readable network's up-sampling, leaky ReLU and down-sampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.export.fused.filtered_lrelu import TiledLeakyReLU, separable_terms
from dcp_deploy.generators import GeneratorConfig, LayerSpec, layer_specs
from dcp_deploy.generators.ops import downsample2d, upsample2d
from dcp_deploy.generators.schedule import lowpass


def specs(variant: str, resolution: int = 256) -> list[LayerSpec]:
    layout = GeneratorConfig.stylegan3(resolution, variant).layout  # type: ignore[arg-type]
    assert layout is not None
    return layer_specs(resolution, layout)


def readable(
    x: torch.Tensor, spec: LayerSpec, up_filter: torch.Tensor, down_filter: torch.Tensor, clamp: float | None
) -> torch.Tensor:
    """Compute the layer in float64."""
    y = torch.nn.functional.leaky_relu(upsample2d(x.double(), up_filter, spec.up, spec.padding), 0.2)
    return downsample2d(y if clamp is None else y.clamp(-clamp, clamp), down_filter, spec.down)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 40),
    out=st.integers(1, 70),
    up=st.integers(1, 4),
    down=st.integers(1, 4),
    taps=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    square=st.booleans(),
    clamp=st.sampled_from([None, 0.5]),
    seed=st.integers(0, 1000),
)
def test_tiles_are_the_filtered_leaky_relu(
    size: int, out: int, up: int, down: int, taps: tuple[int, int], square: bool, clamp: float | None, seed: int
) -> None:
    """Any factors, lengths, crops and sizes. The filters are random, so that no symmetry hides a mirrored filter."""
    random = torch.Generator().manual_seed(seed)
    total = (out - 1) * down + 1 - size * up + sum(taps) - 2
    before = (total + up) // 2
    spec = replace(
        specs("r")[0], in_size=size, kernel=1, out_size=out, up=up, down=down, padding=(before, total - before)
    )
    up_filter = torch.randn(taps[0], dtype=torch.float64, generator=random)
    down_filter = torch.randn((taps[1], taps[1]) if square else (taps[1],), dtype=torch.float64, generator=random)
    x = torch.randn(2, 3, size, size, generator=random)
    expected = readable(x, spec, up_filter, down_filter, clamp)
    result = TiledLeakyReLU(spec, up_filter, down_filter, clamp)(x)
    # float32 sums of up to 9^2 products a pass.
    assert (result - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(("variant", "layer"), [("t", 3), ("t", 12), ("t", 13), ("r", 10)])
def test_layers_of_the_published_size(variant: str, layer: int) -> None:
    spec = specs(variant)[layer]
    up_filter = torch.from_numpy(lowpass(spec.up_taps, spec.in_cutoff, spec.in_half_width, spec.tmp_rate))
    down_filter = torch.from_numpy(
        lowpass(spec.down_taps, spec.out_cutoff, spec.out_half_width, spec.tmp_rate, radial=spec.radial)
    )
    side = spec.in_size + spec.kernel - 1
    x = 3 * torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(0))
    expected = readable(x, spec, up_filter, down_filter, 2.0)
    result = TiledLeakyReLU(spec, up_filter, down_filter, 2.0)(x)
    assert result.shape == (1, 2, spec.out_size, spec.out_size)
    assert (result - expected).abs().max() < 3e-6  # a few roundings of numbers up to 2


@pytest.mark.parametrize("layer", range(12))
def test_a_radial_filter_is_a_sum_of_at_most_five_separable_ones(layer: int) -> None:
    spec = specs("r")[layer]
    taps = torch.from_numpy(
        lowpass(spec.down_taps, spec.out_cutoff, spec.out_half_width, spec.tmp_rate, radial=True)
    ).float()  # as files store it, with the rounding's noise of full rank
    columns, rows = separable_terms(taps.double())
    assert len(columns) <= 5
    error = (columns.T @ rows - taps.double()).abs().max()
    assert error < 2.0**-24 * taps.max()


def test_an_outer_product_is_one_separable_filter() -> None:
    taps = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns, rows = separable_terms(torch.outer(taps, taps.flip(0)))
    assert columns.shape == rows.shape == (1, 6)
    torch.testing.assert_close(columns.T @ rows, torch.outer(taps, taps.flip(0)), atol=1e-12, rtol=0)
