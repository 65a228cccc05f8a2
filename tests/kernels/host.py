"""The kernels of kernels/cuda on this CPU: compiled by the machine's C++ compiler with the emulator's keywords."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dcp_deploy import kernels
from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.kernels import operators
from dcp_deploy.kernels.cuda.calls import BLOCK, KernelCall
from dcp_deploy.kernels.cuda.library import SOURCES

from .compiled import compile_once

FOLDER = Path(kernels.__file__).parent / "cuda"
HERE = Path(__file__).parent
Run = Callable[..., None]


def compile_for_host(shared: Path, *flags: str) -> dict[str, Path]:
    """Compile one shared object per source, all at the same time, unless ``shared`` has them; warnings are errors.

    Raises MissingCapabilityError without a C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise MissingCapabilityError(
            f"no C++ compiler ({compiler}) to build the kernels for the host", "Install g++, or set CXX."
        )
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


def emulator_of(files: dict[str, Path]) -> Run:
    """Return ``run(call, order=0)``, which does what ``launch`` does on a GPU, thread by thread; deadlocks fail."""
    libraries = {name: ctypes.CDLL(str(path)) for name, path in files.items()}

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


def pointer_or_number(argument: Tensor | int | None) -> ctypes.c_void_p | ctypes.c_int:
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())


@contextmanager
def compiled_emulator() -> Iterator[Run]:
    """Yield :func:`emulator_of` kernels compiled into a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield emulator_of(compile_for_host(Path(folder)))


@contextmanager
def emulated_operators(run: Run) -> Iterator[None]:
    """Let our operators launch their kernels on CPU tensors, by ``run``."""
    with patch.object(operators, "launch", lambda call, device: run(call)), _AsOnCuda():
        yield


class _AsOnCuda(TorchDispatchMode):
    """Calls what an operator of ours does on a GPU, in place of its reference."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "dcp_deploy":
            return func(*args, **(kwargs or {}))
        operator = getattr(operators, func._schema.name.removeprefix("dcp_deploy::"))
        return operator._backend_fns["cuda"](*args, **(kwargs or {}))
