"""Two ways to run a kernel call on torch's CPU tensors.

The host emulator runs kernels/cuda/*.cu compiled by the machine's C++ compiler. Where there is a GPU, the tensors are
copied to it, the call is launched as the operators launch it, and the results are copied back.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcp_deploy import kernels
from dcp_deploy.kernels.cuda.calls import BLOCK, KernelCall
from dcp_deploy.kernels.cuda.launch import launch
from dcp_deploy.kernels.cuda.library import SOURCES

from .compiled import compile_once, compiled_folder

FOLDER = Path(kernels.__file__).parent / "cuda"
HERE = Path(__file__).parent
Run = Callable[..., None]


def compile_for_host(shared: Path, *flags: str) -> dict[str, Path]:
    """Compile one shared object per source, all at the same time, unless ``shared`` has them; warnings are errors."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler}) to build the kernels for the host")
    # nvcc's pragmas and intrinsics are unknown to it; every other warning counts.
    options = ["-std=c++17", "-x", "c++", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"]
    options += ["-Werror", "-Wno-unknown-pragmas", *flags, f"-I{HERE}"]
    texts = [path.read_text() for path in sorted([*FOLDER.glob("*.cu*"), HERE / "emulator.hpp"])]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256("\0".join([version, *options, *texts]).encode()).hexdigest()[:32]

    # A compiler with the sanitizers' library preloaded takes four times as long.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

    def compile_into(folder: Path) -> None:
        running = {
            name: subprocess.Popen(
                [compiler, *options, "-o", str(folder / f"{name}.so"), str(FOLDER / f"{name}.cu")],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in SOURCES
        }
        for name, process in running.items():
            _, errors = process.communicate()
            assert process.returncode == 0, f"{name}.cu does not compile for the host:\n{errors}"

    folder = compile_once(shared / f"host-{key}", compile_into)
    return {name: folder / f"{name}.so" for name in SOURCES}


def pointer_or_number(argument: Tensor | int | None) -> ctypes.c_void_p | ctypes.c_int:
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled code that all workers share."""
    return compiled_folder(request, tmp_path_factory)


@pytest.fixture(scope="session")
def host_libraries(shared_folder: Path) -> dict[str, Path]:
    """Each source of kernels/cuda, compiled for the host: name -> shared object."""
    flags = os.environ.get("KERNEL_HOST_FLAGS", "").split()  # the sanitizers, see test_sanitizers.py
    return compile_for_host(shared_folder, *flags)


@pytest.fixture(scope="session")
def emulator(host_libraries: dict[str, Path]) -> Run:
    """``emulator(call, order=0)`` does what ``launch`` does on a GPU, thread by thread. It fails on deadlocks."""
    libraries = {name: ctypes.CDLL(str(path)) for name, path in host_libraries.items()}

    def run(call: KernelCall | None, order: int = 0) -> None:
        if call is None:
            return
        library = libraries[call.source]
        library.emulator_shape(*call.grid, BLOCK, order)
        kernel = getattr(library, call.kernel)
        kernel.restype = ctypes.c_char_p
        problem = kernel(*map(pointer_or_number, call.arguments))
        assert problem is None, f"{call.kernel}: {problem.decode()}"

    return run


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
