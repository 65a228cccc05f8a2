"""Triton's config.pbtxt for our models, in three variants of one model repository.

``config.pbtxt`` runs the ONNX file with Triton's ONNX Runtime backend, with or without a GPU. Two more are selected by
``--model-config-name``: ``configs/tensorrt.pbtxt`` runs TensorRT plans, one per compute capability, and
``configs/python.pbtxt`` runs the ONNX file in Triton's Python backend, for servers that have only that. The model
``picture``, in a repository of its own, calls the others from the Python backend. The fields are those of ModelConfig
in Triton's model_config.proto.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError

Variant = Literal["onnxruntime", "tensorrt", "python"]

TYPES = {1: "TYPE_FP32", 2: "TYPE_UINT8"}  # onnx.TensorProto.FLOAT, UINT8: the only ones in our graphs
SHORTEST_DELAY, LONGEST_DELAY = 100, 5000  # microseconds that a request may wait for others to share its batch
BYTES_PER_NUMBER = 32  # of JSON: -0.12345678901234567, a comma, spaces
BODY_FLOOR = 1 << 16  # bytes of names, shapes and braces


class Word(str):
    """A value that protobuf's text format writes without quotes: the name of an enum's value."""


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    name: str
    type: str
    """Triton's name of the type."""
    dims: tuple[int, ...]
    """The shape without the batch; () for psi."""


@dataclass(frozen=True)
class TensorRTPlan:
    """A TensorRT plan beside the ONNX file."""

    file: str
    best_batch: int
    """The batch size that it is tuned for."""


@dataclass(frozen=True)
class Served:
    """A model as Triton serves it."""

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    max_batch: int
    """1 if ``fixed``."""
    instances: int
    """Copies of the model on a CPU."""
    threads: int
    """Threads of each copy."""
    delay_us: int
    """Microseconds that a request may wait for others."""
    plans: Mapping[str, TensorRTPlan] = field(default_factory=dict)
    """TensorRT plans by compute capability ("9.0")."""
    fixed: bool = False
    """Whether the ONNX file runs one image at a time, with every shape fixed."""

    @property
    def preferred_batches(self) -> list[int]:
        """Return the batch sizes that the plans are tuned for, and the largest."""
        return sorted({min(plan.best_batch, self.max_batch) for plan in self.plans.values()} | {self.max_batch})


def interface(onnx_file: Path) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the inputs and the output of an ONNX file. InputError if Triton cannot serve them.

    The batch must be dynamic, or fixed to 1.
    """
    import onnx

    graph = onnx.load(onnx_file, load_external_data=False).graph
    if len(graph.output) != 1:
        raise InputError(f"{onnx_file} has {len(graph.output)} outputs instead of one", "Export it again.")
    tensors = [_tensor(onnx_file, value) for value in (*graph.input, *graph.output)]
    return tuple(tensors[:-1]), tensors[-1]


def takes_one_image(onnx_file: Path) -> bool:
    """Return whether a file has a fixed batch of 1."""
    import onnx

    first = onnx.load(onnx_file, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[0]
    return bool(first.dim_value == 1)


def _tensor(file: Path, value: Any) -> Tensor:
    first, *rest = value.type.tensor_type.shape.dim
    kind = TYPES.get(value.type.tensor_type.elem_type)
    if first.HasField("dim_value") and first.dim_value != 1:
        raise InputError(
            f"{file} takes batches of {first.dim_value} only, and a server gets single images",
            "Export it with --batch 1, or without --batch.",
        )
    if kind is None or not all(dim.HasField("dim_value") for dim in rest):
        raise InputError(
            f"{value.name!r} of {file} is not float32 or uint8 with a fixed shape for each image", "Export it again."
        )
    return Tensor(value.name, kind, tuple(dim.dim_value for dim in rest))


def largest_request(models: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bytes of the largest request as JSON. ``models`` as in the manifest of a bundle."""
    needs = [
        model["max_batch"] * sum(math.prod(dims) for dims in model["inputs"].values()) * BYTES_PER_NUMBER
        for model in models.values()
    ]
    return BODY_FLOOR + max(needs, default=0)


def config_pbtxt(model: Served, variant: Variant) -> str:
    """Return the configuration of one variant, as text."""
    if model.fixed and variant == "onnxruntime":
        return "".join(_lines(_unbatched(model), 0))
    config: dict[str, Any] = {
        "name": model.name,
        "backend": variant,
        "max_batch_size": model.max_batch,
        "input": [_io(tensor) for tensor in model.inputs],
        "output": [_io(model.output)],
        "dynamic_batching": {
            # Only plans are tuned for certain sizes; the other variants run any size equally well.
            "preferred_batch_size": model.preferred_batches if variant == "tensorrt" else [],
            "max_queue_delay_microseconds": model.delay_us,
        },
        "model_warmup": _warmup(model),
        **_VARIANTS[variant](model),
    }
    return "".join(_lines(config, 0))


def picture_pbtxt(z_dim: int, c_dim: int, max_batch: int, delay_us: int, directions: Sequence[str] = ()) -> str:
    """Return the configuration of :mod:`.scripts.triton_picture`, as text. Only ``seed`` is required of its inputs.

    The model is not warmed up, because the generator that it calls may not have loaded yet.
    """
    inputs = {"seed": "TYPE_INT64", "psi": "TYPE_FP32"}
    inputs |= {"class": "TYPE_INT64"} if c_dim else {}
    inputs |= {"format": "TYPE_STRING"}
    inputs |= {"edits": "TYPE_STRING"} if directions else {}
    generator = {"z_dim": z_dim, "c_dim": c_dim, "max_batch": max_batch, "directions": list(directions)}
    config: dict[str, Any] = {
        "name": "picture",
        "backend": "python",
        "max_batch_size": max_batch,
        "input": [
            {"name": name, "data_type": Word(kind), "dims": [1], "optional": name != "seed"}
            for name, kind in inputs.items()
        ],
        "output": [{"name": "picture", "data_type": Word("TYPE_STRING"), "dims": [1]}],
        "dynamic_batching": {"max_queue_delay_microseconds": delay_us},
        "default_model_filename": "model.py",
        # Two instances: one encodes its pictures while the other waits for the generator.
        "instance_group": [{"count": 2, "kind": Word("KIND_CPU")}],
        "parameters": [{"key": "generator", "value": {"string_value": json.dumps(generator)}}],
    }
    return "".join(_lines(config, 0))


def _io(tensor: Tensor, batch: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return an input or output, with ``batch`` before its dimensions."""
    entry: dict[str, Any] = {"name": tensor.name, "data_type": Word(tensor.type)}
    if tensor.dims:
        return {**entry, "dims": [*batch, *tensor.dims]}
    # Triton has no tensors of rank 0 per sample: it accepts [B, 1] and passes on [B].
    return {**entry, "dims": [*batch, 1], "reshape": {"shape": list(batch)}}


def _unbatched(model: Served) -> dict[str, Any]:
    """Return the configuration of a file with a fixed batch of 1, which the ONNX Runtime backend takes only without
    batching. Requests look as they do for a batch of one.
    """
    tensors = [_io(tensor, (1,)) for tensor in (*model.inputs, model.output)]
    inputs = [
        {"key": one["name"], "value": {"data_type": one["data_type"], "dims": one["dims"], "zero_data": True}}
        for one in tensors[:-1]
    ]
    return {
        "name": model.name,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": tensors[:-1],
        "output": tensors[-1:],
        "model_warmup": [{"name": "one image", "batch_size": 1, "inputs": inputs}],
        **_onnxruntime(model),
    }


def _warmup(model: Served) -> list[dict[str, Any]]:
    """Run the smallest and the largest batch before the model reports ready."""
    inputs = [
        {
            "key": tensor.name,
            "value": {"data_type": Word(tensor.type), "dims": list(tensor.dims or (1,)), "zero_data": True},
        }
        for tensor in model.inputs
    ]
    return [{"name": f"batch {size}", "batch_size": size, "inputs": inputs} for size in sorted({1, model.max_batch})]


def _onnxruntime(model: Served) -> dict[str, Any]:
    """Run on every GPU, otherwise on the CPU; the ONNX Runtime backend then uses all cores."""
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
    """Use CUDA graphs for the most frequent batch sizes, captured when the model loads."""
    shapes = [{"key": tensor.name, "value": {"dim": list(tensor.dims or (1,))}} for tensor in model.inputs]
    return {
        "default_model_filename": next(iter(model.plans.values())).file,
        "cc_model_filenames": [{"key": key, "value": plan.file} for key, plan in sorted(model.plans.items())],
        # Two instances: one copies its images to the host while the other computes.
        "instance_group": [{"count": 2, "kind": Word("KIND_GPU")}],
        "optimization": {
            "cuda": {
                "graphs": True,
                "busy_wait_events": True,
                "output_copy_stream": True,
                "graph_spec": [{"batch_size": size, "input": shapes} for size in sorted({1, *model.preferred_batches})],
            },
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
        },
    }


_VARIANTS = {"onnxruntime": _onnxruntime, "python": _python, "tensorrt": _tensorrt}


# ---- protobuf's text format ----


def _lines(message: Mapping[str, Any], depth: int) -> list[str]:
    """Return one line per scalar and one block per message; list items are repeated, empty lists omitted."""
    indent, lines = "  " * depth, []
    for name, value in message.items():
        for item in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(item, Mapping):
                lines += [f"{indent}{name} {{\n", *_lines(item, depth + 1), f"{indent}}}\n"]
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return lines


def _scalar(value: Any) -> str:
    return str(value) if isinstance(value, Word) else json.dumps(value)  # true, 8 and "text" are the same in both
