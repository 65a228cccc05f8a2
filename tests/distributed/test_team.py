"""What the processes of a team exchange, with threads in their place."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from dcp_deploy.distributed import team as module
from dcp_deploy.distributed.team import ALONE, Team

from .conftest import Exchange, together


def test_alone_nothing_is_copied_or_sent() -> None:
    tensor = torch.arange(3)
    assert ALONE.add(tensor) is tensor and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.from_first(b"x") == b"x"


def test_sums_flags_and_bytes_reach_everyone() -> None:
    def work(team: Team) -> tuple[list[int], bool, bytes]:
        mine = torch.tensor([team.rank, 1])
        found = team.add(mine).tolist(), team.any(team.rank == 2), team.from_first(bytes([team.rank, 255]))
        assert mine.tolist() == [team.rank, 1]  # kept
        return found

    assert together(3, work) == [([3, 3], True, b"\x00\xff")] * 3


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_rows_are_gathered_in_order(parts: int) -> None:
    """Also if the last part is shorter, and if some processes have none."""
    rows = [torch.full((2 if index == parts - 1 else 3, 4), float(index)) for index in range(parts)]
    for found in together(3, lambda team: team.gather(rows[team.rank :: team.size])):
        assert torch.equal(found, torch.cat(rows))


def network() -> nn.Sequential:
    """The same network in every thread; torch's global random state would be shared by them."""
    source, layers = torch.Generator().manual_seed(0), nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(std=0.3, generator=source)
    return layers


def gradients_of(team: Team, parts: int = 1) -> list[torch.Tensor]:
    """Return the gradients of a loss over 12 samples."""
    layers = network()
    layers[5].bias.requires_grad_(False)
    samples = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))[team.rank :: team.size]
    for part in range(parts):
        loss = layers(samples[part::parts]).square().sum()
        with team.summing(layers, last=part == parts - 1):
            loss.backward()
    return [one.grad for one in layers.parameters() if one.grad is not None]


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_those_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr(module, "FIRST_BUCKET_BYTES", 300)
    monkeypatch.setattr(module, "BUCKET_BYTES", 600)
    expected = gradients_of(ALONE)
    exchange = Exchange(2)
    for found in together(2, partial(gradients_of, parts=parts), exchange):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # summed in another order
    assert exchange.calls == [288, 576, 576, 256]  # the last layer's bias does not train


def test_messages_start_while_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", 300)
    monkeypatch.setattr(module, "FIRST_BUCKET_BYTES", 300)
    layers, events = network(), list[str]()
    layers[0].weight.register_hook(lambda gradient: events.append("first layer"))

    def start(tensor: torch.Tensor) -> object:
        events.append("message")
        return lambda: events.append("waited")

    with Team(0, 2, start).summing(layers):  # type: ignore[arg-type]
        layers(torch.randn(2, 8)).sum().backward()
    assert events.index("first layer") >= 4 and events.count("message") == events.count("waited") == 6
    assert not any(one._post_accumulate_grad_hooks for one in layers.parameters())


def test_large_networks_are_sent_in_messages_of_25_mib() -> None:
    """As DDP sends them: the first one is small, and a layer larger than a message has its own."""
    layers = nn.Sequential(nn.Linear(3000, 3000, bias=False), *(nn.Linear(1024, 1024, bias=False) for _ in range(14)))
    sizes = [sum(one.numel() * 4 for one in bucket) for bucket in module._buckets(reversed(list(layers.parameters())))]
    assert sizes == [4 * 2**20, 24 * 2**20, 24 * 2**20, 4 * 2**20, 36 * 10**6]
