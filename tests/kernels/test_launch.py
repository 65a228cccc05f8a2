from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.kernels import launch as launching
from dcp_deploy.kernels.calls import BLOCK, modconv_epilogue_call


@pytest.mark.parametrize(
    ("capability", "build"),
    [((7, 5), 75), ((8, 0), 80), ((8, 7), 86), ((8, 9), 89), ((9, 0), 90), ((10, 3), 100), ((12, 1), 120)],
)
def test_a_gpu_takes_the_newest_build_of_its_own_generation(capability: tuple[int, int], build: int) -> None:
    assert launching.build_target(capability) == build


@pytest.mark.parametrize("capability", [(7, 0), (11, 0)])
def test_a_gpu_of_another_generation_is_refused(capability: tuple[int, int]) -> None:
    with pytest.raises(MissingCapabilityError, match="not for sm"):
        launching.build_target(capability)


def test_without_pycuda_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingCapabilityError) as caught:
        launching._context.__wrapped__(0)
    assert "dcp-deploy[gpu]" in caught.value.remedy


def test_a_call_is_handed_to_pycuda_on_torchs_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument string, the grid, the null pointers and the order of context and launch."""
    events: list[Any] = []

    class Function:
        def prepare(self, arguments: str) -> Function:
            events.append(arguments)
            return self

        def prepared_async_call(self, grid: Any, block: Any, stream: Any, *values: Any) -> None:
            events.append((grid, block, stream, values))

    context = SimpleNamespace(push=lambda: events.append("push"), pop=lambda: events.append("pop"))
    monkeypatch.setattr(launching, "_context", lambda device: context)
    monkeypatch.setattr(launching, "_module", lambda source, device: SimpleNamespace(get_function=lambda _: Function()))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    x, scale, bias = torch.zeros(2, 4, 4, 4), torch.ones(2, 4), torch.zeros(4)
    y = torch.empty_like(x)
    launching._function.cache_clear()
    launching.launch(modconv_epilogue_call(x, scale, None, bias, y), torch.device("cuda", 0))
    launching._function.cache_clear()
    infinity = 0x7F800000
    pointers = (x.data_ptr(), scale.data_ptr(), 0, bias.data_ptr(), 0)
    values = (*pointers, 2, 4, 4, 4, 0, 0, infinity, y.data_ptr())
    assert events == ["push", "PPPPPiiiiiiiP", ((1, 2), (BLOCK, 1, 1), None, values), "pop"]
