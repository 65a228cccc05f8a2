"""OpenVINO on a CPU: the same file and the same images as with ONNX Runtime.

The graph that OpenVINO compiles differs from the file in three ways, none of which changes its meaning:

- ToRGB is a 1x1 convolution of the scaled features, not a product with the features as a matrix. OpenVINO keeps
  features with the channels last, where that matrix would be a copy of everything: a tenth of the time at 256 px.
- The outputs of an int8 file's convolutions keep their integer sums. The file rounds them only because ONNX Runtime has
  no integer convolutions otherwise.
- A bfloat16 file has its convolutions in bfloat16, without the casts around them.

bfloat16 files, and the layers of int8 files that are not int8, are computed in bfloat16 if the processor has
instructions for it, all others in float32.

With our operators in place of its convolutions (:mod:`~..graph.winograd`) the graph is the one for ONNX Runtime.

A model is compiled for each batch size on first use, in about half a second, and the last few are kept: with known
shapes it runs a fifth faster.

A process has one ``openvino.Core`` and never releases it. OpenVINO 2026.4 sets a stack for signal handlers with every
Core that compiles something. When the second of two is released, it restores the first one's stack, which is unmapped
by then: the next Ctrl-C or SIGTERM would end Python with a segmentation fault.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ...errors import CorruptFileError, DcpDeployError, MissingCapabilityError
from ..graph.bfloat16 import narrowed
from ..graph.functions import add_functions
from .session import Session, Values

if TYPE_CHECKING:
    import onnx

KEPT_BATCHES = 4


def openvino_session(path: Path, threads: int | None = None, *, winograd: bool = False) -> Session:
    """Open a file as :func:`~.sessions.open_session` does, with our CPU operators if ``winograd``.

    A call uses all the session's threads; calls from several threads take turns.
    """
    import onnx

    try:
        import openvino
    except ImportError as error:
        raise MissingCapabilityError(
            f"backend 'openvino': running {path} needs openvino, which is not installed",
            "Install it: pip install 'dcp-deploy[openvino]'",
        ) from error
    try:
        model = onnx.load(path)
        core = _core(openvino)
        graph = _with_cpu_operators(core, model, threads) if winograd else _for_openvino(model)
        read = core.read_model(graph.SerializeToString())
    except DcpDeployError:
        raise
    except Exception as error:  # the types of protobuf, onnx and OpenVINO have no common base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptFileError(f"openvino cannot load {path}: {reason}", "Export it again.") from error
    facts = {entry.key: entry.value for entry in model.metadata_props}
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _computed_in(core, facts.get("precision")),
    }
    if winograd:
        options["ENABLE_CPU_PINNING"] = False  # otherwise our threads cannot use one of the cores
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    inputs, outputs = _values(model.graph.input), _values(model.graph.output)

    @lru_cache(maxsize=KEPT_BATCHES)
    def compiled(batch: int) -> Any:
        fixed = read.clone()
        fixed.reshape({name: [batch, *shape[1:]] for name, (_, shape) in inputs.items()})
        return core.compile_model(fixed, "CPU", options).create_infer_request()

    turn = threading.Lock()  # an inference request has only one set of tensors

    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        with turn:
            image: npt.NDArray[Any] = compiled(len(next(iter(feeds.values())))).infer(dict(feeds))["image"]  # a copy
        return image

    return Session(path, "openvino-winograd" if winograd else "openvino", inputs, outputs, facts, run)


def _computed_in(core: Any, precision: str | None) -> str:
    """Return the type of what is not int8. A processor without bfloat16 products would only lose precision by it."""
    narrow = precision in ("bf16", "int8") and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if narrow else "f32"


@lru_cache(maxsize=1)
def _core(openvino: Any) -> Any:
    return openvino.Core()


def _values(values: Any) -> dict[str, Values]:
    """Return type and shape by name, with ONNX Runtime's names of types."""
    import onnx

    found = {}
    for value in values:
        kind = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim]
        found[value.name] = f"tensor({onnx.TensorProto.DataType.Name(kind.elem_type).lower()})", shape
    return found


# ---- the graph that OpenVINO compiles ----


def _for_openvino(model: onnx.ModelProto) -> onnx.ModelProto:
    """Change the model in place: drop the rounding of outputs, replace our operators by their definitions."""
    from onnx.inliner import inline_local_functions

    _keep_sums(model)
    narrowed(model)
    del model.functions[:]
    add_functions(model, colours="convolution")
    return inline_local_functions(model)


def _with_cpu_operators(core: Any, model: onnx.ModelProto, threads: int | None) -> onnx.ModelProto:
    from ...kernels.cpu.library import cpu_operators
    from ..graph.winograd import with_cpu_operators

    _extend(core)
    operators = cpu_operators()
    operators.start(threads or 0)
    return with_cpu_operators(model, lanes=operators.lanes, threads=threads or 0)


@lru_cache(maxsize=1)
def _extend(core: Any) -> None:
    from .openvino_operators import extensions

    for extension in extensions():
        core.add_extension(extension)


def _keep_sums(model: onnx.ModelProto) -> None:
    """Remove the rounding that :func:`~..onnx.quantization.quantize` put after convolutions."""
    makers = {output: node for node in model.graph.node for output in node.output}
    readers = {value: node for node in model.graph.node for value in node.input}
    for node in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        maker = makers.get(node.input[0])
        if maker is None or maker.op_type != "Conv":  # the node rounds an input
            continue
        after = readers[node.output[0]]
        maker.output[0] = after.output[0]
        model.graph.node.remove(node)
        model.graph.node.remove(after)
