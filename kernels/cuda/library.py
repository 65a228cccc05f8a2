"""Compiles the CUDA sources to PTX and machine code by NVRTC or nvcc, and keeps them in a cache.

NVRTC (the wheel ``nvidia-cuda-nvrtc``, called through ``cuda-bindings``, which CUDA builds of torch depend on) needs
neither toolkit nor GPU nor driver. nvcc is used where only a toolkit is installed. The report of ptxas about registers
and spills is kept beside the code.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ...errors import DcpDeployError, MissingCapabilityError, UsageError, choose
from ...files import atomic_path, kernel_cache

Compiler = Literal["nvrtc", "nvcc"]

SOURCES = ("modconv_epilogue", "fir_epilogue", "to_rgb", "epilogue_rgb", "modulation")
CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
FLAGS = ("--std=c++17", "--ptxas-options=-v")
ENTRY_VERSION = 1  # format of the cache's entries, part of the cache key


@dataclass(frozen=True)
class Resources:
    """Resources of a kernel, as ptxas reports them: bytes or registers, ``shared`` per block, the rest per thread."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class CompiledSource:
    """One source for one GPU: PTX (which newer GPUs accept too), cubin, and each kernel's resources by name."""

    source: str
    capability: int
    compiler: str
    ptx: str
    cubin: bytes
    kernels: dict[str, Resources]


def compiled(
    source: str, capability: int, *, compiler: Compiler | None = None, cache_folder: Path | None = None
) -> CompiledSource:
    """Return the kernels of ``source``.cu for compute capability ``capability`` (90 is sm90), compiled or cached.

    ``cache_folder`` None is this user's cache. The cache key is a hash of sources, flags, compiler and its version.
    Entries are written completely or not at all, so two processes may compile the same source; a damaged entry is
    compiled again. Raises UsageError for an unknown name or GPU, MissingCapabilityError without a compiler.
    """
    if source not in SOURCES:
        raise UsageError(f"no kernel source named {source!r}", choose(source, SOURCES))
    if capability not in CAPABILITIES:
        known = ", ".join(f"sm{known}" for known in CAPABILITIES)
        raise UsageError(f"kernels are not built for sm{capability}", f"Choose one of: {known}.")
    chosen = compiler or default_compiler()
    folder = kernel_cache() if cache_folder is None else cache_folder
    entry = folder / f"{source}-sm{capability}-{cache_key(source, capability, chosen)}.zip"
    kept = _read_entry(entry)
    if kept is not None:
        return kept
    made = _compile(source, capability, chosen)
    _write_entry(entry, made)
    return made


def default_compiler() -> Compiler:
    """Return NVRTC if its wheel is installed, else nvcc. Raises MissingCapabilityError if there is neither."""
    if _nvrtc_works():
        return "nvrtc"
    if shutil.which("nvcc") is not None:
        return "nvcc"
    raise MissingCapabilityError(
        "no compiler for CUDA kernels is installed", "Install it: pip install 'dcp-deploy[kernels]'"
    )


@cache
def _nvrtc_works() -> bool:
    """Return whether the bindings are installed and find the library, in its wheel or in a toolkit."""
    try:
        compiler_version("nvrtc")
    except (ImportError, RuntimeError):
        return False
    return True


def cache_key(source: str, capability: int, compiler: Compiler) -> str:
    """Return the hex hash of everything that determines the compiled code."""
    parts = [str(ENTRY_VERSION), source, *FLAGS, str(capability), compiler, compiler_version(compiler)]
    for name, text in sorted(source_texts(source).items()):
        parts += [name, text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def source_texts(source: str) -> dict[str, str]:
    """Return the .cu file and all shared headers, by file name."""
    folder = resources.files(__package__)
    headers = sorted(file.name for file in folder.iterdir() if file.name.endswith(".cuh"))
    return {name: (folder / name).read_text(encoding="utf-8") for name in [f"{source}.cu", *headers]}


@cache
def compiler_version(compiler: Compiler) -> str:
    """Return the version that the compiler reports."""
    if compiler == "nvcc":
        answer = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
        return answer.strip().splitlines()[-1]
    from cuda.bindings import nvrtc

    major, minor = _checked(nvrtc.nvrtcVersion())
    return f"{major}.{minor}"


# ---- compiling ----


def _compile(source: str, capability: int, compiler: Compiler) -> CompiledSource:
    build = _by_nvrtc if compiler == "nvrtc" else _by_nvcc
    ptx, cubin, log = build(source, capability)
    found = parse_resources(log)
    name = f"{compiler} {compiler_version(compiler)}"
    return CompiledSource(source, capability, name, ptx, cubin, found)


def _by_nvrtc(source: str, capability: int) -> tuple[str, bytes, str]:
    from cuda.bindings import nvrtc

    texts = source_texts(source)
    main = texts.pop(f"{source}.cu")
    with _nvrtc_program(f"{source}.cu", main, texts, [f"--gpu-architecture=sm_{capability}", *FLAGS]) as (program, log):
        ptx = _text(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
        cubin = _bytes(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    return ptx.decode(), cubin, log


def ptx_of(name: str, main: str, headers: Mapping[str, str], capability: int) -> str:
    """Return PTX for ``capability`` and newer GPUs of a source that includes ``headers`` by name, always by NVRTC.

    Raises MissingCapabilityError if NVRTC is not installed, DcpDeployError if it does not compile the source.
    """
    if not _nvrtc_works():
        raise MissingCapabilityError(
            "compiling kernels into engines needs NVRTC", "Install it: pip install 'dcp-deploy[kernels]'"
        )
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture=compute_{capability}", "--std=c++17"]
    with _nvrtc_program(name, main, headers, options) as (program, _):
        return _text(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX).decode()


@contextmanager
def _nvrtc_program(
    name: str, main: str, headers: Mapping[str, str], options: Sequence[str]
) -> Iterator[tuple[Any, str]]:
    """Yield a compiled program and the compiler's log."""
    from cuda.bindings import nvrtc

    texts, names = [text.encode() for text in headers.values()], [header.encode() for header in headers]
    program = _checked(nvrtc.nvrtcCreateProgram(main.encode(), name.encode(), len(texts), texts, names))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode()
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise DcpDeployError(f"NVRTC refuses {name} with {' '.join(options)}:\n{log}", "Report this.")
        yield program, log
    finally:
        _checked(nvrtc.nvrtcDestroyProgram(program))


def _bytes(program: Any, size_of: Any, read: Any) -> bytes:
    buffer = bytes(_checked(size_of(program)))  # NVRTC fills it in place
    _checked(read(program, buffer))
    return buffer


def _text(program: Any, size_of: Any, read: Any) -> bytes:
    """Return the text without NVRTC's final NUL, which TensorRT would not accept."""
    return _bytes(program, size_of, read).rstrip(b"\0")


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return the values of a cuda-bindings answer. Raises DcpDeployError unless its status is success."""
    status, *values = answer
    if int(status) != 0:
        raise DcpDeployError(f"NVRTC fails with {status!r}", "Report this with the output of 'dcp-deploy doctor'.")
    return values[0] if len(values) == 1 else tuple(values)


def _by_nvcc(source: str, capability: int) -> tuple[str, bytes, str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in source_texts(source).items():
            (folder / file).write_text(text, encoding="utf-8")
        target = f"--generate-code=arch=compute_{capability},code=sm_{capability}"
        options = ["--std=c++17", "--keep", f"--keep-dir={folder}", "-Xptxas=-v", "--cubin", target]
        done = subprocess.run(
            ["nvcc", *options, "-o", str(folder / "out.cubin"), str(folder / f"{source}.cu")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DcpDeployError(f"nvcc refuses {source}.cu for sm{capability}:\n{done.stderr}", "Report this.")
        ptx = (folder / f"{source}.ptx").read_text(encoding="utf-8")
        return ptx, (folder / "out.cubin").read_bytes(), done.stdout + done.stderr


_KERNEL = re.compile(r"Function properties for (\w+)\s")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")


def parse_resources(log: str) -> dict[str, Resources]:
    """Return each kernel's resources from the output of ``ptxas -v``: a heading, a line of spills, one of registers."""
    found: dict[str, Resources] = {}
    for part in _KERNEL.split(log)[1:]:
        if re.fullmatch(r"\w+", part):
            name = part
            continue
        spills, used = _SPILLS.search(part), _USED.search(part)
        if spills is None or used is None:
            raise DcpDeployError(f"cannot read the report of ptxas about {name}:\n{part}", "Report this.")
        stack, stores, loads = map(int, spills.groups())
        found[name] = Resources(int(used[1]), int(used[2] or 0), stack, stores, loads)
    return found


# ---- the cache ----


def _write_entry(entry: Path, made: CompiledSource) -> None:
    record = asdict(made)
    cubin, ptx = record.pop("cubin"), record.pop("ptx")
    with atomic_path(entry) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("record.json", json.dumps(record))
        archive.writestr("kernels.ptx", ptx)
        archive.writestr("kernels.cubin", cubin)


def _read_entry(entry: Path) -> CompiledSource | None:
    """Return an entry, or None if it is missing or damaged (every member of a zip file has a checksum)."""
    try:
        with zipfile.ZipFile(entry) as archive:
            record = json.loads(archive.read("record.json"))
            ptx, cubin = archive.read("kernels.ptx").decode(), archive.read("kernels.cubin")
        kernels = {name: Resources(**values) for name, values in record.pop("kernels").items()}
        return CompiledSource(**record, ptx=ptx, cubin=cubin, kernels=kernels)
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, KeyError, TypeError, NotImplementedError):
        return None
