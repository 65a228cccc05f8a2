"""Export of a generator as one portable ONNX file: constant weights, z and psi (or ws) in, images out.

The same generator and options give the same bytes, so a pipeline can detect changes by the hash. Everything that the
exporter records about the machine (source paths, stack traces) is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from ..graph.file import write_model
from ..graph.functions import OPSET, add_functions
from ..graph.nodes import translations
from ..parity.tolerance import Precision, tolerance_for
from ..runners.runner import NOISE_INPUT
from .precision import decide, measure_ranges
from .quantization import plan_int8, quantize
from .rounding import integer_kernels

if TYPE_CHECKING:
    import onnx

InputForm = Literal["z", "ws"]

PSI_RANGE = (0.0, 1.3)  # where tests compare the file with the readable generator; any other psi works too
BFLOAT16_OPSET = 22  # the first version whose convolutions accept bfloat16

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
    batch: tuple[int, int] | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write ``generator`` to ``path`` as ONNX and return the path.

    The inputs, all float32, are ``z`` [batch, z_dim], ``psi`` [batch] and, for a class-conditional generator, ``c``
    [batch, c_dim]. With ``inputs="ws"`` the only one is ``ws`` [batch, num_ws, w_dim], the latents of every slot after
    truncation. ``noise="input"`` adds an input for every layer that has noise: ``noise.b8.conv0`` [batch, 1, 8, 8],
    ..., of standard deviation 1. The output ``image`` is uint8 [batch, H, W, 3], or float32 [batch, 3, H, W] not
    clamped. ``upsample`` is that of :class:`~..fused.generator.FusedGenerator`.

    The batch is dynamic. ``batch`` is the smallest and largest that the file promises to serve; it is recorded for
    engine builds. ``metadata`` is added to the file's own (see :func:`describe`), for instance ``teacher_sha256`` or
    the licence and story of a checkpoint (:func:`~dcp_deploy.checkpoints.provenance.as_texts`). ``onnx.checker`` checks
    the file with shape inference before it appears under its name. Weights of more than 2 GB are stored beside it in
    ``NAME.data``.

    ``precision`` "fp16" and "bf16" store the convolutions in that type, except the layers whose measured ranges need
    float32. "int8" quantises the layers with which the parity gate still passes (:mod:`.precision`, :mod:`.rounding`,
    :mod:`.quantization`). The file records what was measured and chosen, see
    :func:`~.quantization.precision_report`. ``progress`` counts the layers whose int8 error was measured.

    Raises UsageError for an unknown option or noise inputs of a network without noise, ParityError if no layer can be
    int8.
    """
    import onnx

    tolerance = tolerance_for(precision)
    if inputs not in get_args(InputForm):
        raise UsageError(f"inputs is {inputs!r}", choose(inputs, get_args(InputForm)))
    if noise == "input" and not noise_shapes(generator.config):
        raise UsageError(
            f"noise is 'input', but a {generator.config.kind} has no noise: no layer would take the maps",
            "Leave out --noise: the images depend on z alone.",
        )
    if batch is not None and not (1 <= batch[0] < batch[1]):
        raise UsageError(
            f"batch is {batch[0]} to {batch[1]}", "Give a smallest batch of 1 or more and a larger largest."
        )
    form = FusedGenerator if inputs == "z" else FusedSynthesis
    ranges = None if precision == "fp32" else measure_ranges(generator, upsample=upsample)
    storage, measured = decide(ranges, precision)
    fused = form(generator, image=image, upsample=upsample, noise=noise, storage=storage)
    opset = BFLOAT16_OPSET if precision == "bf16" else OPSET
    model = _model(fused, batch, opset)
    if ranges is not None and precision == "int8":
        alone = inputs == "z" and noise != "input"  # int8 layers are chosen on images generated from z alone
        kernels = integer_kernels(generator, ranges, upsample=upsample)
        trial = model if alone else _model(FusedGenerator(generator, upsample=upsample), None, OPSET)
        plan = plan_int8(trial, ranges, kernels, tolerance, progress=progress)
        model, measured["int8"] = quantize(model, ranges, kernels, plan.layers), json.dumps(plan.to_dict())
    facts = {"inputs": inputs, **fused.options.facts(), **measured, "opset": str(opset)}
    if inputs == "z":
        facts["psi_range"] = f"{PSI_RANGE[0]},{PSI_RANGE[1]}"
    if batch is not None:
        facts["batch"] = f"{batch[0]},{batch[1]}"
    facts = {**describe(generator), **facts, **(metadata or {})}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in sorted(facts.items())})
    write_model(model, Path(path))
    return Path(path)


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


def _model(fused: FusedGenerator | FusedSynthesis, batch: tuple[int, int] | None, opset: int) -> onnx.ModelProto:
    """Return ``fused`` as a graph with readable names and our functions, without metadata and shapes."""
    return _tidied(_trace(fused, batch or (1, None), opset))


def graph_of(module: torch.nn.Module, samples: Mapping[str, torch.Tensor], output: str) -> onnx.ModelProto:
    """Return any module with the inputs of ``samples`` as such a graph, with a dynamic batch."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in samples}
    return _tidied(_exported(module, dict(samples), shapes, list(samples), output, OPSET))


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    modules = _module_names(model)
    _strip_traces(model)
    _rename(model, modules)
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


# ---- a graph with readable names that is the same on every machine ----


def _module_names(model: onnx.ModelProto) -> list[str]:
    """Return each node's innermost module: b4.conv1, where the exporter recorded ['', 'b4', 'b4.conv1', 'conv2d']."""
    names = []
    for node in model.graph.node:
        scopes = [prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        names.append(re.findall(r"'([^']*)'", scopes[0])[-2] if scopes else "")
    return names


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata: stack traces with paths of this machine, the torch graph, its signature."""
    holders: list[Any] = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    for holder in [*holders, *model.graph.initializer]:
        del holder.metadata_props[:]
    del model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""


def _rename(model: onnx.ModelProto, modules: Sequence[str]) -> None:
    """Name nodes after the module that made them (``synthesis.b64.conv0/Conv``) and values after their node.

    Weights already have the name of their module. A constant that the exporter made up is named after its reader, or
    numbered if it has several.
    """
    graph = model.graph
    kept = {value.name for value in [*graph.input, *graph.output]}
    # Buffers of our modules have a dot in their names ("synthesis.b4.conv1.bias"), made-up constants ("val_12") do not.
    made_up = {tensor.name for tensor in graph.initializer if "." not in tensor.name}
    readers = Counter(value for node in graph.node for value in node.input)
    taken: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node, module in zip(graph.node, modules, strict=True):
        name = f"{module}/{node.op_type}".lstrip("/")
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        for index, value in enumerate(node.input):
            if value in made_up and value not in renamed:
                taken["constant"] += readers[value] > 1
                renamed[value] = f"{node.name}.input{index}" if readers[value] == 1 else f"constant_{taken['constant']}"
        for index, value in enumerate(node.output):
            if value not in kept:
                renamed[value] = node.name if len(node.output) == 1 else f"{node.name}.{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        node.attribute.sort(key=lambda attribute: attribute.name)  # the exporter's order varies from run to run
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
