"""Launches kernel calls on an NVIDIA GPU by pycuda, in torch's context and ordered with torch's stream."""

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
    """Enqueue ``call`` (None does nothing) on torch's current stream of ``device``, without waiting for it.

    ``torch.cuda.graph`` can capture it after a first call outside has loaded the kernel.

    Raises MissingCapabilityError without pycuda, or for a GPU that the kernels are not built for.
    """
    if call is None:
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    context = _context(index)
    context.push()  # pycuda's objects belong to the context on top, which is torch's own, so nothing else changes
    try:
        _enqueue(_function(call.source, call.kernel, _format(call), index), call, torch.cuda.current_stream(index))
    finally:
        context.pop()


def build_target(capability: tuple[int, int]) -> int:
    """Return the newest build that runs on a GPU of ``capability``: the same major version, not a later minor one."""
    major, minor = capability
    usable = [known for known in CAPABILITIES if known // 10 == major and known % 10 <= minor]
    if not usable:
        known = ", ".join(f"sm{known}" for known in CAPABILITIES)
        raise MissingCapabilityError(
            f"the kernels are built for {known}, not for sm{major}{minor}", "Use another backend on this GPU."
        )
    return max(usable)


def _enqueue(function: Any, call: KernelCall, stream: torch.cuda.Stream) -> None:
    """Launch on the default stream, or on a stream of pycuda's that is synchronised with torch's.

    pycuda cannot launch on torch's other streams. So its own stream waits for torch's before the kernel, and torch's
    waits for it afterwards, by events on the GPU. Later work on torch's stream, also by a new owner of the same memory,
    then comes after the kernel. While torch captures a graph, the waits make the kernel a node between its neighbours;
    they cost nothing when the graph is replayed.
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
    """Return the argument types for ``Function.prepare``: P is a pointer (None: a null pointer), i an int32."""
    return "".join("i" if isinstance(argument, int) else "P" for argument in call.arguments)


# ---- per device, for the life of the process ----


@cache
def _context(device: int) -> Any:
    """Return the primary context, which torch has created for the tensors of the call."""
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        raise MissingCapabilityError(
            f"pycuda cannot be imported: {error}", "Install it: pip install 'dcp-deploy[gpu]'"
        ) from error
    cuda.init()
    return cuda.Device(device).retain_primary_context()


@cache
def _own_stream(device: int, torch_stream: int) -> tuple[Any, torch.cuda.Stream]:
    """Return a stream of pycuda's and the same one as a torch stream. The context must be current.

    There is one for each stream of torch's (which has a pool of 32), so that a thread that captures a graph does not
    capture another thread's launches. It does not wait for the default stream, which a capture forbids.
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
