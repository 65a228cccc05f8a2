"""Run a TensorRT engine of either flavour on the GPU it was built for, with torch's tensors and streams.

The names are those of the Python bindings of TensorRT 10.16 and 11.4 and of TensorRT for RTX 1.7. The tests use a
stand-in for the libraries; this project has not run an engine on TensorRT hardware yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, MissingCapabilityError, StaleArtifactError, UsageError
from ..fused.generator import ImageForm
from ..tensorrt.manifest import check_engine, image_size
from ..tensorrt.targets import import_flavour
from .runner import Array, Runner, feeds_of, in_parts


def engine_runner(path: str | os.PathLike[str], *, cuda_graph: bool = False) -> Runner:
    """Make a Runner of an engine that fits this machine.

    ``cuda_graph``: record the launches of a batch size once and replay them, which saves time on the host; a change of
    the batch size records again. Batches above the engine's largest are split, those below its smallest are padded.
    Raises MissingCapabilityError without a GPU or the flavour's package, StaleArtifactError for an engine built for
    something else, CorruptFileError for a malformed manifest.
    """
    path = Path(path)
    manifest, session = open_engine(path, cuda_graph=cuda_graph)
    return runner_of(path.name, manifest, session)


def open_engine(path: Path, *, cuda_graph: bool = False) -> tuple[dict[str, Any], EngineSession]:
    """Return the manifest and the open session of an engine for this machine; errors as in :func:`engine_runner`."""
    if not torch.cuda.is_available():
        raise MissingCapabilityError(
            f"{path} is a TensorRT engine; running it needs an NVIDIA GPU and its driver, and this machine has none",
            "Run the ONNX file it was built from with onnxruntime.",
        )
    manifest = check_engine(path)
    trt = import_flavour(manifest["flavour"])
    trusted = bool(manifest.get("options", {}).get("version_compatible"))  # its hash has just been checked
    session = EngineSession(trt, path.read_bytes(), torch.device("cuda"), cuda_graph=cuda_graph, host_code=trusted)
    if session.engine is None:
        raise StaleArtifactError(f"TensorRT cannot load {path}", f"Rebuild it: {manifest['rebuild']}")
    return manifest, session


def runner_of(name: str, manifest: Mapping[str, Any], session: EngineSession) -> Runner:
    """Make a Runner of an open session. UsageError for an engine that takes codes in place of z."""
    profile = manifest["profile"]
    if "z" not in profile:
        raise UsageError(f"{name} takes {', '.join(profile)}, not z", "Load it with load_synthesis.")
    smallest, largest = profile["z"]["min"][0], profile["z"]["max"][0]

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        return padded(session, smallest, feeds_of(z, psi, c))

    c_dim = profile["c"]["min"][1] if "c" in profile else 0
    z_dim, facts = profile["z"]["min"][1], {"precision": str(manifest["precision"])}
    return Runner(
        name, "tensorrt", z_dim, c_dim, image_size(manifest), image_form(session), in_parts(draw, largest), facts=facts,
        batch=(smallest, largest),
    )  # fmt: skip


def image_form(session: EngineSession) -> ImageForm:
    """Return the format of an engine's images."""
    return "uint8" if session.output_dtype == torch.uint8 else "float"


def padded(session: EngineSession, smallest: int, feeds: Mapping[str, Array]) -> Array:
    """Return the images of one batch; fewer rows than ``smallest`` are filled with copies of the last one."""
    batch = len(next(iter(feeds.values())))
    missing = max(smallest - batch, 0)
    full = {name: np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) for name, rows in feeds.items()}
    images = session.run({name: torch.from_numpy(rows) for name, rows in full.items()})
    return images[:batch].cpu().numpy()


class EngineSession:
    """One engine, deserialised, with one execution context; ``engine`` is None if TensorRT refuses the bytes.

    It runs on a stream of its own. That stream and torch's current one wait for each other.
    """

    def __init__(
        self, trt: Any, plan: bytes, device: torch.device, *, cuda_graph: bool = False, host_code: bool = False
    ) -> None:
        self.device, self.cuda_graph = device, cuda_graph
        self.recorded: tuple[int, torch.cuda.CUDAGraph, dict[str, Tensor], Tensor] | None = None
        self.logger = trt.Logger(trt.Logger.ERROR)  # must outlive the runtime
        self.runtime = trt.Runtime(self.logger)
        self.runtime.engine_host_code_allowed = host_code  # version-compatible engines contain their runtime
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            return
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise MissingCapabilityError(
                "TensorRT cannot prepare the engine: too little GPU memory?", "Free some memory of the GPU."
            )
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.inputs = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        (self.output,) = set(names) - set(self.inputs)
        types = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.UINT8: torch.uint8}
        self.output_dtype = types[self.engine.get_tensor_dtype(self.output)]
        stream: Any = torch.cuda.Stream  # without annotations
        self.stream = stream(device)

    def run(self, feeds: Mapping[str, Tensor]) -> Tensor:
        """Return the output for one batch within the profile; inputs may be on any device. InputError on failure."""
        before = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(before)
        with torch.cuda.stream(self.stream):
            if self.cuda_graph:
                image = self._replay(feeds)
            else:
                image, _ = self._bind(feeds)
                self._enqueue()
        before.wait_stream(self.stream)
        return image

    def _bind(self, feeds: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Set all shapes and addresses. Return the output and the inputs on the device."""
        placed = {name: feeds[name].to(self.device).contiguous() for name in self.inputs}
        for name, tensor in placed.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                raise InputError(f"the engine does not take {name} of shape {list(tensor.shape)}", "Read its manifest.")
            self.context.set_tensor_address(name, tensor.data_ptr())
        shape = tuple(self.context.get_tensor_shape(self.output))
        image = torch.empty(shape, dtype=self.output_dtype, device=self.device)
        self.context.set_tensor_address(self.output, image.data_ptr())
        self.placed = placed  # the kernels still read them after this returns
        return image, placed

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise InputError("TensorRT could not start the engine", "Read its log above.")

    def _replay(self, feeds: Mapping[str, Tensor]) -> Tensor:
        """Replay the launches of this batch size; record them first if the last call had another size."""
        batch = len(next(iter(feeds.values())))
        if self.recorded is None or self.recorded[0] != batch:
            image, placed = self._bind(feeds)
            self._enqueue()  # the first call with new shapes allocates, which must not be recorded
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._enqueue()
            self.recorded = (batch, graph, placed, image)
        _, graph, placed, image = self.recorded
        for name, tensor in placed.items():
            tensor.copy_(feeds[name])
        graph.replay()
        return image.clone()
