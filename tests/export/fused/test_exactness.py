"""The fused generator against the readable one, layer by layer, in every configuration of the golden files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy import load_generator
from dcp_deploy.errors import UsageError
from dcp_deploy.export import FusedGenerator, FusedSynthesis, load_runner
from dcp_deploy.export.fused.generator import noise_shapes
from dcp_deploy.export.fused.stylegan2 import Upsample, normalise
from dcp_deploy.export.parity.layer_values import layer_values
from dcp_deploy.generators import Generator

from ..conftest import random_generator, random_stylegan3

STYLEGAN2 = ["sg2ada_32", "sg2ada_32_cond_clamp", "rosinality_32", "rosinality_pruned_32"]
STYLEGAN3 = ["sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"]
PSIS = (0.0, 0.5, 0.7, 1.0, 1.3)
# Of the largest value of a layer, if that is above 1: float32, sums of up to 500 products in two orders.
TOLERANCE = 1e-5
FORMS: tuple[Upsample, ...] = ("transposed", "polyphase")

CASES = [(name, form) for name in STYLEGAN2 for form in FORMS] + [(name, FORMS[0]) for name in STYLEGAN3]


@pytest.fixture(scope="module")
def readable(
    request: pytest.FixtureRequest,
    golden: Callable[[str], Mapping[str, np.ndarray]],
    golden_generator: Callable[[str], Generator],
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator:
    if not request.param.startswith("rosinality"):
        return golden_generator(request.param)
    arrays = golden(request.param)
    weights = {key[3:]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith("sd/")}
    path = tmp_path_factory.mktemp("golden") / f"{request.param}.pt"
    torch.save({"g_ema": weights, "latent_avg": torch.from_numpy(arrays["latent_avg"])}, path)
    return load_generator(path).requires_grad_(False)


def inputs(generator: Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    config = generator.config
    z = torch.randn(batch, config.z_dim, generator=torch.Generator().manual_seed(batch))
    return z, torch.eye(config.c_dim)[torch.arange(batch) % config.c_dim] if config.c_dim else None


def distance(value: torch.Tensor | np.ndarray, expected: torch.Tensor | np.ndarray) -> float:
    """Return the largest difference, relative to the largest value if that is above 1."""
    return float(abs(value - expected).max() / max(1.0, float(abs(expected).max())))


def farthest_layer(generator: Generator, fused: FusedGenerator, psis: Sequence[float]) -> tuple[float, str]:
    """Return the largest distance over all layers and the image, and its layer; one image for each psi."""
    z, c = inputs(generator, len(psis))
    arrays = z.numpy(), np.array(psis, np.float32), None if c is None else c.numpy()
    runner = load_runner(generator)
    expected = layer_values(runner, *arrays)
    found = layer_values(dataclasses.replace(runner, source=fused), *arrays)
    assert list(found) == list(expected)
    distances = []
    for name, value in found.items():
        wanted = torch.from_numpy(expected[name].values)
        if value.styled:  # conv0 has multiplied by the styles of conv1
            styles = torch.from_numpy(expected[f"styles.{name.replace('conv0', 'conv1')}"].values)
            wanted = normalise(styles).scaling(wanted)
        distances.append((distance(torch.from_numpy(value.values), wanted), name))
    return max(distances)


@pytest.mark.parametrize(("readable", "form"), CASES, indirect=["readable"])
def test_every_layer_and_the_image_are_those_of_the_readable_generator(readable: Generator, form: Upsample) -> None:
    fused = FusedGenerator(readable, upsample=form)
    assert farthest_layer(readable, fused, PSIS) < (TOLERANCE, "")  # a batch of five
    for psi in PSIS:
        assert farthest_layer(readable, fused, [psi]) < (TOLERANCE, ""), psi


@pytest.mark.parametrize("readable", [*STYLEGAN2, *STYLEGAN3], indirect=True)
def test_synthesis_draws_mixed_codes(readable: Generator) -> None:
    config = readable.config
    ws = torch.randn(3, config.num_ws, config.w_dim, generator=torch.Generator().manual_seed(0))
    assert distance(FusedSynthesis(readable)(ws), readable.synthesis(ws)) < TOLERANCE


def test_given_noise_takes_the_place_of_the_stored_maps() -> None:
    generator = random_generator((6, 5, 4, 3), c_dim=2)
    z, c = inputs(generator, 3)
    shapes = noise_shapes(generator.config)
    random = torch.Generator().manual_seed(0)
    noise = {layer: torch.randn(3, 1, *shape, generator=random) for layer, shape in shapes.items()}
    drawn = FusedGenerator(generator, noise="input")(z, torch.ones(3), c, noise)
    for row in range(3):
        for layer, values in noise.items():
            generator.synthesis.get_buffer(f"{layer}.noise_const").copy_(values[row, 0])
        alone = generator(z[row : row + 1], None if c is None else c[row : row + 1])
        assert distance(drawn[row], alone[0]) < TOLERANCE


def test_a_generator_that_takes_noise_wants_it() -> None:
    generator = random_generator((4, 3))
    with pytest.raises(ValueError, match="takes its noise as an input"):
        FusedGenerator(generator, noise="input")(torch.zeros(1, 12), torch.ones(1))


@settings(max_examples=30, deadline=None)
@given(
    widths=st.integers(1, 4).flatmap(lambda n: st.lists(st.integers(1, 20), min_size=2 * n, max_size=2 * n)),
    scale=st.floats(-4, 4).map(lambda exponent: 10.0**exponent),
    batch=st.integers(1, 5),
    psi=st.sampled_from(PSIS),
    clamp=st.sampled_from([None, 0.7]),
    form=st.sampled_from(FORMS),
)
def test_any_widths_batch_and_styles_in_either_form(
    widths: list[int], scale: float, batch: int, psi: float, clamp: float | None, form: Upsample
) -> None:
    generator = random_generator(tuple(widths), seed=sum(widths), scale=scale, conv_clamp=clamp)
    fused = FusedGenerator(generator, upsample=form)
    assert farthest_layer(generator, fused, [psi] * batch) < (TOLERANCE, "")


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(-4, 4).map(lambda exponent: 10.0**exponent), batch=st.integers(1, 3))
def test_stylegan3_synthesis_with_styles_of_any_size(scale: float, batch: int) -> None:
    generator = random_stylegan3((4, 3, 5, 2, 3), scale=scale)
    z, _ = inputs(generator, batch)
    ws = generator.mapping(z)
    assert distance(FusedSynthesis(generator)(ws), generator.synthesis(ws)) < TOLERANCE


def test_layers_that_do_not_exist_are_named() -> None:
    generator = random_generator((4, 3, 5, 2))
    with pytest.raises(UsageError, match=r"storage names b4\.torgb"):
        FusedGenerator(generator, storage={"b4.torgb": torch.float16})
