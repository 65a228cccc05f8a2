"""The text of Triton's config.pbtxt for a model of ours, in three variants of one model repository.

``config.pbtxt`` runs the ONNX file with Triton's ONNX Runtime backend, on a GPU or without one. Beside it, chosen by
``--model-config-name``: ``configs/tensorrt.pbtxt`` runs TensorRT plans, one for each compute capability, and
``configs/python.pbtxt`` runs the ONNX file from Triton's Python backend, for servers that have only that. ``picture``,
in a repository of its own, asks them from the Python backend. The fields are those of ModelConfig in Triton's
model_config.proto.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError

Variant = Literal["onnxruntime", "tensorrt", "python"]

TYPES = {1: "TYPE_FP32", 2: "TYPE_UINT8"}  # onnx.TensorProto.FLOAT, UINT8: all that our graphs take and give
SHORTEST_DELAY, LONGEST_DELAY = 100, 5000  # microseconds that a request may wait for others to share its batch


class Word(str):
    """A value that protobuf's text form writes without quotes: an enum's name."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, Triton's name of its type, and its sizes without the batch ([] for psi)."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class TensorRTPlan:
    """A TensorRT plan beside the ONNX file."""

    file: str
    best_batch: int
    """What it is tuned for."""


@dataclass(frozen=True)
class Served:
    """A model as Triton serves it. ``plans``: compute capability ("9.0") to its TensorRT plan."""

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    max_batch: int
    instances: int
    """Of the model on a CPU, each with its share of the cores."""
    threads: int
    """Of each of them."""
    delay_us: int
    """How long a request may wait for others."""
    plans: Mapping[str, TensorRTPlan] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Batches that the server should aim for: what its plans are tuned for, and the largest."""
        return sorted({min(plan.best_batch, self.max_batch) for plan in self.plans.values()} | {self.max_batch})


@dataclass(frozen=True)
class Picture:
    """The model that makes pictures of seeds: what the generator takes that it asks, and which edits there are."""

    z_dim: int
    c_dim: int
    max_batch: int
    delay_us: int
    directions: tuple[str, ...] = ()

    def inputs(self) -> dict[str, str]:
        """Name and Triton's type of each; all but the first may be left out."""
        kinds = {"seed": "TYPE_INT64", "psi": "TYPE_FP32", "class": "TYPE_INT64", "format": "TYPE_STRING"}
        left_out = set() if self.c_dim else {"class"}
        edits = {"edits": "TYPE_STRING"} if self.directions else {}
        return {name: kind for name, kind in (kinds | edits).items() if name not in left_out}


def interface(onnx_file: Path) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs and output of an ONNX file of ours. InputError when they cannot be served with a dynamic batch."""
    import onnx

    graph = onnx.load(onnx_file, load_external_data=False).graph
    if len(graph.output) != 1:
        raise InputError(f"{onnx_file} has {len(graph.output)} outputs, a generator has one", "export it again")
    tensors = [_tensor(onnx_file, value) for value in (*graph.input, *graph.output)]
    return tuple(tensors[:-1]), tensors[-1]


def _tensor(file: Path, value: Any) -> Tensor:
    first, *rest = value.type.tensor_type.shape.dim
    kind = TYPES.get(value.type.tensor_type.elem_type)
    if kind is None or first.HasField("dim_value") or not all(dim.HasField("dim_value") for dim in rest):
        raise InputError(f"{value.name!r} of {file} is no float or uint8 with a dynamic batch and other sizes fixed")
    return Tensor(value.name, kind, tuple(dim.dim_value for dim in rest))


def config_pbtxt(model: Served, variant: Variant) -> str:
    """The configuration of one variant, as text."""
    config: dict[str, Any] = {
        "name": model.name,
        "backend": variant,
        "max_batch_size": model.max_batch,
        "input": [_io(tensor) for tensor in model.inputs],
        "output": [_io(model.output)],
        "dynamic_batching": _batching(model, variant),
        "model_warmup": _warmup(model),
        **_VARIANTS[variant](model),
    }
    return "".join(_lines(config, 0))


def picture_pbtxt(picture: Picture) -> str:
    """The configuration of :mod:`.triton_picture`, as text. Not warmed up: the generator may not have loaded yet."""
    told = {
        "z_dim": picture.z_dim,
        "c_dim": picture.c_dim,
        "max_batch": picture.max_batch,
        "directions": list(picture.directions),
    }
    config: dict[str, Any] = {
        "name": "picture",
        "backend": "python",
        "max_batch_size": picture.max_batch,
        "input": [
            {"name": name, "data_type": Word(kind), "dims": [1], "optional": name != "seed"}
            for name, kind in picture.inputs().items()
        ],
        "output": [{"name": "picture", "data_type": Word("TYPE_STRING"), "dims": [1]}],
        "dynamic_batching": {"max_queue_delay_microseconds": picture.delay_us},
        "default_model_filename": "model.py",
        # Two: one encodes its pictures while the other waits for the generator.
        "instance_group": [{"count": 2, "kind": Word("KIND_CPU")}],
        "parameters": [{"key": "generator", "value": {"string_value": json.dumps(told)}}],
    }
    return "".join(_lines(config, 0))


def _io(tensor: Tensor) -> dict[str, Any]:
    if tensor.dims:
        return {"name": tensor.name, "data_type": Word(tensor.type), "dims": list(tensor.dims)}
    # Triton has no tensors of rank 0 per sample: it takes [B, 1] and hands on [B].
    return {"name": tensor.name, "data_type": Word(tensor.type), "dims": [1], "reshape": {"shape": []}}


def _batching(model: Served, variant: Variant) -> dict[str, Any]:
    # Only plans have sizes they are tuned for; elsewhere whatever came within the delay is as good.
    preferred = model.sizes if variant == "tensorrt" else []
    return {"preferred_batch_size": preferred, "max_queue_delay_microseconds": model.delay_us}


def _warmup(model: Served) -> list[dict[str, Any]]:
    """Before the model is called ready it has run its smallest and its largest batch."""
    inputs = [
        {
            "key": tensor.name,
            "value": {"data_type": Word(tensor.type), "dims": list(tensor.dims or (1,)), "zero_data": True},
        }
        for tensor in model.inputs
    ]
    return [{"name": f"batch {size}", "batch_size": size, "inputs": inputs} for size in sorted({1, model.max_batch})]


def _onnxruntime(model: Served) -> dict[str, Any]:
    """On every GPU, or on the CPU where there is none; the ONNX Runtime backend then takes all cores."""
    return {
        "default_model_filename": "model.onnx",
        "instance_group": [{"count": 1, "kind": Word("KIND_AUTO")}],
    }


def _python(model: Served) -> dict[str, Any]:
    return {
        "default_model_filename": "model.py",
        "instance_group": [{"count": model.instances, "kind": Word("KIND_CPU")}],
        "parameters": [{"key": "threads", "value": {"string_value": str(model.threads)}}],
    }


def _tensorrt(model: Served) -> dict[str, Any]:
    """CUDA graphs for the batch sizes that will come most: captured when the model loads."""
    shapes = [{"key": tensor.name, "value": {"dim": list(tensor.dims or (1,))}} for tensor in model.inputs]
    return {
        "default_model_filename": next(iter(model.plans.values())).file,
        "cc_model_filenames": [{"key": key, "value": plan.file} for key, plan in sorted(model.plans.items())],
        # Two: one copies its images to the host while the other computes.
        "instance_group": [{"count": 2, "kind": Word("KIND_GPU")}],
        "optimization": {
            "cuda": {
                "graphs": True,
                "busy_wait_events": True,
                "output_copy_stream": True,
                "graph_spec": [{"batch_size": size, "input": shapes} for size in sorted({1, *model.sizes})],
            },
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
        },
    }


_VARIANTS = {"onnxruntime": _onnxruntime, "python": _python, "tensorrt": _tensorrt}


# ---- protobuf's text form ----


def _lines(message: Mapping[str, Any], depth: int) -> list[str]:
    """One line for each scalar or list of scalars, a block for each message; an empty list is left out."""
    indent, lines = "  " * depth, []
    for name, value in message.items():
        for item in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(item, Mapping):
                lines += [f"{indent}{name} {{\n", *_lines(item, depth + 1), f"{indent}}}\n"]
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return str(value)
    return json.dumps(value)  # true, 8 and "a quoted string" read the same in both
