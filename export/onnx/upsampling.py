"""Measuring which up-sampling method is faster, layer by layer, on the machine that exports.

The two methods are the same function (see :class:`~..fused.stylegan2.FusedConv`): "transposed" needs a quarter of the
multiplications, "polyphase" never stores the unfiltered image. Which is faster depends on widths, size and backend. So
each layer is timed alone with its epilogue, at its own widths and size, both methods in turns; the medians decide.

Times differ from run to run, and so does the choice where the methods are close. A build that was killed and resumed
must give the same bytes as one that was not, so ``build`` never measures: it uses "transposed", and so does
``dcp-deploy export`` without ``--upsample auto``. The file's metadata record what was measured and chosen; passing that
choice to :func:`~.exporter.export_onnx` gives the same graph again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import MissingCapabilityError
from ...generators import Generator
from ..fused.generator import UPSAMPLES, FusedSynthesis
from ..fused.stylegan2 import FusedConv, NormalStyles, Upsample
from ..graph.functions import OPSET, add_functions
from ..graph.operators import DOMAIN, PLUGIN, attributes_of, inputs_of

if TYPE_CHECKING:
    import onnx

ROUNDS = 9  # of both methods in turns, after one that is discarded
SECONDS = 2.0  # the most per layer and method, with three rounds at least

Time = Callable[[], float]  # runs a layer once and returns seconds


@dataclass(frozen=True)
class ChosenMethod:
    """The method of one layer (``form``) and why: median times of both in milliseconds, and the backend."""

    form: Upsample
    transposed_ms: float
    polyphase_ms: float
    backend: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def choose_methods(generator: Generator, *, batch: int = 1) -> dict[str, ChosenMethod]:
    """Time both methods for every up-sampling layer, with ``batch`` images, and choose the faster.

    It runs our torch operators on a GPU if torch finds one, else ONNX Runtime on the CPU. The result is empty for a
    StyleGAN3. Raises MissingCapabilityError without either.
    """
    if generator.config.layout is not None:
        return {}
    start = _cuda_timer if torch.cuda.is_available() else _onnxruntime_timer
    networks = [FusedSynthesis(generator, upsample=method) for method in UPSAMPLES]
    chosen: dict[str, ChosenMethod] = {}
    for layer in networks[0].options.upsample:
        timers = []
        for network in networks:
            conv = network.get_submodule(f"synthesis.{layer}")
            assert isinstance(conv, FusedConv)
            size = generator.config.size_at(int(layer[1:].split(".")[0]) // 2)
            timer, backend = start(conv, size, batch)
            timers.append(timer)
        transposed, polyphase = in_turns(timers)
        chosen[layer] = choice(transposed, polyphase, f"{backend}, batch {batch}")
    return chosen


def choice(transposed: float, polyphase: float, backend: str) -> ChosenMethod:
    """Return the faster method by the two times in seconds; "transposed" when they are equal."""
    method: Upsample = "polyphase" if polyphase < transposed else "transposed"
    ratio = max(transposed, polyphase) / min(transposed, polyphase)
    reason = f"{ratio:.2f} times as fast as the other method, medians of runs in turns"
    return ChosenMethod(method, round(transposed * 1e3, 4), round(polyphase * 1e3, 4), backend, reason)


def in_turns(timers: list[Time]) -> list[float]:
    """Return the median time of each, run in turns so that other load on the machine slows all of them alike."""
    for timer in timers:
        timer()
    times: list[list[float]] = [[] for _ in timers]
    while len(times[0]) < 3 or (len(times[0]) < ROUNDS and max(map(sum, times)) < SECONDS):
        for timer, taken in zip(timers, times, strict=True):
            taken.append(timer())
    return [statistics.median(taken) for taken in times]


# ---- ONNX Runtime on the CPU ----


def _onnxruntime_timer(conv: FusedConv, size: tuple[int, int], batch: int) -> tuple[Time, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingCapabilityError(
            "upsample 'auto' measures with a GPU or with onnxruntime, and this machine has neither",
            "pip install 'dcp-deploy[cpu]', or choose transposed or polyphase yourself",
        ) from error
    feeds = {name: x.numpy() for name, x in _inputs(conv, size, batch).items()}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = layer_model(conv, size).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run() -> float:
        start = time.perf_counter()
        session.run(None, feeds)
        return time.perf_counter() - start

    return run, f"onnxruntime {onnxruntime.__version__} on the CPU"


def layer_model(conv: FusedConv, size: tuple[int, int]) -> onnx.ModelProto:
    """Return one up-sampling layer, [B, Ci, *size] to twice that size, [B, Co, 2 H, 2 W], as in an exported file."""
    import onnx
    from onnx import helper, numpy_helper

    noise, clamp = "Noise" * (conv.noise is not None), "Clamp" * (conv.clamp is not None)
    if conv.upsample == "transposed":
        op_type = f"FirEpilogue{noise}Next{clamp}"
        product = helper.make_node("ConvTranspose", ["input", "weight"], ["x"], strides=[2, 2])
    else:
        op_type = f"ModConvEpilogueShuffle{noise}Next{clamp}"
        product = helper.make_node("Conv", ["input", "weight"], ["x"], pads=[1, 1, 1, 1])
    values: dict[str, Any] = {"clamp": conv.clamp, "channels": len(conv.bias), **PLUGIN}
    attributes = {name: values[name] for name in attributes_of(op_type)}
    epilogue = helper.make_node(op_type, inputs_of(op_type), ["image"], domain=DOMAIN, **attributes)
    constants = {"weight": conv.weight, "noise": conv.noise, "bias": conv.bias}
    info, kind, channels = helper.make_tensor_value_info, onnx.TensorProto.FLOAT, len(conv.bias)
    fan_in = len(conv.energy)
    graph = helper.make_graph(
        [product, epilogue],
        "layer",
        [
            info("input", kind, ["batch", fan_in, *size]),
            info("scale", kind, ["batch", channels]),
            info("next_scale", kind, ["batch", channels]),
        ],
        [info("image", kind, ["batch", channels, *(2 * side for side in size)])],
        [numpy_helper.from_array(x.numpy(), name) for name, x in constants.items() if x is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    add_functions(model)
    return model


def _inputs(conv: FusedConv, size: tuple[int, int], batch: int) -> dict[str, Tensor]:
    channels = len(conv.bias)
    return {
        "input": torch.randn(batch, len(conv.energy), *size),
        "scale": torch.rand(batch, channels),
        "next_scale": torch.rand(batch, channels),
    }


# ---- torch on a GPU ----


def _cuda_timer(conv: FusedConv, size: tuple[int, int], batch: int) -> tuple[Time, str]:
    device = torch.device("cuda")
    layer: nn.Module = conv.to(device)
    x, _, following = (value.to(device) for value in _inputs(conv, size, batch).values())
    styles = NormalStyles(torch.rand(batch, len(conv.energy), device=device), torch.ones(batch, 1, device=device))

    def run() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            start.record()
            for _ in range(10):
                layer(x, styles, None, following)
            end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e4  # milliseconds of ten runs to seconds of one

    return run, f"torch {torch.__version__} on {torch.cuda.get_device_name(device)}"
