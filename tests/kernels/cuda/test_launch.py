from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.kernels import operators, reference
from dcp_deploy.kernels.cuda import launch as launching
from dcp_deploy.kernels.cuda.calls import BLOCK, modconv_epilogue_call


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


# ---- on a GPU ----


class Chain:
    """Three operators in a row, and their reference, for one x [2, 8, 6, 6]."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        shapes = {"scale": (2, 8), "bias": (8,), "styles": (2, 8), "weight": (3, 8), "rgb_bias": (3,)}
        self.tensors = {name: torch.randn(shape, generator=random).cuda() for name, shape in shapes.items()}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._through(operators, x)

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        return self._through(reference, x)

    def _through(self, library: Any, x: torch.Tensor) -> torch.Tensor:
        scale, bias, styles, weight, rgb_bias = self.tensors.values()
        y = library.modconv_epilogue(x, scale, None, bias)
        y = library.fir_epilogue(y, scale, None, bias)
        image: torch.Tensor = library.to_rgb(y, styles, weight, rgb_bias)
        return image


def features(seed: int) -> torch.Tensor:
    return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("side", [False, True], ids=["default stream", "another stream"])
def test_kernels_keep_the_order_of_torchs_stream(side: bool) -> None:
    chain, x, later = Chain(), torch.zeros(2, 8, 6, 6, device="cuda"), features(0)
    chain(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream() if side else torch.cuda.default_stream()):
        torch.cuda._sleep(
            50_000_000
        )  # clock cycles, some 30 ms: long enough for a kernel that does not wait to be seen
        x.copy_(later)
        image = chain(x)
        x.zero_()  # after the kernels that read it
        image = image + 0  # after those that write it
    torch.cuda.synchronize()
    torch.testing.assert_close(image, chain.expected(later), rtol=1e-5, atol=1e-4)  # sums of 8 and of 16 products


@pytest.mark.gpu
def test_a_graph_captures_kernels_and_replays_them_on_new_values() -> None:
    chain, x = Chain(), features(0)
    chain(x)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        image = chain(x) * 1
    for seed in (1, 2):
        x.copy_(features(seed))
        image.zero_()
        graph.replay()
        torch.testing.assert_close(image, chain.expected(x), rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
def test_a_graph_gives_memory_back_between_its_kernels() -> None:
    scale, bias = torch.ones(1, 8, device="cuda"), torch.zeros(8, device="cuda")
    x = torch.ones(1, 8, 512, 512, device="cuda")  # 8 MiB
    operators.modconv_epilogue(x, scale, None, bias)
    before = torch.cuda.memory_reserved()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x
        for _ in range(20):
            y = operators.modconv_epilogue(y, scale, None, bias)
    assert torch.cuda.memory_reserved() - before < 10 * x.nbytes  # two are in use at any time
    graph.replay()
    assert torch.equal(y, x)


@pytest.mark.gpu
def test_another_thread_may_launch_while_one_captures() -> None:
    chain, x, other_x = Chain(), features(0), features(1)
    side, started, launched = torch.cuda.Stream(), threading.Event(), threading.Event()
    with torch.cuda.stream(side):
        chain(x)
        others = [chain(other_x)]
    torch.cuda.synchronize()

    def launch_meanwhile() -> None:
        started.wait(10)
        with torch.cuda.stream(side):
            others.append(chain(other_x))
        launched.set()

    thread = threading.Thread(target=launch_meanwhile)
    thread.start()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        started.set()
        assert launched.wait(10)
        image = chain(x)
    thread.join()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(image, chain.expected(x), rtol=1e-5, atol=1e-4)
    assert torch.equal(*others)
