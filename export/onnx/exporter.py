"""Export of a generator as one portable ONNX file: constant weights, z and psi (or ws) in, images out.

The same generator and options give the same bytes, so a pipeline can detect changes by the hash. Everything that the
exporter records about the machine (source paths, stack traces) is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from ...checkpoints.provenance import UNKNOWN_LICENCE
from ...errors import UsageError, choose
from ...generators import Generator
from ...progress import Progress
from ...version import __version__
from ..fused.generator import FusedGenerator, FusedSynthesis, ImageForm, noise_shapes
from ..fused.stylegan2 import NoiseForm, Upsample
from ..graph.bfloat16 import widen
from ..graph.file import write_model
from ..graph.functions import add_functions
from ..graph.inlining import fix_batch, inlined
from ..graph.names import module_names, rename, strip_traces
from ..graph.nodes import translations
from ..graph.releases import runtime_words
from ..graph.versions import OLDEST_IR, OLDEST_OPSET, TORCH_OPSET, check_versions, lower_opset, versions_of
from ..parity.tolerance import Precision, tolerance_for
from ..runners.runner import NOISE_INPUT
from .precision import RangeTable, decide, measure_ranges
from .quantization import int8_model, plan_int8
from .rounding import IntegerKernel, ranges_and_kernels

if TYPE_CHECKING:
    import onnx

InputForm = Literal["z", "ws"]

PSI_RANGE = (0.0, 1.3)  # where tests compare the file with the readable generator; any other psi works too
Batch = int | tuple[int, int]
"""One size that the file runs, or the smallest and the largest that it is for."""

# Warnings that torch and onnxscript raise about themselves, not about our model: (category, start of the message).
_EXPORTER_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, r"# The axis name: batch will not be used, since it shares the same shape constraints"),
)
_EXPORTER_LOG = "torch.onnx._internal.exporter._registration"  # "torchvision is not installed"


def export_onnx(
    generator: Generator,
    path: str | os.PathLike[str],
    *,
    inputs: InputForm = "z",
    image: ImageForm = "uint8",
    upsample: Upsample = "transposed",
    noise: NoiseForm = "const",
    precision: Precision = "fp32",
    batch: Batch | None = None,
    opset: int | None = None,
    ir: int | None = None,
    inline: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write ``generator`` to ``path`` as ONNX and return the path.

    The inputs, all float32, are ``z`` [batch, z_dim], ``psi`` [batch] and, for a class-conditional generator, ``c``
    [batch, c_dim]. With ``inputs="ws"`` the only one is ``ws`` [batch, num_ws, w_dim], the latents of every slot after
    truncation. ``noise="input"`` adds an input for every layer that has noise: ``noise.b8.conv0`` [batch, 1, 8, 8],
    ..., of standard deviation 1. The output ``image`` is uint8 [batch, H, W, 3], or float32 [batch, 3, H, W] not
    clamped. ``upsample`` is that of :class:`~..fused.generator.FusedGenerator`.

    The batch is dynamic. ``batch=(1, 64)`` records the smallest and largest that the file promises to serve, for engine
    builds. ``batch=1`` fixes it, and with it every shape, for compilers that need them; such a file has no functions.

    ``inline`` writes standard operators in place of our functions, for runtimes and converters that have none
    (:mod:`..graph.inlining`). ``opset`` and ``ir`` are by default the lowest that the content needs, which the oldest
    runtimes read (:mod:`..graph.versions`). None of the three changes an image.

    ``metadata`` is added to the file's own (see :func:`describe`), for instance ``teacher_sha256`` or
    the licence and story of a checkpoint (:func:`~dcp_deploy.checkpoints.provenance.as_texts`). ``onnx.checker`` checks
    the file with shape inference before it appears under its name. Weights of more than 2 GB are stored beside it in
    ``NAME.data``.

    ``precision`` "fp16" and "bf16" store the convolutions in that type, except the layers whose measured ranges need
    float32. A bf16 file has casts around convolutions in float32, which every runtime can run; TensorRT and OpenVINO
    get convolutions in bfloat16 (:mod:`..graph.bfloat16`). "int8" quantises the layers with which the parity gate still
    passes (:mod:`.precision`, :mod:`.rounding`, :mod:`.quantization`). The file records what was measured and chosen,
    see :func:`~.quantization.precision_report`. ``progress`` counts batches of calibration images, then trials of the
    int8 plan: another total begins a new count.

    Raises UsageError for an unknown option, noise inputs of a network without noise, or versions that the content does
    not fit, ParityError if no layer can be int8.
    """
    import onnx

    tolerance = tolerance_for(precision)
    _check(generator, inputs, noise, batch)
    check_versions(opset, ir)
    form = FusedGenerator if inputs == "z" else FusedSynthesis
    ranges, kernels = _calibrated(generator, precision, upsample, progress)
    storage, measured = decide(ranges, precision)
    fused = form(generator, image=image, upsample=upsample, noise=noise, storage=storage)
    bounds = batch if isinstance(batch, tuple) else None
    model = _model(fused, bounds, opset)
    if ranges is not None and precision == "int8":
        alone = inputs == "z" and noise != "input"  # int8 layers are chosen on images generated from z alone
        trial = model if alone else _model(FusedGenerator(generator, upsample=upsample), None, opset)
        plan = plan_int8(trial, ranges, kernels, tolerance, progress=progress)
        model, measured["int8"] = int8_model(model, ranges, kernels, plan), json.dumps(plan.to_dict())
    if isinstance(batch, int):
        fix_batch(model, batch)
    if inline or isinstance(batch, int):
        model = inlined(model)
    model.ir_version = ir or OLDEST_IR
    facts = {"inputs": inputs, **fused.options.facts(), **measured, **version_facts(model)}
    if inputs == "z":
        facts["psi_range"] = f"{PSI_RANGE[0]},{PSI_RANGE[1]}"
    if batch is not None:
        facts["batch"] = ",".join(map(str, bounds or (batch, batch)))
    facts = {**describe(generator), **facts, **(metadata or {})}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in sorted(facts.items())})
    write_model(model, Path(path))
    return Path(path)


def _calibrated(
    generator: Generator, precision: Precision, upsample: Upsample, progress: Progress | None
) -> tuple[RangeTable | None, dict[str, IntegerKernel]]:
    """Return what ``precision`` has to know about the convolutions: their ranges, and for int8 the rounded weights."""
    if precision == "fp32":
        return None, {}
    if precision == "int8":
        return ranges_and_kernels(generator, upsample=upsample, progress=progress)
    return measure_ranges(generator, upsample=upsample, progress=progress), {}


def _check(generator: Generator, inputs: str, noise: str, batch: Batch | None) -> None:
    """Raise UsageError for options that do not fit the generator, and for an impossible batch."""
    if inputs not in get_args(InputForm):
        raise UsageError(f"inputs is {inputs!r}", choose(inputs, get_args(InputForm)))
    if noise == "input" and not noise_shapes(generator.config):
        raise UsageError(
            f"noise is 'input', but a {generator.config.kind} has no noise: no layer would take the maps",
            "Leave out --noise: the images depend on z alone.",
        )
    if isinstance(batch, int):
        if batch < 1:
            raise UsageError(f"batch is {batch}", "Give 1 or more.")
    elif batch is not None and not (1 <= batch[0] < batch[1]):
        raise UsageError(
            f"batch is {batch[0]} to {batch[1]}",
            "Give a smallest batch of 1 or more and a larger largest, or one number to fix it.",
        )


def version_facts(model: onnx.ModelProto) -> dict[str, str]:
    """Return what the metadata say about versions: opset, IR version, and the oldest runtimes that open the file."""
    ir, opset = versions_of(model)
    return {"opset": str(opset), "ir_version": str(ir), "runs_in": runtime_words(ir, opset)}


def describe(generator: Generator) -> dict[str, str]:
    """Return the metadata of every exported file: the tools, the architecture and the weights it was made from."""
    config = generator.config
    return {
        "tool": f"dcp-deploy {__version__}",
        "torch": torch.__version__,
        "onnx": version("onnx"),
        "onnxscript": version("onnxscript"),
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "kind": config.kind,
        "resolution": str(config.resolution),
        "widths": json.dumps(list(config.widths)),
        "z_dim": str(config.z_dim),
        "c_dim": str(config.c_dim),
        "weights_sha256": weights_sha256(generator),
        "licence": UNKNOWN_LICENCE,
    }


def weights_sha256(generator: Generator) -> str:
    """Return the hex sha256 over the config and every tensor of a generator, whatever file it came from."""
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for key, value in sorted(generator.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- torch to ONNX ----


def _model(
    fused: FusedGenerator | FusedSynthesis, batch: tuple[int, int] | None, opset: int | None = None
) -> onnx.ModelProto:
    """Return ``fused`` as a graph with readable names and our functions, without metadata and shapes."""
    return _tidied(_trace(fused, batch or (1, None), max(opset or 0, TORCH_OPSET)), opset)


def graph_of(module: torch.nn.Module, samples: Mapping[str, torch.Tensor], output: str) -> onnx.ModelProto:
    """Return any module with the inputs of ``samples`` as such a graph, with a dynamic batch."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in samples}
    model = _tidied(_exported(module, dict(samples), shapes, list(samples), output, TORCH_OPSET))
    model.ir_version = OLDEST_IR
    return model


def _tidied(model: onnx.ModelProto, opset: int | None = None) -> onnx.ModelProto:
    """Name everything, lower the opset as far as the content and ``opset`` allow, and add casts and functions.

    Raises UsageError if the content needs more than ``opset``, with the nodes that do.
    """
    modules = module_names(model)
    strip_traces(model)
    rename(model, modules)
    if (opset or OLDEST_OPSET) < TORCH_OPSET:
        needs = lower_opset(model)
        if needs and opset is not None:
            raise UsageError(f"opset {opset} is too low: {'; '.join(needs[:3])}", f"Use --opset {TORCH_OPSET}.")
    widen(model)
    add_functions(model)
    model.producer_name, model.producer_version = "dcp-deploy", __version__
    return model


def _trace(fused: FusedGenerator | FusedSynthesis, bounds: tuple[int, int | None], opset: int) -> onnx.ModelProto:
    """Run torch's exporter on two samples, or more if the smallest batch is larger, with a dynamic batch."""
    batch = torch.export.Dim("batch", min=bounds[0], max=bounds[1])
    tensors = _samples(fused, max(2, bounds[0]))
    samples: dict[str, Any] = {name: x for name, x in tensors.items() if not name.startswith(NOISE_INPUT)}
    maps = {name.removeprefix(NOISE_INPUT): x for name, x in tensors.items() if name.startswith(NOISE_INPUT)}
    shapes: dict[str, Any] = {name: {0: batch} for name in samples}
    if maps:
        samples["noise"], shapes["noise"] = maps, {layer: {0: batch} for layer in maps}
    return _exported(fused, samples, shapes, list(tensors), "image", opset)


def _exported(
    module: torch.nn.Module,
    samples: dict[str, Any],
    shapes: dict[str, Any],
    names: list[str],
    output: str,
    opset: int,
) -> onnx.ModelProto:
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            kwargs=samples,
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=[output],
            dynamic_shapes=shapes,
            custom_translation_table=translations(),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    model: onnx.ModelProto = program.model_proto
    return model


def _samples(fused: FusedGenerator | FusedSynthesis, batch: int) -> dict[str, torch.Tensor]:
    """Return the inputs to trace with, by their names in the file and in its order."""
    config = fused.config
    if isinstance(fused, FusedSynthesis):
        samples = {"ws": torch.randn(batch, config.num_ws, config.w_dim)}
    else:
        samples = {"z": torch.randn(batch, config.z_dim), "psi": torch.full((batch,), 0.7)}
        if config.c_dim:
            samples["c"] = torch.eye(config.c_dim)[torch.arange(batch) % config.c_dim]
    if fused.options.noise == "input":
        samples |= {NOISE_INPUT + layer: torch.randn(batch, 1, *size) for layer, size in noise_shapes(config).items()}
    return samples


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    logger = logging.getLogger(_EXPORTER_LOG)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in _EXPORTER_WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        logger.setLevel(level)
