"""The CPU operators of ``cpu/``: compiled for this machine by its C++ compiler, kept in a cache, called through ctypes.

A library is made for the processor it is compiled on (``-march=native``): there is none to ship. ONNX Runtime opens it
by its path (``cpu/onnxruntime.cpp``); everyone else calls the functions below. Features are float32 [B, H, W, C] with
the channels rounded up to whole vectors; what lies in the added ones means nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DcpDeployError, MissingCapabilityError
from ...files import atomic_path, user_cache

COMPILERS = ("g++", "c++", "clang++")  # in this order, after what CXX names
UNITS = ("layers.cpp", "onnxruntime.cpp")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
NATIVE = "native"

Floats = NDArray[np.float32]


def cpu_library(*, machine: str = NATIVE, cache_folder: Path | None = None) -> Path:
    """The shared library, from the cache or compiled, which takes about five seconds.

    ``machine``: the compiler's ``-march``. The name is the hash of all that shapes it: sources, flags, and what the
    compiler says about itself and the processor. MissingCapabilityError without a compiler, or with one that refuses.
    """
    compiler = find_compiler()
    if compiler is None:
        raise MissingCapabilityError(
            "our CPU operators are compiled on first use, and there is no C++ compiler here",
            "install g++ or clang++, or let CXX name one",
        )
    texts = source_texts()
    described = [*FLAGS, _macros(compiler, machine), *(part for name in sorted(texts) for part in (name, texts[name]))]
    name = hashlib.sha256("\0".join(described).encode()).hexdigest()[:32]
    library = (user_cache() if cache_folder is None else cache_folder) / f"cpu-{name}.so"
    if not library.is_file():
        _compile(compiler, machine, library)
    return library


def find_compiler() -> str | None:
    """The C++ compiler to use: what CXX names, else the first of ``COMPILERS`` that is installed."""
    names = [os.environ.get("CXX", ""), *COMPILERS]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def source_texts() -> dict[str, str]:
    """Every file that goes into the library, by its name."""
    files = [file for file in resources.files(__package__).iterdir() if file.name.endswith((".cpp", ".hpp"))]
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def _macros(compiler: str, machine: str) -> str:
    """What the compiler defines by itself: its version, and the instructions of the machine."""
    return _run([compiler, f"-march={machine}", "-dM", "-E", "-x", "c++", os.devnull])


def _compile(compiler: str, machine: str, library: Path) -> None:
    with resources.as_file(resources.files(__package__)) as folder, atomic_path(library) as temporary:
        units = [str(folder / unit) for unit in UNITS]
        _run([compiler, *FLAGS, f"-march={machine}", *units, "-o", str(temporary)])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise MissingCapabilityError(f"{' '.join(command[:3])} ... fails: {reason}", "let CXX name another compiler")
    return done.stdout


# ---- calling it ----


class _ConvCall(ctypes.Structure):
    """``dcp::ModulatedConv`` of layers.hpp."""

    _fields_ = [
        *((name, ctypes.c_ssize_t) for name in ("batch", "x_batch", "noise_batch", "height", "width")),
        *((name, ctypes.c_ssize_t) for name in ("inputs", "outputs", "up", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "packed", "style", "scale", "bias", "noise")),
        ("clamp", ctypes.c_float),
        ("y", ctypes.c_void_p),
    ]


class _RGBCall(ctypes.Structure):
    """``dcp::ToRGB`` of layers.hpp."""

    _fields_ = [
        *((name, ctypes.c_ssize_t) for name in ("batch", "height", "width", "inputs", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "styles", "weight", "bias", "skip")),
        ("clamp", ctypes.c_float),
        ("image", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
    ]


class CPUOperators:
    """The library opened. Arrays are contiguous; ``threads`` 0 is one for each core."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self.functions = ctypes.CDLL(os.fspath(library))
        self.functions.dcp_lanes.restype = ctypes.c_ssize_t
        self.functions.dcp_packed_floats.restype = ctypes.c_ssize_t
        self.lanes = int(self.functions.dcp_lanes())

    def start(self, threads: int) -> None:
        """Make the threads of later calls, on the cores that the calling thread may use."""
        self.functions.dcp_start(ctypes.c_ssize_t(threads))

    def stored(self, channels: int) -> int:
        """``channels`` rounded up to whole vectors."""
        return -(-channels // self.lanes) * self.lanes

    def pack(self, weight: Floats, *, up: bool) -> Floats:
        """A weight [outputs, inputs, 3, 3] as :meth:`modulated_conv` takes it."""
        sizes = [ctypes.c_ssize_t(size) for size in (*weight.shape[:2], up)]
        packed = np.empty(self.functions.dcp_packed_floats(*sizes), np.float32)
        self.functions.dcp_pack(_address(weight), *sizes, _address(packed))
        return packed

    def modulated_conv(
        self,
        x: Floats,
        packed: Floats,
        style: Floats,
        scale: Floats,
        bias: Floats,
        noise: Floats | None,
        y: Floats,
        *,
        up: bool = False,
        clamp: float = 0.0,
        threads: int = 0,
    ) -> None:
        """Fill y with lrelu(scale conv(style x) + noise + bias), clamped to +-``clamp`` unless that is 0.

        x [B or 1, H, W, stored inputs], H and W multiples of 4; style [B, inputs]; scale [B, outputs]; bias [outputs];
        noise [B or 1, 1, height, width] of y; y [B, H, W, stored outputs], with ``up`` twice as high and wide.
        """
        batch, inputs = style.shape
        call = _ConvCall(
            batch, len(x), 1 if noise is None else len(noise), *x.shape[1:3], inputs, scale.shape[1], up, threads,
            *map(_address, (x, packed, style, scale, bias, noise)), clamp, _address(y),
        )  # fmt: skip
        self.functions.dcp_modulated_conv(ctypes.byref(call))

    def to_rgb(
        self,
        x: Floats,
        styles: Floats,
        weight: Floats,
        bias: Floats,
        skip: Floats | None,
        image: NDArray[Any],
        *,
        clamp: float = 0.0,
        threads: int = 0,
    ) -> None:
        """Fill image with (styles weight) x + bias, clamped, plus the skip image at twice its size.

        x [B, H, W, stored inputs], styles [B, inputs], weight [3, inputs], bias [3], skip [B, 3, H / 2, W / 2]; image
        float32 [B, 3, H, W] or uint8 [B, H, W, 3].
        """
        target = [_address(image), None] if image.dtype == np.float32 else [None, _address(image)]
        call = _RGBCall(
            *x.shape[:3], styles.shape[1], threads, *map(_address, (x, styles, weight, bias, skip)), clamp, *target
        )
        self.functions.dcp_to_rgb(ctypes.byref(call))


@cache
def cpu_operators() -> CPUOperators:
    """The library of this machine, opened once. Raises what :func:`cpu_library` does."""
    library = cpu_library()
    try:
        return CPUOperators(library)
    except OSError as error:
        raise DcpDeployError(f"cannot open {library}: {error}", "delete it: it is compiled again") from error


def _address(array: NDArray[Any] | None) -> ctypes.c_void_p | None:
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError(f"an array {list(array.shape)} is not contiguous")
    return ctypes.c_void_p(array.ctypes.data)
