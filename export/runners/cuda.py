"""Our CUDA path as a Runner: CudaGenerator, captured as one CUDA graph per batch size.

A generator at batch 1 consists of some fifty kernels of microseconds each. Python takes longer to launch them than the
GPU to run them; a graph launches them all at once.
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

from ...errors import MissingCapabilityError, UsageError, choose
from ...generators import Generator
from ...sizes import pixels
from ..fused.cuda import CudaGenerator, UpsampleMethods, upsampled
from ..fused.generator import ImageForm
from ..fused.stylegan2 import Upsample, conv_layers
from .runner import Array, Runner

FloatPrecision = Literal["fp32", "fp16", "bf16"]
STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MAX_GRAPHS = 8  # batch sizes kept; a new one replaces the least recently used
_WARM_UP = 3  # calls before a capture: they load kernels and let cuDNN choose its algorithms
_TIMED = 5  # calls per timing of an up-sampling method


def cuda_runner(
    generator: Generator, *, precision: FloatPrecision = "fp16", image: ImageForm = "float", name: str | None = None
) -> Runner:
    """Run a StyleGAN2 on the current GPU with our kernels and CUDA graphs.

    ``precision`` is the type in which convolutions store their values; everything else is float32. The first call with
    a batch size measures and captures, which takes seconds. Threads may call it; calls run one after the other. Raises
    MissingCapabilityError without a GPU or pycuda, UsageError for a StyleGAN3.
    """
    if precision not in STORAGE:
        raise UsageError(f"precision is {precision!r}", choose(precision, STORAGE))
    network = CudaGenerator(generator, storage=STORAGE[precision], image=image)
    if not torch.cuda.is_available():
        raise MissingCapabilityError("backend cuda needs an NVIDIA GPU, and torch sees none", "Use backend fused.")
    graphs = _Graphs(network.to(torch.device("cuda", torch.cuda.current_device())))
    config = generator.config
    title = name or f"{config.kind} {pixels(config.image_size)}"
    facts = {"precision": precision}
    return Runner(title, "cuda", config.z_dim, config.c_dim, config.image_size, image, graphs.draw, facts=facts)


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


class CapturedGenerator:
    """A CudaGenerator for one batch size as a CUDA graph: fill ``z``, ``psi`` (and ``c``), replay, read ``image``.

    The tensors keep their addresses; replays on one stream run one after the other. Whether float32 convolutions may
    use TF32 is torch's global setting at the time of the capture. ``methods`` is measured unless given.
    """

    def __init__(
        self, network: CudaGenerator, batch: int, *, pool: Any = None, methods: UpsampleMethods | None = None
    ) -> None:
        config, device = network.config, network.const.device
        self.image: Tensor
        self.z = torch.zeros(batch, config.z_dim, device=device)
        self.psi = torch.ones(batch, device=device)
        self.c = torch.zeros(batch, config.c_dim, device=device) if config.c_dim else None
        self.methods = fastest_methods(network, batch) if methods is None else methods
        with torch.no_grad(), _cudnn_benchmark():
            self.graph, self.image = captured(lambda: network(self.z, self.psi, self.c, self.methods), device, pool)

    def __call__(self, z: Tensor, psi: Tensor, c: Tensor | None) -> Tensor:
        """Return the static image tensor; it holds the images of these inputs once the current stream has finished."""
        self.z.copy_(z)
        self.psi.copy_(psi)
        if self.c is not None and c is not None:
            self.c.copy_(c)
        self.graph.replay()
        return self.image


def captured(call: Callable[[], Any], device: torch.device, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Capture ``call`` as a graph. Also return its result: tensors that a replay fills. Other threads may launch."""
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
    """Return the faster method of every up-sampling layer at this batch size, timed on the network's GPU."""
    names = [name for name in conv_layers(network.config) if name.endswith("conv0")]
    measured = {name: method_times(network, name, batch) for name in names}
    return {name: min(times, key=times.__getitem__) for name, times in measured.items()}


def method_times(network: CudaGenerator, name: str, batch: int) -> dict[Upsample, float]:
    """Return the milliseconds of one up-sampling layer and its epilogue by method, without launch times."""
    times: dict[Upsample, float] = {}
    methods: tuple[Upsample, ...] = ("transposed", "polyphase")
    for method in methods:
        conv = network.upsampling(name, method)
        fan_in, fan_out = conv.energy.shape
        size, device = network.config.size_at(int(name[1:].split(".")[0]) // 2), conv.weight.device
        x = torch.randn(batch, fan_in, *size, device=device).to(conv.weight.dtype, memory_format=torch.channels_last)
        scale = torch.ones(batch, fan_out, device=device)

        def repeated(conv: Any = conv, x: Tensor = x, scale: Tensor = scale) -> None:
            for _ in range(_TIMED):
                upsampled(conv, x, scale, scale)

        with torch.no_grad(), _cudnn_benchmark():
            graph, _ = captured(repeated, device)
        times[method] = _replay_time(graph) / _TIMED
    return times


def _replay_time(graph: torch.cuda.CUDAGraph, replays: int = 3) -> float:
    """Return the median milliseconds of a replay, measured by events on the GPU."""
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
def _cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN try its algorithms on every new shape and keep the fastest; the shapes of a graph never change."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
