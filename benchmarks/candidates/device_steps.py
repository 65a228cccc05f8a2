"""A call on a GPU in three steps: copy the inputs to the device, compute, copy the images to the host.

CUDA events time the steps in separate calls, so that the end-to-end samples of a candidate contain no events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .candidate import Inputs, Phases, fixed_inputs

if TYPE_CHECKING:
    from ...generators import Generator


@dataclass(frozen=True)
class Steps:
    """One call: ``copy_out(compute(copy_in()))``."""

    copy_in: Callable[[], Any]
    compute: Callable[[Any], Any]
    """Enqueues the work and may return before it is done."""
    copy_out: Callable[[Any], object]
    """Returns the images on the host."""
    new_event: Callable[[], Any] | None = None
    """Returns an event; CUDA's by default."""
    clock: Callable[[], float] = time.perf_counter

    def __call__(self) -> object:
        """Run the whole call without events."""
        return self.copy_out(self.compute(self.copy_in()))

    def phases(self) -> Phases:
        """Run the call with an event between the steps."""
        events = [(self.new_event or cuda_event)() for _ in range(4)]
        events[0].record()
        placed = self.copy_in()
        events[1].record()
        begin = self.clock()
        images = self.compute(placed)
        enqueued = (self.clock() - begin) * 1e3
        events[2].record()
        self.copy_out(images)
        events[3].record()
        events[3].synchronize()
        copied_in, computed, copied_out = (float(before.elapsed_time(after)) for before, after in pairwise(events))
        return Phases(copied_in, computed, copied_out, enqueued)


def cuda_event() -> Any:
    """Return a CUDA event that records times."""
    import torch

    event: Any = torch.cuda.Event  # has no annotations
    return event(enable_timing=True)


def network_steps(generator: Generator, inputs: Inputs) -> Steps:
    """Return the steps of a torch network that lies on a GPU."""
    return _steps(inputs, next(generator.parameters()).device, lambda z, psi, c: generator(z, c, psi=psi))


def cuda_path_steps(generator: Generator, inputs: Inputs, *, precision: str, graph: bool) -> Steps:
    """Return the steps of our CUDA path with 8-bit images, as one graph or launch by launch.

    Raises UsageError for a StyleGAN3.
    """
    import torch

    from ...export.fused.cuda import CudaGenerator
    from ...export.runners.cuda import STORAGE, CapturedGenerator, fastest_methods

    device, batch = torch.device("cuda"), len(inputs[0])
    network = CudaGenerator(generator, storage=STORAGE[precision], image="uint8").to(device)
    methods = fastest_methods(network, batch)
    if graph:
        return _steps(inputs, device, CapturedGenerator(network, batch, methods=methods))
    return _steps(inputs, device, lambda z, psi, c: network(z, psi, c, methods))


def _steps(inputs: Inputs, device: Any, compute: Callable[[Any, Any, Any], Any]) -> Steps:
    """Return the steps of a torch function of z, psi and c."""
    import torch

    def copy_in() -> list[Any]:
        return [None if array is None else torch.from_numpy(array).to(device) for array in inputs]

    return Steps(copy_in, torch.inference_mode()(lambda placed: compute(*placed)), lambda images: images.cpu().numpy())


def engine_steps(path: Path, batch: int, seed: int, *, graph: bool) -> tuple[Steps, str, float | None]:
    """Return the steps of a TensorRT engine of either flavour, its precision, and the seconds that building it took.

    Raises what ``open_engine`` raises, and UsageError for a batch outside the engine's profile.
    """
    import torch

    from ...export.runners.engine import open_engine
    from ...export.runners.runner import feeds_of

    manifest, session = open_engine(path, cuda_graph=graph)
    profile = manifest["profile"]
    least, most = profile["z"]["min"][0], profile["z"]["max"][0]
    if not least <= batch <= most:
        raise UsageError(f"{path} was built for batches of {least} to {most}, not {batch}", "Change --batch.")
    c_dim = profile["c"]["min"][1] if "c" in profile else 0
    z, psi, c = fixed_inputs(profile["z"]["min"][1], c_dim, batch, seed)
    feeds = feeds_of(z, psi, c)

    def copy_in() -> dict[str, Any]:
        return {name: torch.from_numpy(values).to(session.device) for name, values in feeds.items()}

    steps = Steps(copy_in, session.run, lambda images: images.cpu().numpy())
    return steps, str(manifest["precision"]), manifest.get("build_seconds")
