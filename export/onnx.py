"""A generator as one portable ONNX file: constant weights, standard operators, z and psi in, images out.

The same generator and options give the same bytes, so that a pipeline can tell by the hash that nothing changed:
whatever the exporter notes about the machine (source paths, stack traces) is removed.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..files import atomic_path
from ..generators import Generator
from .fused import FusedGenerator, ImageForm
from .fused_stylegan2 import BakedNoise, Upsample
from .onnx_functions import add_functions, translations

if TYPE_CHECKING:
    import onnx

OPSET = 18  # the exporter's own; TensorRT 10 and 11, TensorRT-RTX and ONNX Runtime from 1.14 read it

# Said by torch and onnxscript about themselves, not about our model. (category, start of the message)
_EXPORTER_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, r"# The axis name: batch will not be used, since it shares the same shape constraints"),
)
_EXPORTER_LOG = "torch.onnx._internal.exporter._registration"  # "torchvision is not installed"


def export_onnx(
    generator: Generator,
    path: str | os.PathLike[str],
    *,
    image: ImageForm = "uint8",
    upsample: Upsample | Mapping[str, Upsample] = "transposed",
    noise: BakedNoise = "const",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``generator`` to ``path`` as ONNX and return the path.

    Inputs: ``z`` float32 [batch, z_dim], ``psi`` float32 [batch] and, for a class-conditional generator, ``c`` float32
    [batch, c_dim]. Output ``image``: uint8 [batch, R, R, 3], or float32 [batch, 3, R, R] not clamped. The batch is
    dynamic. ``metadata`` is added to the file's own (see :func:`describe`), for instance ``teacher_sha256`` or
    ``licence``. The file is checked by ``onnx.checker`` with shape inference before it appears under its name.
    UsageError for an unknown option.
    """
    import onnx

    fused = FusedGenerator(generator, image=image, upsample=upsample, noise=noise)
    model = _trace(fused)
    modules = _module_names(model)
    _strip_traces(model)
    _rename(model, modules)
    add_functions(model)
    model.producer_name, model.producer_version = "dcp-deploy", __version__
    facts = {**describe(generator), **fused.baked, **(metadata or {})}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in sorted(facts.items())})
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return Path(path)


def describe(generator: Generator) -> dict[str, str]:
    """What every exported file says about itself: the tool, the architecture and the weights it was made from."""
    config = generator.config
    return {
        "tool": f"dcp-deploy {__version__}",
        "torch": torch.__version__,
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "kind": config.kind,
        "resolution": str(config.resolution),
        "widths": json.dumps(list(config.widths)),
        "z_dim": str(config.z_dim),
        "c_dim": str(config.c_dim),
        "weights_sha256": weights_sha256(generator),
        "licence": "not stated; the terms of the teacher's weights and training images apply",
    }


def weights_sha256(generator: Generator) -> str:
    """Hex sha256 over the config and every tensor of a generator, whatever file it came from."""
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for key, value in sorted(generator.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- torch to ONNX ----


def _trace(fused: FusedGenerator) -> onnx.ModelProto:
    """Run torch's exporter on two samples, with the batch left open."""
    batch = torch.export.Dim("batch", min=1)
    samples = {"z": torch.randn(2, fused.config.z_dim), "psi": torch.full((2,), 0.7)}
    if fused.config.c_dim:
        samples["c"] = torch.eye(fused.config.c_dim)[[0, -1]]
    with _quiet_exporter():
        program = torch.onnx.export(
            fused,
            kwargs=samples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(samples),
            output_names=["image"],
            dynamic_shapes={name: {0: batch} for name in samples},
            custom_translation_table=translations(),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    model: onnx.ModelProto = program.model_proto
    return model


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


# ---- a graph that reads well and is the same on every machine ----


def _module_names(model: onnx.ModelProto) -> list[str]:
    """The innermost module that made each node: b4.conv1, where the exporter noted ['', 'b4', 'b4.conv1', 'conv2d']."""
    names = []
    for node in model.graph.node:
        scopes = [prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        names.append(re.findall(r"'([^']*)'", scopes[0])[-2] if scopes else "")
    return names


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces with paths of this machine, the torch graph, its signature."""
    holders: list[Any] = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    for holder in [*holders, *model.graph.initializer]:
        del holder.metadata_props[:]
    del model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""


def _rename(model: onnx.ModelProto, modules: Sequence[str]) -> None:
    """Name nodes after the module that made them (``synthesis.b64.conv0/Conv``) and values after their node.

    Weights are named after their module already. A constant that the exporter made up is named after its reader, or
    numbered when it has several.
    """
    graph = model.graph
    kept = {value.name for value in [*graph.input, *graph.output]}
    made_up = {tensor.name for tensor in graph.initializer if not _is_weight(tensor.name)}
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
        node.attribute.sort(key=lambda attribute: attribute.name)  # the exporter's order hangs on a set's
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)


def _is_weight(name: str) -> bool:
    """Whether a name is a buffer of our modules ("synthesis.b4.conv1.bias") and not made up ("val_12", "expand_3")."""
    return "." in name
