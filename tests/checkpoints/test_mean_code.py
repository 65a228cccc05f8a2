"""The estimated mean code is the mean over latents, and over classes if there are any."""

from __future__ import annotations

import torch

from dcp_deploy.checkpoints.fitting import mean_code
from dcp_deploy.generators import Generator, GeneratorConfig


def spread(a: torch.Tensor, b: torch.Tensor, codes: torch.Tensor) -> float:
    """Return the largest difference of two codes, in standard deviations of single codes."""
    return float(((a - b).abs() / codes.std(dim=0)).max())


def test_the_estimate_is_the_mean_of_codes_and_repeatable(tiny_generator: Generator) -> None:
    with torch.no_grad():
        codes = tiny_generator.mapping.w(torch.randn(20_000, 16))
    estimate = mean_code(tiny_generator)
    # Means of 10,000 and 20,000 draws differ by about 0.012; six times that is allowed.
    assert spread(estimate, codes.mean(dim=0), codes) < 0.075
    assert torch.equal(estimate, mean_code(tiny_generator))


def test_all_classes_count_the_same() -> None:
    config = GeneratorConfig(8, (2, 2, 2, 2), z_dim=4, w_dim=6, c_dim=3, mapping_layers=2, mapping_lr_multiplier=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator = Generator(config).requires_grad_(False)
        of_class = [
            generator.mapping.w(torch.randn(20_000, 4), torch.eye(3)[[label]].expand(20_000, 3)) for label in range(3)
        ]
    means = torch.stack([codes.mean(dim=0) for codes in of_class])
    assert spread(mean_code(generator), means.mean(dim=0), torch.cat(of_class)) < 0.075
    assert spread(means[0], means[1], torch.cat(of_class)) > 0.3  # otherwise the test would not notice a missing class
