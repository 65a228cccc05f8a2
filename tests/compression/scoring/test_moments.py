from __future__ import annotations

import pytest
import torch

from dcp_deploy.compression.layers import walk
from dcp_deploy.compression.scoring import moments
from dcp_deploy.compression.scoring.moments import direction_moments, readers_of
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream


def codes(generator: Generator, count: int = 5) -> torch.Tensor:
    z, c = draw_latents(generator.config, count, stream(3, "codes"))
    with torch.no_grad():
        return generator.mapping(z, c)


def moved(generator: Generator, count: int = 5) -> torch.Tensor:
    return torch.randn(count, generator.config.w_dim, generator=stream(4, "moves"))


def measured(generator: Generator, batch: int = 2) -> list[torch.Tensor]:
    ws, readers = codes(generator), readers_of(generator, 1.0, 0)
    return direction_moments(generator, readers, ws, moved(generator), batch=batch, source=stream(0, "positions"))


@torch.no_grad()
def test_moments_follow_the_definition(any_generator: Generator) -> None:
    """Latent by latent: the sums over positions of values and of changes, with the demodulation's variation in them."""
    generator, readers = any_generator, readers_of(any_generator, 1.0, 0)
    expected = [
        [torch.zeros(size, size, dtype=torch.float64) for size in (r.channels + 1, r.channels)] for r in readers
    ]
    for code, move in zip(codes(generator), moved(generator), strict=True):
        pairs = zip(walk(generator, code[None]), walk(generator, (code + move)[None]), strict=True)
        for reader, total, steps in zip(readers, expected, pairs, strict=True):
            inputs = []
            for step in steps:
                x = step.modulated()[0].flatten(1).double()
                x = torch.cat([x, torch.ones_like(x[:1])])
                if step.outputs is not None:
                    weight = step.layer.weight.double() * step.styles().double()[0][None, :, None, None]
                    d = (weight.square().sum(dim=(1, 2, 3)) + 1e-8).rsqrt()
                    x = x * (d / reader.levels).square().mean().sqrt()
                inputs.append(x)
            total[0] += inputs[0] @ inputs[0].T
            change = (inputs[1] - inputs[0])[:-1]
            total[1] += change @ change.T
    actual = measured(generator)
    for index, (reader, (values, change)) in enumerate(zip(readers, expected, strict=True)):
        rows = reader.weights.flatten(0, 1)
        torch.testing.assert_close(actual[2 * index], values, rtol=1e-4, atol=1e-5)  # features are float32
        torch.testing.assert_close(
            actual[2 * index + 1], change / (rows @ change @ rows.T).trace(), rtol=1e-3, atol=1e-6
        )


def test_the_moves_of_one_direction_cause_a_change_of_one(any_generator: Generator) -> None:
    for reader, change in zip(readers_of(any_generator, 1.0, 0), measured(any_generator)[1::2], strict=True):
        rows = reader.weights.flatten(0, 1)
        assert (rows @ change @ rows.T).trace().item() == pytest.approx(1.0, rel=1e-9)


def test_memory_may_be_saved_by_smaller_batches(teacher: Generator) -> None:
    for one, other in zip(measured(teacher, 1), measured(teacher, 5), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_large_images_count_at_a_part_of_their_positions(teacher: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "POSITIONS", 40)
    ends = [values[-1, -1].item() for values in measured(teacher)[::2]]  # a toRGB's count: latents times positions
    torgbs = [
        end for end, reader in zip(ends, readers_of(teacher, 1.0, 0), strict=True) if reader.place.outputs is None
    ]
    assert torgbs == [5 * 16, 5 * 40, 5 * 40]


def test_the_weights_of_a_convolution_are_as_long_as_its_demodulation_leaves_them(teacher: Generator) -> None:
    """So the response of unit inputs is about one, whatever scale the weights have."""
    before = readers_of(teacher, 1.0, 0)
    with torch.no_grad():
        for _, conv in teacher.synthesis.convs():
            conv.weight.mul_(torch.linspace(0.5, 20, len(conv.weight))[:, None, None, None])
    for one, other in zip(before, readers_of(teacher, 1.0, 0), strict=True):
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-5, atol=1e-7)


def test_folded_weights_have_the_gram_matrix_of_all_rows(teacher: Generator) -> None:
    for reader in readers_of(teacher, 1.0, 0):
        rows = reader.weights.flatten(0, 1)
        assert len(reader.folded) <= reader.channels
        torch.testing.assert_close(reader.folded.T @ reader.folded, rows.T @ rows)
