"""Two ways to run a kernel call on torch's CPU tensors.

The host emulator runs kernels/cuda/*.cu compiled by the machine's C++ compiler. Where there is a GPU, the tensors are
copied to it, the call is launched as the operators launch it, and the results are copied back.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.kernels.cuda.calls import KernelCall
from dcp_deploy.kernels.cuda.launch import launch

from .compiled import compiled_folder
from .host import Run, compile_for_host, emulator_of


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled code that all workers share."""
    return compiled_folder(request, tmp_path_factory)


@pytest.fixture(scope="session")
def host_libraries(shared_folder: Path) -> dict[str, Path]:
    """Each source of kernels/cuda, compiled for the host: name -> shared object."""
    flags = os.environ.get("KERNEL_HOST_FLAGS", "").split()  # the sanitizers, see test_sanitizers.py
    try:
        return compile_for_host(shared_folder, *flags)
    except MissingCapabilityError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulator(host_libraries: dict[str, Path]) -> Run:
    """``emulator(call, order=0)``: see :func:`.host.emulator_of`."""
    return emulator_of(host_libraries)


@pytest.fixture(params=["emulator", pytest.param("gpu", marks=pytest.mark.gpu)])
def run(request: pytest.FixtureRequest) -> Run:
    """``run(call, order=0)`` on the host emulator, and once more on the GPU, which chooses its own order of threads."""
    runner: Run = run_on_gpu if request.param == "gpu" else request.getfixturevalue("emulator")
    return runner


def run_on_gpu(call: KernelCall | None, order: int = 0) -> None:
    if call is None:
        return
    moved = tuple(on_gpu(argument) if isinstance(argument, Tensor) else argument for argument in call.arguments)
    launch(replace(call, arguments=moved), torch.device("cuda"))
    for argument, copy in zip(call.arguments, moved, strict=True):
        if isinstance(argument, Tensor):
            whole(argument).copy_(whole(copy))  # inputs too, so that a kernel that writes into one fails the comparison


def on_gpu(tensor: Tensor) -> Tensor:
    """Return the same view of a copy of its whole memory: shape, strides, offset from 16 bytes and guards are kept."""
    return whole(tensor).cuda().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def whole(tensor: Tensor) -> Tensor:
    """Return all elements of the memory that a tensor is a part of."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
