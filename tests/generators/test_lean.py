"""The lean synthesis against the readable one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN2Synthesis
from dcp_deploy.generators.lean import lean_images


def network(*, clamp: float | None = None, base: tuple[int, int] = (4, 4), last: bool = True) -> StyleGAN2Synthesis:
    torch.manual_seed(0)
    config = GeneratorConfig(
        32, (9, 8, 7, 6, 5, 8, 4, 3), z_dim=12, w_dim=16, mapping_layers=2, conv_clamp=clamp, base=base
    )
    synthesis = Generator(config).eval().synthesis
    assert isinstance(synthesis, StyleGAN2Synthesis)
    for name, parameter in synthesis.named_parameters():
        if name.endswith(("noise_strength", "bias")) and "affine" not in name:
            torch.nn.init.normal_(parameter, 0.2, 0.3)
    if last:
        synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return synthesis.requires_grad_(False)


def codes(synthesis: StyleGAN2Synthesis, batch: int = 3) -> Tensor:
    return torch.randn(batch, synthesis.config.num_ws, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"clamp": 0.6}, {"base": (4, 6)}, {"last": False}])
def test_images_are_those_of_the_readable_network(options: dict[str, object]) -> None:
    synthesis = network(**options)  # type: ignore[arg-type]
    ws = codes(synthesis)
    before = {name: value.clone() for name, value in synthesis.state_dict().items()}
    expected = synthesis(ws)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            torch.testing.assert_close(lean_images(synthesis, ws), expected, rtol=0, atol=2e-5)
    assert all(torch.equal(value, before[name]) for name, value in synthesis.state_dict().items())


def test_gradients_are_those_of_the_readable_network() -> None:
    synthesis = network().requires_grad_(True)
    ws = codes(synthesis).requires_grad_(True)
    weights = [*synthesis.parameters(), ws]
    pull = torch.randn(3, 3, 32, 32)
    expected = torch.autograd.grad(synthesis(ws), weights, pull)
    for actual, wanted in zip(torch.autograd.grad(lean_images(synthesis, ws), weights, pull), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_codes_of_another_size_are_refused() -> None:
    synthesis = network()
    with pytest.raises(ValueError):
        lean_images(synthesis, codes(synthesis)[:, :-1])
