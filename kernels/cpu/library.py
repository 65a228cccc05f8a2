"""The CPU operators: compiled for this machine by its C++ compiler, kept in a cache, called through ctypes.

A library is compiled for the processor of this machine (``-march=native``), so none is shipped. ONNX Runtime opens it
by its path (``onnxruntime.cpp``); other callers use the functions below. Features are float32 [B, H, W, C] with the
channels rounded up to whole vectors; the values in the added channels have no meaning.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DcpDeployError, MissingCapabilityError
from ...files import atomic_path, find_compiler, kernel_cache

UNITS = ("layers.cpp", "onnxruntime.cpp")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
NATIVE = "native"

Floats = NDArray[np.float32]


def cpu_library(*, machine: str = NATIVE, cache_folder: Path | None = None) -> Path:
    """Return the path of the shared library, from the cache or compiled, which takes about five seconds.

    ``machine`` is the compiler's ``-march``. The cache key is a hash of sources, flags, and the compiler's macros about
    itself and the processor. Raises MissingCapabilityError without a working compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise MissingCapabilityError(
            "our CPU operators are compiled on first use, and this machine has no C++ compiler",
            "Install g++ or clang++, or set CXX to one.",
        )
    texts = source_texts()
    described = [*FLAGS, _macros(compiler, machine), *(part for name in sorted(texts) for part in (name, texts[name]))]
    name = hashlib.sha256("\0".join(described).encode()).hexdigest()[:32]
    library = (kernel_cache() if cache_folder is None else cache_folder) / f"cpu-{name}.so"
    if not library.is_file():
        _compile(compiler, machine, library)
    return library


def source_texts() -> dict[str, str]:
    """Return every source of the library by its file name."""
    files = [file for file in resources.files(__package__).iterdir() if file.name.endswith((".cpp", ".hpp"))]
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def _macros(compiler: str, machine: str) -> str:
    """Return the compiler's predefined macros: its version and the instructions of the machine."""
    return _run([compiler, f"-march={machine}", "-dM", "-E", "-x", "c++", os.devnull])


def _compile(compiler: str, machine: str, library: Path) -> None:
    with resources.as_file(resources.files(__package__)) as folder, tempfile.TemporaryDirectory() as scratch:
        units, linked = [str(folder / unit) for unit in UNITS], Path(scratch) / library.name
        _run([compiler, *FLAGS, f"-march={machine}", *units, "-o", str(linked)])
        with atomic_path(library) as temporary:  # a linker makes a new file in place of the one that is locked
            shutil.copyfile(linked, temporary)


def _run(command: Sequence[str]) -> str:
    """Return what a compiler prints. Raises OSError if it could not write, MissingCapabilityError if it fails."""
    english = {**os.environ, "LC_ALL": "C"}  # the words that are looked for below
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=english)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        words = f"{' '.join(command[:3])} ... fails: {reason}"
        for code, sign in ((errno.ENOSPC, os.strerror(errno.ENOSPC)), (errno.EFBIG, signal.strsignal(signal.SIGXFSZ))):
            if sign is not None and sign in done.stderr:
                raise OSError(code, words)
        raise MissingCapabilityError(words, "Set CXX to another compiler.")
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
    """The open library. Arrays must be contiguous; ``threads`` 0 means one for each core."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self.functions = ctypes.CDLL(os.fspath(library))
        self.functions.dcp_lanes.restype = ctypes.c_ssize_t
        self.functions.dcp_packed_floats.restype = ctypes.c_ssize_t
        self.lanes = int(self.functions.dcp_lanes())

    def start(self, threads: int) -> None:
        """Start the threads for later calls, on the cores that the calling thread may use."""
        self.functions.dcp_start(ctypes.c_ssize_t(threads))

    def stored(self, channels: int) -> int:
        """Return ``channels`` rounded up to whole vectors."""
        return -(-channels // self.lanes) * self.lanes

    def pack(self, weight: Floats, *, up: bool) -> Floats:
        """Return a weight [outputs, inputs, 3, 3] in the layout of :meth:`modulated_conv`."""
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

        x [B or 1, H, W, stored inputs]; style [B, inputs]; scale [B, outputs]; bias [outputs];
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
    """Return the library of this machine, opened once. Raises the errors of :func:`cpu_library`."""
    library = cpu_library()
    try:
        return CPUOperators(library)
    except OSError as error:
        raise DcpDeployError(f"cannot open {library}: {error}", "Delete it: it is then compiled again.") from error


def _address(array: NDArray[Any] | None) -> ctypes.c_void_p | None:
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError(f"an array {list(array.shape)} is not contiguous")
    return ctypes.c_void_p(array.ctypes.data)
