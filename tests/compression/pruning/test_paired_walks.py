from __future__ import annotations

import pytest
import torch

from dcp_deploy.compression import ChannelScores, plan, prune
from dcp_deploy.compression.layers import layer_count, nth_step
from dcp_deploy.compression.pruning import paired_walks
from dcp_deploy.compression.pruning.paired_walks import PairedWalks
from dcp_deploy.generators import Generator
from dcp_deploy.generators.latents import draw_latents, stream


def codes(generator: Generator, count: int) -> torch.Tensor:
    z, c = draw_latents(generator.config, count, stream(0, "codes"))
    with torch.no_grad():
        return generator.mapping(z, c)


@pytest.mark.parametrize("memory", [0.0, 4000.0, 1e9])
@torch.no_grad()
def test_layers_are_those_of_a_fresh_walk(
    any_generator: Generator, monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    """Also if the one before changed meanwhile, if some are left out, and if features do not fit."""
    monkeypatch.setattr(paired_walks, "MEMORY", memory)
    ws = codes(any_generator, 6)
    walks = PairedWalks(any_generator, any_generator, ws)
    for index in (0, 1, 1, 3, layer_count(any_generator) - 1):
        found = list(walks.at(index))
        assert len(found) == 2
        for pair, part in zip(found, ws.split(4), strict=True):
            fresh = nth_step(any_generator, part, index)
            for step in pair:
                assert step.layer is fresh.layer and torch.equal(step.x, fresh.x)
                assert torch.equal(torch.as_tensor(step.image), torch.as_tensor(fresh.image))
        fresh.layer.bias += 0.1


@torch.no_grad()
def test_a_layer_is_computed_once_for_every_code(teacher: Generator) -> None:
    calls: list[int] = []
    teacher.synthesis.convs()[0][1].register_forward_hook(lambda layer, inputs, output: calls.append(len(output)))
    walks = PairedWalks(teacher, teacher, codes(teacher, 6))
    for index in range(layer_count(teacher)):
        for _ in walks.at(index):
            pass
    assert calls == [4, 4, 2, 2]  # two parts of both networks


@pytest.mark.parametrize("memory", [0.0, 20_000.0])
def test_memory_does_not_change_a_reconstruction(
    any_generator: Generator, monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    source = stream(0, "plan")
    layers = tuple(torch.rand(width, generator=source, dtype=torch.float64) for width in any_generator.widths)
    planned = plan(any_generator, ChannelScores(layers, {}), ratio=0.5, align=1)
    whole = prune(any_generator, planned, refine="reconstruct", latents=22)
    monkeypatch.setattr(paired_walks, "MEMORY", memory)
    again = prune(any_generator, planned, refine="reconstruct", latents=22).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.state_dict().items())
