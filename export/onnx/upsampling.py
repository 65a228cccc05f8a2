"""Which form of up-sampling is faster, layer by layer, measured where the network is exported.

The two forms are the same function (see :class:`~.fused_stylegan2.FusedConv`): "transposed" does a quarter of the
multiplications, "polyphase" never stores the unfiltered image. Which is faster hangs on widths, size and backend, so
each layer is timed alone with its epilogue, at its own widths and size, both forms in turns, and the medians decide.

Times differ from run to run, and where the forms are close, so does the choice. A build that is killed and goes on has
to end with the bytes of one that was not, so ``build`` never measures: it takes "transposed", and so does ``dcp-deploy
export`` unless it is told ``--upsample auto``. What was measured and chosen stands in the file's metadata; handing that
choice to :func:`~.onnx.export_onnx` gives the same graph again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
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

ROUNDS = 9  # of both forms in turns, after one that is thrown away
SECONDS = 2.0  # per layer and form at most, with three rounds at least

Time = Callable[[], float]  # run once, seconds


@dataclass(frozen=True)
class ChosenMethod:
    """The form of one layer and why: median times of both, in milliseconds, and what ran them."""

    form: Upsample
    transposed_ms: float
    polyphase_ms: float
    backend: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def choose_methods(generator: Generator, *, batch: int = 1) -> dict[str, ChosenMethod]:
    """Time every up-sampling layer in both forms, for ``batch`` images, and choose the faster.

    On a GPU when torch sees one (our torch operators), else by ONNX Runtime on the CPU. Empty for a StyleGAN3.
    MissingCapabilityError where neither is there.
    """
    if generator.config.layout is not None:
        return {}
    start = _cuda_timer if torch.cuda.is_available() else _onnxruntime_timer
    networks = [FusedSynthesis(generator, upsample=form) for form in UPSAMPLES]
    chosen: dict[str, ChosenMethod] = {}
    for layer in networks[0].options.upsample:
        timers = []
        for network in networks:
            conv = network.get_submodule(f"synthesis.{layer}")
            assert isinstance(conv, FusedConv)
            timer, backend = start(conv, int(layer[1:].split(".")[0]) // 2, batch)
            timers.append(timer)
        transposed, polyphase = in_turns(timers)
        chosen[layer] = choice(transposed, polyphase, f"{backend}, batch {batch}")
    return chosen


def choice(transposed: float, polyphase: float, backend: str) -> ChosenMethod:
    """The faster form, given seconds; "transposed" when they are equal."""
    form: Upsample = "polyphase" if polyphase < transposed else "transposed"
    ratio = max(transposed, polyphase) / min(transposed, polyphase)
    reason = f"{ratio:.2f} times as fast as the other form, medians of runs in turns"
    return ChosenMethod(form, round(transposed * 1e3, 4), round(polyphase * 1e3, 4), backend, reason)


def in_turns(timers: list[Time]) -> list[float]:
    """The median time of each, run in turns so that whatever else the machine does falls on all alike."""
    for timer in timers:
        timer()
    times: list[list[float]] = [[] for _ in timers]
    while len(times[0]) < 3 or (len(times[0]) < ROUNDS and max(map(sum, times)) < SECONDS):
        for timer, taken in zip(timers, times, strict=True):
            taken.append(timer())
    return [statistics.median(taken) for taken in times]


# ---- ONNX Runtime on the CPU ----


def _onnxruntime_timer(conv: FusedConv, size: int, batch: int) -> tuple[Time, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingCapabilityError(
            "upsample 'auto' measures with a GPU or with onnxruntime; neither is here",
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


def layer_model(conv: FusedConv, size: int) -> onnx.ModelProto:
    """One up-sampling layer, from [B, Ci, size, size] to [B, Co, 2 size, 2 size], as it stands in an exported file."""
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
            info("input", kind, ["batch", fan_in, size, size]),
            info("scale", kind, ["batch", channels]),
            info("next_scale", kind, ["batch", channels]),
        ],
        [info("image", kind, ["batch", channels, 2 * size, 2 * size])],
        [numpy_helper.from_array(x.numpy(), name) for name, x in constants.items() if x is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    add_functions(model)
    return model


def _inputs(conv: FusedConv, size: int, batch: int) -> dict[str, Tensor]:
    channels = len(conv.bias)
    return {
        "input": torch.randn(batch, len(conv.energy), size, size),
        "scale": torch.rand(batch, channels),
        "next_scale": torch.rand(batch, channels),
    }


# ---- torch on a GPU ----


def _cuda_timer(conv: FusedConv, size: int, batch: int) -> tuple[Time, str]:
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


def methods_of(chosen: Mapping[str, ChosenMethod]) -> dict[str, Upsample]:
    """The forms alone, as :class:`~.fused.FusedGenerator` takes them."""
    return {layer: entry.form for layer, entry in chosen.items()}
