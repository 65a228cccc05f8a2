"""Our CUDA path as a Runner: CudaGenerator, captured as one CUDA graph per batch size.

A generator at batch 1 is some fifty kernels of microseconds each, which Python takes longer to launch than the GPU to
run; a graph launches them as one.
"""

from __future__ import annotations

import statistics
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import MissingCapabilityError, UsageError
from ...generators import Generator
from ..fused.cuda import CudaGenerator, UpsampleMethods, upsampled
from ..fused.generator import ImageForm
from ..fused.stylegan2 import Upsample, conv_layers
from .runner import Array, Runner

FloatPrecision = Literal["fp32", "fp16", "bf16"]
STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

MAX_GRAPHS = 8  # batch sizes kept, the least recently used makes room
_WARM_UP = 3  # calls before a capture: they load kernels and let cuDNN choose
_TIMED = 5  # calls per timing of a layer's form


class CapturedGenerator:
    """A CudaGenerator for one batch size as a CUDA graph: fill ``z``, ``psi`` (and ``c``), replay, read ``image``.

    The tensors stay where they are; replays on one stream come one after the other. Whether float32 convolutions may
    use TF32 is torch's global setting at the time of the capture.
    """

    def __init__(
        self, network: CudaGenerator, batch: int, *, pool: Any = None, forms: UpsampleMethods | None = None
    ) -> None:
        config, device = network.config, network.const.device
        self.image: Tensor
        self.z = torch.zeros(batch, config.z_dim, device=device)
        self.psi = torch.ones(batch, device=device)
        self.c = torch.zeros(batch, config.c_dim, device=device) if config.c_dim else None
        self.forms = fastest_methods(network, batch) if forms is None else forms
        with torch.no_grad(), _cudnn_measures():
            self.graph, self.image = captured(lambda: network(self.z, self.psi, self.c, self.forms), device, pool)

    def __call__(self, z: Tensor, psi: Tensor, c: Tensor | None) -> Tensor:
        """The static image tensor, filled for these inputs once the current stream gets there."""
        self.z.copy_(z)
        self.psi.copy_(psi)
        if self.c is not None and c is not None:
            self.c.copy_(c)
        self.graph.replay()
        return self.image


def captured(call: Callable[[], Any], device: torch.device, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Any]:
    """``call`` as a graph, and what it returned: tensors that a replay fills. Other threads may launch meanwhile."""
    stream: Any = torch.cuda.Stream  # without annotations
    current, side = torch.cuda.current_stream(device), stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            call()
    current.wait_stream(side)
    torch.cuda.synchronize(device)
    graph: torch.cuda.CUDAGraph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
        result = call()
    return graph, result


def fastest_methods(network: CudaGenerator, batch: int) -> dict[str, Upsample]:
    """The faster form of every up-sampling layer at this batch size, timed on the network's GPU."""
    names = [name for name in conv_layers(network.config) if name.endswith("conv0")]
    measured = {name: method_times(network, name, batch) for name in names}
    return {name: min(times, key=times.__getitem__) for name, times in measured.items()}


def method_times(network: CudaGenerator, name: str, batch: int) -> dict[Upsample, float]:
    """Milliseconds of one up-sampling layer and its epilogue in either form, without launch times."""
    times: dict[Upsample, float] = {}
    forms: tuple[Upsample, ...] = ("transposed", "polyphase")
    for form in forms:
        conv = network.upsampling(name, form)
        fan_in, fan_out = conv.energy.shape
        side, device = int(name[1:].split(".")[0]) // 2, conv.weight.device
        x = torch.randn(batch, fan_in, side, side, device=device).to(
            conv.weight.dtype, memory_format=torch.channels_last
        )
        scale = torch.ones(batch, fan_out, device=device)

        def repeated(conv: Any = conv, x: Tensor = x, scale: Tensor = scale) -> None:
            for _ in range(_TIMED):
                upsampled(conv, x, scale, scale)

        with torch.no_grad(), _cudnn_measures():
            graph, _ = captured(repeated, device)
        times[form] = _replay_time(graph) / _TIMED
    return times


def _replay_time(graph: torch.cuda.CUDAGraph, replays: int = 3) -> float:
    """Median of milliseconds, by events on the GPU."""
    event: Any = torch.cuda.Event  # without annotations
    samples = []
    for _ in range(replays):
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(float(begin.elapsed_time(end)))
    return statistics.median(samples)


@contextmanager
def _cudnn_measures() -> Iterator[None]:
    """cuDNN tries its algorithms on every new shape and keeps the fastest; shapes of a graph never change."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Graphs:
    """Graphs by batch size. One call at a time: they share their memory."""

    def __init__(self, network: CudaGenerator) -> None:
        self.network, self.lock = network, threading.Lock()
        self.made: OrderedDict[int, CapturedGenerator] = OrderedDict()

    def draw(self, z: Array, psi: Array, c: Array | None) -> Array:
        device = self.network.const.device
        with self.lock, torch.cuda.device(device), torch.no_grad():
            if len(z) not in self.made:
                if len(self.made) == MAX_GRAPHS:
                    self.made.popitem(last=False)
                pool = next(iter(self.made.values())).graph.pool() if self.made else None
                self.made[len(z)] = CapturedGenerator(self.network, len(z), pool=pool)
            self.made.move_to_end(len(z))
            labels = None if c is None else torch.from_numpy(c)
            image = self.made[len(z)](torch.from_numpy(z), torch.from_numpy(psi), labels)
            return image.cpu().numpy()


def cuda_runner(
    generator: Generator, *, precision: FloatPrecision = "fp16", image: ImageForm = "float", name: str | None = None
) -> Runner:
    """A StyleGAN2 on the current GPU through our kernels and CUDA graphs.

    ``precision`` is the type that convolutions store; everything else is float32. The first call of a batch size
    measures, captures and takes seconds. Threads may call it; calls run one after the other. Raises
    MissingCapabilityError without a GPU or pycuda, UsageError for a StyleGAN3.
    """
    if precision not in STORAGE:
        raise UsageError(f"precision is {precision!r}", f"use one of: {', '.join(STORAGE)}")
    network = CudaGenerator(generator, storage=STORAGE[precision], image=image)
    if not torch.cuda.is_available():
        raise MissingCapabilityError("backend cuda needs an NVIDIA GPU, and torch sees none", "use backend fused")
    graphs = _Graphs(network.to(torch.device("cuda", torch.cuda.current_device())))
    config = generator.config
    title = name or f"{config.kind} {config.resolution}px"
    facts = {"precision": precision}
    return Runner(title, "cuda", config.z_dim, config.c_dim, config.resolution, image, graphs.draw, facts=facts)
