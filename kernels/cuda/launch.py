"""Kernel calls on an NVIDIA GPU: loaded by pycuda into the context that torch uses, ordered with torch's stream."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import MissingCapabilityError
from .calls import BLOCK, KernelCall
from .library import CAPABILITIES, compiled

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


def launch(call: KernelCall | None, device: torch.device) -> None:
    """Enqueue ``call`` (None: nothing to do) after what torch's current stream of ``device`` holds. Does not wait.

    May be captured by ``torch.cuda.graph``, once a first call outside has loaded the kernel.

    Raises MissingCapabilityError without pycuda, or for a GPU that the kernels are not built for.
    """
    if call is None:
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    context = _context(index)
    context.push()  # pycuda's objects belong to the context on top; it is torch's own, so nothing else changes
    try:
        _enqueue(_function(call.source, call.kernel, _format(call), index), call, torch.cuda.current_stream(index))
    finally:
        context.pop()


def build_target(capability: tuple[int, int]) -> int:
    """The newest build whose machine code runs on a GPU of ``capability``: same major version, no later minor one."""
    major, minor = capability
    usable = [known for known in CAPABILITIES if known // 10 == major and known % 10 <= minor]
    if not usable:
        known = ", ".join(f"sm{known}" for known in CAPABILITIES)
        raise MissingCapabilityError(
            f"the kernels are built for {known}, not for sm{major}{minor}", "use another backend on this GPU"
        )
    return max(usable)


def _enqueue(function: Any, call: KernelCall, stream: torch.cuda.Stream) -> None:
    """pycuda launches on streams of its own or on the default stream, which is where torch mostly is.

    Any other stream of torch's waits for a stream of pycuda's and is waited for, by events on the GPU. So what follows
    on torch's stream, a new owner of the same memory too, comes after the kernel. While torch captures a graph, the
    waits make the kernel a node between its neighbours and cost nothing when the graph is replayed.
    """
    block, values = (BLOCK, 1, 1), [_value(argument) for argument in call.arguments]
    if stream.cuda_stream == 0:
        function.prepared_async_call(call.grid, block, None, *values)
        return
    own, own_for_torch = _own_stream(stream.device_index, stream.cuda_stream)
    own_for_torch.wait_stream(stream)
    function.prepared_async_call(call.grid, block, own, *values)
    stream.wait_stream(own_for_torch)


def _value(argument: Tensor | int | None) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return 0 if argument is None else argument


def _format(call: KernelCall) -> str:
    """Argument types for ``Function.prepare``: P a pointer, i an int32. None is a pointer to nothing."""
    return "".join("i" if isinstance(argument, int) else "P" for argument in call.arguments)


# ---- per device, for the life of the process ----


@cache
def _context(device: int) -> Any:
    """The primary context, which torch uses too: it has made it, for it holds the tensors of the call."""
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        raise MissingCapabilityError(f"pycuda cannot be imported: {error}", "pip install 'dcp-deploy[gpu]'") from error
    cuda.init()
    return cuda.Device(device).retain_primary_context()


@cache
def _own_stream(device: int, torch_stream: int) -> tuple[Any, torch.cuda.Stream]:
    """A stream of pycuda's and the same one as torch sees it. The context is current.

    One for each of torch's (it has a pool of 32): a thread that captures a graph must not draw in what another one
    launches. It does not wait for the default stream, which a capture forbids.
    """
    import pycuda.driver as cuda

    own = cuda.Stream(_NON_BLOCKING)
    external: Any = torch.cuda.ExternalStream  # without annotations
    return own, external(own.handle, device=device)


@cache
def _module(source: str, device: int) -> Any:
    import pycuda.driver as cuda

    return cuda.module_from_buffer(compiled(source, build_target(torch.cuda.get_device_capability(device))).cubin)


@cache
def _function(source: str, kernel: str, arguments: str, device: int) -> Any:
    return _module(source, device).get_function(kernel).prepare(arguments)
