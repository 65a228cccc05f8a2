"""The real Python bindings of TensorRT over stub libraries: every class and signature, no builder and no GPU.

The bindings' wheel is under NVIDIA's licence, so the tests download it into pytest's cache, and it is not part of this
repository. Tests are skipped without network, a wheel for this Python, or a C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

VERSIONS = ("10.16.1.11", "11.4.0.106")

# The functions that the bindings link to, as NVIDIA's public headers declare them; the stubs do nothing.
LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL getPluginRegistry "
        "getBuilderPluginRegistry"
    ),
    "nvinfer_plugin": "initLibNvInferPlugins",
    "nvonnxparser": "createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion",
}

FRONT = """import ctypes, pathlib
for name in {names!r}:
    ctypes.CDLL(str(pathlib.Path(__file__).parent / name), mode=ctypes.RTLD_GLOBAL)
from tensorrt_bindings import *
from tensorrt_bindings import __version__
"""


class Unavailable(Exception):
    """Raised with the reason if the bindings cannot be made on this machine."""


def stub_tensorrt(cache: Path, version: str) -> Path:
    """Return a folder for PYTHONPATH where ``import tensorrt`` is this version, cached or made. Raises Unavailable."""
    folder = cache / f"{version}-cp{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "tensorrt" / "__init__.py").is_file():
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            _unpack(_download(cache, version), made)
            _front_package(made, version)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _download(cache: Path, version: str) -> Path:
    wheels = cache / "wheels"
    found = list(wheels.glob(f"*-{version}-cp{sys.version_info.major}{sys.version_info.minor}-*.whl"))
    if found:
        return found[0]
    package = f"tensorrt-cu13-bindings=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=0", "--quiet"]
    try:
        subprocess.run(
            [*command, "--timeout=10", "--dest", str(wheels), package], capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{package} cannot be downloaded: {type(error).__name__}") from error
    return next(wheels.glob(f"*-{version}-*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _front_package(folder: Path, version: str) -> None:
    """Write the package ``tensorrt``, which loads the stubs and then imports the bindings and their ``plugin``."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        raise Unavailable(f"no C compiler ({compiler}) to build the stub libraries")
    front = folder / "tensorrt"
    front.mkdir()
    names = []
    for name, functions in LIBRARIES.items():
        source = front / f"{name}.c"
        answer = 1 if name == "nvinfer_plugin" else 0
        source.write_text(
            "\n".join(f"void *{function}(void) {{ return (void *){answer}; }}" for function in functions.split())
        )
        library = f"lib{name}.so.{version.split('.')[0]}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(front / library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        names.append(library)
    shutil.copytree(folder / "tensorrt_bindings" / "plugin", front / "plugin")
    (front / "__init__.py").write_text(FRONT.format(names=names))
