"""Load an exported ONNX file into a runtime: ONNX Runtime on a CPU or a GPU, OpenVINO on a CPU.

On a CPU both run the file unchanged, or with our operators in place of its convolutions (``-winograd``,
:mod:`~..graph.winograd`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...devices import default_threads
from ...errors import CorruptFileError, InputError, MissingCapabilityError, UsageError, choose
from ..graph.releases import too_new
from .session import Session

SPIN_MICROSECONDS = 1000
SPIN_BOUNDED_SINCE = (1, 32)  # tested from this version on; an older one may ignore the bound and spin without end

WINOGRAD = "-winograd"  # after the name of a runtime
ONNX_BACKENDS = ("onnxruntime", "onnxruntime-winograd", "onnxruntime-cuda", "openvino", "openvino-winograd")


def open_session(path: Path, backend: str = "auto", threads: int | None = None) -> Session:
    """Open ``path`` with one of ``ONNX_BACKENDS``; "auto" is onnxruntime. ``threads`` of a call, by default
    :func:`~dcp_deploy.devices.default_threads`.

    Raises UsageError for any other backend, MissingCapabilityError for a runtime or a GPU that is not available,
    CorruptFileError for a file that cannot be loaded.
    """
    if backend not in ("auto", *ONNX_BACKENDS):
        raise UsageError(f"backend {backend!r} cannot run the ONNX file {path}", choose(backend, ONNX_BACKENDS))
    threads = default_threads() if threads is None else threads
    if backend.startswith("openvino"):
        from .openvino import openvino_session

        return openvino_session(path, threads, winograd=backend.endswith(WINOGRAD))
    backend = "onnxruntime" if backend == "auto" else backend
    model = _with_cpu_operators(path, threads) if backend.endswith(WINOGRAD) else None
    session = onnx_session(path, model, backend, threads)
    inputs, outputs = (
        {value.name: (value.type, value.shape) for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    )
    facts = session.get_modelmeta().custom_metadata_map
    return Session(path, backend, inputs, outputs, facts, lambda feeds: session.run(["image"], dict(feeds))[0])


def onnx_session(path: Path, model: bytes | None, backend: str, threads: int | None) -> Any:
    """Make an onnxruntime session of the file, or of ``model``, a changed graph of it with weights beside ``path``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingCapabilityError(
            f"running {path} needs onnxruntime, which is not installed",
            "Install it: pip install 'dcp-deploy[cpu]' (or [gpu] on a machine with one; the two exclude each other).",
        ) from error
    providers = _providers(onnxruntime, backend)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if backend.endswith(WINOGRAD):
        from ...kernels.cpu.library import cpu_operators

        options.register_custom_ops_library(os.fspath(cpu_operators().library))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # our operators need the cores
    else:
        _spin_briefly(options, onnxruntime.__version__)
    if model is not None:
        folder = os.fspath(path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if threads is not None:
        options.intra_op_num_threads = threads
    source = os.fspath(path) if model is None else model
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # its exception types have no common base class
        raise _refusal(path, onnxruntime.__version__, str(error)) from error
    if len(session.get_providers()) < len(providers):  # it falls back to the CPU without an error
        raise MissingCapabilityError(
            f"backend {backend!r}: onnxruntime could not start its CUDA provider",
            "Run dcp-deploy doctor to see what is missing.",
        )
    return session


def _with_cpu_operators(path: Path, threads: int | None) -> bytes:
    """Return the file's graph with our operators. MissingCapabilityError without onnx or a compiler."""
    try:
        import onnx  # noqa: F401 - a service that only runs bundles does not need it
    except ImportError as error:
        raise MissingCapabilityError(
            f"backend 'onnxruntime{WINOGRAD}' changes the graph of {path}, which needs onnx",
            "Install it: pip install onnx; or use backend onnxruntime.",
        ) from error
    from ...kernels.cpu.library import cpu_operators
    from ..graph.file import read_whole_onnx
    from ..graph.winograd import with_cpu_operators

    lanes = cpu_operators().lanes
    graph: bytes = with_cpu_operators(read_whole_onnx(path), lanes=lanes, threads=threads or 0).SerializeToString()
    return graph


def _spin_briefly(options: Any, version: str) -> None:
    """Let idle threads spin for at most a millisecond, or not at all if this version cannot bound the time.

    Spinning between two operators makes a small student a tenth faster (64 px, two cores). Spinning between two calls
    takes the cores from the rest of the process: with ONNX Runtime's default a torch network timed beside a session on
    two cores took 108 ms instead of 21 ms.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2])
    bounded = numbers >= SPIN_BOUNDED_SINCE
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if bounded else "0")
    if bounded:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))


def _refusal(path: Path, version: str, reason: str) -> InputError | MissingCapabilityError:
    """Return the error for a file that ONNX Runtime does not load, in words where its reason is known."""
    if meaning := too_new(reason):
        return MissingCapabilityError(f"onnxruntime {version} cannot load {path}: {meaning[0]}", meaning[1])
    if "Could not find an implementation for Conv" in reason:
        return InputError(
            f"onnxruntime {version} cannot run {path}: it lacks convolutions in bfloat16, as earlier versions wrote",
            "Export it again: bf16 files have casts now and run in every ONNX Runtime.",
        )
    first = (reason.splitlines() or ["no reason given"])[0]
    return CorruptFileError(f"onnxruntime cannot load {path}: {first}", "Export it again.")


def _providers(onnxruntime: Any, backend: str) -> list[Any]:
    if backend != "onnxruntime-cuda":
        return ["CPUExecutionProvider"]
    import torch

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not torch.cuda.is_available():
        raise MissingCapabilityError(
            f"backend {backend!r} needs a GPU and onnxruntime-gpu; this machine lacks one of them",
            "Use backend onnxruntime, or change the package: pip uninstall onnxruntime; pip install 'dcp-deploy[gpu]'",
        )
    # TF32 keeps 10 bits of a float32, which is less than the precision that the file declares.
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
