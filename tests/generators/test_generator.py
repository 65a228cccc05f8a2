"""Generators of both kinds against codes and images of the reference implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dcp_deploy.generators import Generator

# fp32 with sums in another order: the reference itself moves by 3e-6 between torch versions (images of magnitude 4).
IMAGE_TOLERANCE = 2e-5

GOLDEN = ["sg2ada_32", "sg2ada_32_cond_clamp", "sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"]


@pytest.fixture(scope="module", params=GOLDEN)
def reference(
    request: pytest.FixtureRequest, golden: Callable[[str], Any], golden_generator: Callable[[str], Generator]
) -> tuple[Generator, dict[str, Tensor]]:
    arrays = golden(request.param)
    return golden_generator(request.param), {k: torch.from_numpy(v) for k, v in arrays.items() if k != "config"}


def close(actual: Tensor, expected: Tensor, tolerance: float = IMAGE_TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@torch.no_grad()
def test_mapping_gives_the_reference_codes(reference: tuple[Generator, dict[str, Tensor]]) -> None:
    generator, data = reference
    z, c = data["z"].float(), data.get("c")
    close(generator.mapping(z, c), data["ws"])
    close(generator.mapping(z, c, psi=0.7)[:, 0], data["w_psi0.7"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("image", "psi", "cutoff"),
    [("img_const", 1.0, None), ("img_const_psi0.7", 0.7, None), ("img_const_psi0.7_cutoff3", 0.7, 3)],
)
def test_images_equal_the_reference(
    reference: tuple[Generator, dict[str, Tensor]], image: str, psi: float, cutoff: int | None
) -> None:
    generator, data = reference
    ws = generator.mapping(data["z"].float(), data.get("c"), psi=psi, cutoff=cutoff)
    close(generator.synthesis(ws), data[image])


@torch.no_grad()
def test_style_mixing_uses_every_slot_as_the_reference_does(reference: tuple[Generator, dict[str, Tensor]]) -> None:
    generator, data = reference
    close(generator.synthesis(data["ws_mix"]), data["img_const_ws_mix"])


@torch.no_grad()
def test_psi_per_sample_equals_one_number_for_all(tiny_generator: Generator) -> None:
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    psi = torch.tensor([0.0, 0.7, 1.0])
    together = tiny_generator.mapping(z, psi=psi)
    apart = torch.cat([tiny_generator.mapping(z[i : i + 1], psi=float(psi[i])) for i in range(3)])
    close(together, apart, 1e-6)
