from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from dcp_deploy.errors import UsageError
from dcp_deploy.export import FusedGenerator, Runner, tolerance_for, verify
from dcp_deploy.export.onnx.precision import (
    MARGIN,
    LayerRange,
    RangeTable,
    choose_storage,
    convolutions,
    islands,
    measure_ranges,
)
from dcp_deploy.generators import Generator

from ..conftest import random_generator

WIDTHS = (8, 8, 8, 8, 8, 8)  # 16 px
LAYERS = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator(WIDTHS)


@pytest.fixture(scope="module")
def table(generator: Generator) -> RangeTable:
    return measure_ranges(generator, latents=4)


@pytest.fixture(scope="module")
def overflowing() -> Generator:
    """One channel of b8.conv1 is about 1e5 sqrt(2), beyond float16, and hardly affects later layers."""
    network = random_generator(WIDTHS)
    block = network.synthesis.get_submodule("b8")
    block.conv1.bias[3] = 1e5
    block.torgb.weight[:, 3] = 0
    network.synthesis.get_submodule("b16.conv0").weight[:, 3] *= 1e-5
    return network


@pytest.fixture(scope="module")
def overflowing_table(overflowing: Generator) -> RangeTable:
    return measure_ranges(overflowing, latents=4)


def row(table: RangeTable, layer: str) -> LayerRange:
    return next(row for row in table.layers if row.layer == layer)


def stored(generator: Generator, storage: dict[str, torch.dtype]) -> Runner:
    """Return the fused generator with these types as a runner for the gate."""
    fused = FusedGenerator(generator, storage=storage)

    def draw(z: np.ndarray, psi: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            return fused(torch.from_numpy(z), torch.from_numpy(psi)).numpy()

    config = generator.config
    return Runner("stored", "fused", config.z_dim, config.c_dim, config.image_size, "float", draw)


def all_in(kind: torch.dtype) -> dict[str, torch.dtype]:
    return dict.fromkeys(LAYERS, kind)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_convolutions_of_torch_sum_in_float32(kind: torch.dtype) -> None:
    # One 16 and 4094 times 2^-6: summed in the half type, the small ones would all be lost beside the large one.
    x = torch.full((1, 455, 3, 3), 2.0**-6, dtype=kind)
    x[0, 0, 0, 0] = 16.0
    y = torch.nn.functional.conv2d(x, torch.ones(4, 455, 3, 3, dtype=kind))
    assert y.flatten().tolist() == [80.0] * 4  # 16 + 4094 / 64 = 79.97, to 8 or 11 bits


def test_table_names_every_convolution_in_order(table: RangeTable) -> None:
    assert [row.layer for row in table.layers] == LAYERS


def test_maxima_are_those_of_the_layer(generator: Generator, table: RangeTable) -> None:
    fused = FusedGenerator(generator)
    module = convolutions(fused)["b4.conv1"]
    seen: list[tuple[float, float, float]] = []

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        y = torch.nn.functional.conv2d(args[0], module.weight, padding=1)
        seen.append((float(args[0].abs().max()), float(y.abs().max()), float(result.abs().max())))

    module.register_forward_hook(hook)
    for index in range(4):
        z = np.random.RandomState(table.seed + index).randn(1, generator.config.z_dim).astype(np.float32)
        for psi in table.psis:
            fused(torch.from_numpy(z), torch.tensor([psi]))
    measured = row(table, "b4.conv1")
    # The batch changes the order of summation.
    assert np.max(seen, axis=0) == pytest.approx([measured.input, measured.output, measured.result], rel=1e-5)


def test_one_layer_in_half_precision_moves_by_its_roundings(table: RangeTable) -> None:
    for entry in table.layers:
        assert 2**-14 < entry.fp16 < 2**-10  # a unit rounding is 2^-11
        assert 2**-11 < entry.bf16 < 2**-7  # 2^-8


def test_the_table_can_be_read_back_from_json(table: RangeTable) -> None:
    broken = dataclasses.replace(table.layers[0], fp16=math.inf)
    odd = dataclasses.replace(table, layers=(broken, *table.layers[1:]))
    assert RangeTable.from_dict(json.loads(json.dumps(odd.to_dict(), allow_nan=False))) == odd


def test_table_reads(table: RangeTable) -> None:
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "input", "output", "result", "fp16", "bf16"]
    assert [line.split()[0] for line in lines[1:-1]] == LAYERS
    assert "4 latents, psi 0.5, 0.7, 1" in lines[-1]


def test_ordinary_network_needs_no_island_in_float16(table: RangeTable) -> None:
    assert islands(table, "fp16") == {}
    assert choose_storage(table, "fp16") == all_in(torch.float16)


def test_ordinary_network_needs_no_island_in_bfloat16(table: RangeTable) -> None:
    assert islands(table, "bf16") == {}
    assert choose_storage(table, "bf16") == all_in(torch.bfloat16)


def test_layer_beyond_the_margin_becomes_an_island(table: RangeTable) -> None:
    limit = 65504 / MARGIN
    for what in ("input", "output", "result"):
        for value, expected in ((limit * 0.999, set()), (limit, {"b8.conv1"})):
            rows = [dataclasses.replace(r, **{what: value}) if r.layer == "b8.conv1" else r for r in table.layers]
            assert set(islands(dataclasses.replace(table, layers=tuple(rows)), "fp16")) == expected


def test_overflowing_layer_and_its_reader_are_islands(overflowing_table: RangeTable) -> None:
    assert row(overflowing_table, "b8.conv1").result == pytest.approx(1e5 * math.sqrt(2), rel=1e-3)
    reasons = islands(overflowing_table, "fp16")
    assert list(reasons) == ["b8.conv1", "b16.conv0"]
    assert "1.41e+05" in reasons["b8.conv1"]


def test_overflow_passes_with_islands_and_is_caught_without(
    overflowing: Generator, overflowing_table: RangeTable
) -> None:
    reference, tolerance = stored(overflowing, all_in(torch.float32)), tolerance_for("fp16")
    safe = stored(overflowing, choose_storage(overflowing_table, "fp16"))
    assert verify(reference, safe, latents=4, tolerance=tolerance).passed
    forced = verify(reference, stored(overflowing, all_in(torch.float16)), latents=4, tolerance=tolerance)
    assert not forced.passed
    assert any("NaN or infinite" in check.detail for check in forced.checks if not check.passed)


def test_features_too_small_for_float16_are_islands() -> None:
    network = random_generator(WIDTHS)
    for name, tensor in network.synthesis.state_dict().items():
        if name.startswith("b4.") and name.endswith(("const", "conv1.bias", "noise_strength")):
            tensor *= 1e-7  # demodulation keeps small features small; noise and bias of b8 make them large again
    tiny = measure_ranges(network, latents=2)
    assert row(tiny, "b4.conv1").largest < 1e-5
    assert list(islands(tiny, "fp16")) == ["b4.conv1"]
    assert "changes by" in islands(tiny, "fp16")["b4.conv1"]
    assert "b4.conv1" not in islands(tiny, "bf16")  # which has 8 bits of any size


def test_styles_of_ten_thousand_stay_within_float16() -> None:
    network = random_generator(WIDTHS, scale=1e4)
    styles = FusedGenerator(network)
    z = torch.randn(8, network.config.z_dim, generator=torch.Generator().manual_seed(0))
    largest = max(float(style.abs().max()) for style in styles.styles(styles.mapping(z), torch.ones(8)))
    assert largest > 1e4
    table = measure_ranges(network, latents=4)
    assert islands(table, "fp16") == {}
    half = stored(network, choose_storage(table, "fp16"))
    report = verify(stored(network, all_in(torch.float32)), half, latents=8, tolerance=tolerance_for("fp16"))
    assert report.passed, report.checks


def test_nothing_drawn_is_refused(generator: Generator) -> None:
    with pytest.raises(UsageError, match="latents 0"):
        measure_ranges(generator, latents=0)


def test_precision_without_a_half_type_is_refused(table: RangeTable) -> None:
    with pytest.raises(UsageError, match="'fp32'"):
        islands(table, "fp32")  # type: ignore[arg-type]


def test_the_columns_of_the_table_are_explained_below_it(table: RangeTable) -> None:
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "input", "output", "result", "fp16", "bf16"]
    assert lines[-1] == (
        "input, output, result: largest absolute values. fp16, bf16: change of the result if this layer alone is "
        "rounded (4 latents, psi 0.5, 0.7, 1)"
    )
