"""Our kernels inside TensorRT engines: the epilogues as ahead-of-time plugins ("quickly deployable plugins").

TensorRT's parser replaces each ONNX node by a registered plugin of the same operator type, if the node has our plugin
namespace. All other runtimes use the function body in the file. The kernel goes into the engine as PTX with its launch
geometry as a function of the batch, so a running engine needs neither Python nor this package. TensorRT times the
tactics (accesses of 16 bytes or one element, 256 or 128 threads, the naive variant) in each layout that it considers,
and keeps the fastest.

Tests run the whole cycle with the Python bindings of TensorRT 10.16 and 11.4 over stub libraries. This project has not
run it on a GPU yet.
"""

# No "from __future__ import annotations": TensorRT needs annotations of registered functions as types, not as text.

import inspect
from collections.abc import Callable
from typing import Any, Tuple, Union  # noqa: UP035 - the types that TensorRT's validation accepts in every version

import numpy as np
import numpy.typing as npt
import torch

from ...errors import MissingCapabilityError
from ...kernels.cuda.launch import build_target
from ...kernels.cuda.library import compiler_version
from ..graph.operators import DOMAIN
from .plugin_kernels import OPERATORS, TACTICS, Operator, kernel_ptx, legal_tactics, output_shape, plugin_call
from .targets import import_flavour

NAMESPACE = DOMAIN  # the parser looks plugins up by namespace and operator type
MAX_BATCH_ROWS = 65535  # grid.y: MAX_GRID_Y of kernels/cuda/calls.py

# TensorRT's layouts that equal ours. HWC8 pads channels to multiples of eight, so it is offered for those only.
LAYOUTS = {"LINEAR": "nchw", "HWC": "nhwc", "HWC8": "nhwc"}
STORED = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}  # by trt.DataType's names
TYPE_NAMES = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16"}  # in an autotune combination

_registered: dict[str, int] = {}  # once registered: {"capability": what kernels are compiled for}


def register(capability: int) -> dict[str, Any]:
    """Register every operator with TensorRT, once per process; from now on PTX is made for sm``capability``.

    Returns the manifest's entry about plugins. Raises MissingCapabilityError without TensorRT or NVRTC, for a GPU that
    the kernels are not built for, and if NVRTC is newer than the driver, which would then refuse its PTX.
    """
    trt = import_flavour("tensorrt")
    import tensorrt.plugin as trtp

    target = build_target(divmod(capability, 10))
    version = nvrtc_version()
    driver = driver_version()
    if driver is not None and driver < version:
        found, most = (".".join(map(str, pair)) for pair in (version, driver))
        raise MissingCapabilityError(
            f"NVRTC {found} is newer than CUDA {most} of the driver, which would refuse the kernels",
            f"Install it: pip install 'nvidia-cuda-nvrtc=={most}.*'",
        )
    if not _registered:
        for operator in OPERATORS.values():
            define(trt, trtp, operator)
    _registered["capability"] = target
    return {"namespace": NAMESPACE, "ptx": f"compute_{target}", "nvrtc": ".".join(map(str, version))}


def is_registered() -> bool:
    """Return whether the parser of this process uses our plugins."""
    return bool(_registered)


def nvrtc_version() -> tuple[int, int]:
    """Return the version of NVRTC. MissingCapabilityError if it is not installed."""
    try:
        major, minor = compiler_version("nvrtc").split(".")
    except (ImportError, RuntimeError) as error:
        message = "compiling kernels into engines needs NVRTC, which is not installed"
        raise MissingCapabilityError(message, "Install it: pip install 'dcp-deploy[kernels]'") from error
    return int(major), int(minor)


def driver_version() -> tuple[int, int] | None:
    """Return the newest CUDA version that the driver supports; None without a driver."""
    from cuda.bindings import driver

    try:
        status, version = driver.cuDriverGetVersion()
    except RuntimeError:  # no libcuda
        return None
    return None if int(status) or not version else (version // 1000, version % 1000 // 10)


# ---- called by TensorRT while it builds ----


def define(trt: Any, trtp: Any, operator: Operator) -> None:
    """Register an operator: its output, the combinations to time, and its kernels."""
    plugin_id = f"{NAMESPACE}::{operator.name}"
    attributes = {"clamp": npt.NDArray[np.float32]} if operator.clamps else {}
    tensors = dict.fromkeys(operator.inputs, trtp.TensorDesc)
    kernels = Tuple[Union[str, bytes], Union[str, bytes], trtp.KernelLaunchParams, trtp.SymExprs]  # noqa: UP006, UP007
    untyped = inspect.Parameter.empty

    def describe(*inputs: Any, **_: Any) -> Any:
        return describe_output(trt, trtp, operator, inputs[0])

    def combinations(*described: Any) -> Any:
        return offered(trt, trtp, operator, described[: len(operator.inputs)])

    def kernel(*described: Any) -> Any:
        return build_kernel(trt, trtp, operator, described)

    signed(describe, {**tensors, **attributes}, trtp.TensorDesc)
    signed(combinations, {**tensors, "outputs": untyped}, untyped)
    signed(kernel, {**tensors, **attributes, "outputs": untyped, "tactic": int}, kernels)
    trtp.register(plugin_id)(describe)
    trtp.autotune(plugin_id)(combinations)
    trtp.aot_impl(plugin_id)(kernel)


def signed(function: Callable[..., Any], parameters: dict[str, Any], returns: Any) -> None:
    """Set the signature that TensorRT reads from a function; names and types differ from operator to operator."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = inspect.Signature(named, return_annotation=returns)  # type: ignore[attr-defined]


def describe_output(trt: Any, trtp: Any, operator: Operator, x: Any) -> Any:
    """Return the symbolic shape and the type of the output."""
    shape = output_shape(operator, [x.shape_expr[axis] for axis in range(4)])
    dtype = x.dtype
    if operator.is_rgb:
        dtype = trt.DataType.UINT8 if operator.as_bytes else trt.DataType.FLOAT
    return trtp.from_shape_expr(shape, dtype)


def offered(trt: Any, trtp: Any, operator: Operator, inputs: Any) -> list[Any]:
    """Return every type of features in every layout that has kernels, with the tactics to time."""
    shapes = [list(tensor.shape) for tensor in inputs]
    channels = output_shape(operator, shapes[0])[1]
    whole_eights = shapes[0][1] % 8 == 0 and (operator.is_rgb or channels % 8 == 0)
    found = []
    for type_name, dtype in STORED.items():
        for layout, ours in LAYOUTS.items():
            if layout == "HWC8" and (dtype == torch.float32 or not whole_eights):
                continue
            output_type = ("UINT8" if operator.as_bytes else "FP32") if operator.is_rgb else TYPE_NAMES[type_name]
            types = [TYPE_NAMES[type_name], *["FP32"] * (len(inputs) - 1), output_type]
            layouts = [layout, *["LINEAR"] * (len(inputs) - 1), "LINEAR" if operator.is_rgb else layout]
            tactics = legal_tactics(operator, shapes, dtype, ours)  # type: ignore[arg-type]
            found.append(trtp.AutoTuneCombination(", ".join(types), ", ".join(layouts), tactics))
    return found


def build_kernel(trt: Any, trtp: Any, operator: Operator, described: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return (name, PTX, launch geometry, the batch as the only argument) for one type, layout and tactic."""
    inputs, (*attributes, _, tactic) = described[: len(operator.inputs)], described[len(operator.inputs) :]
    clamp = float(attributes[0][0]) if attributes else None
    x = inputs[0]
    dtype, layout = STORED[x.dtype.name], LAYOUTS[x.format.name]
    shapes = [list(tensor.shape) for tensor in inputs]
    call = plugin_call(operator, shapes, dtype, layout, clamp, tactic)  # type: ignore[arg-type]
    assert call is not None, "an engine is not built for an empty batch"
    block = TACTICS[tactic][1]
    name, ptx = kernel_ptx(operator, call, dtype, block, _registered["capability"])
    batch = x.shape_expr[0]
    launch = trtp.KernelLaunchParams()
    launch.grid_x = call.grid[0]
    launch.grid_y = trtp.max(trtp.min(batch, MAX_BATCH_ROWS), 1)  # a batch of 0 has one row of idle blocks
    launch.block_x = block
    return name, ptx, launch, trtp.SymIntExprs.from_tuple([trtp.SymInt32(batch)])
