"""The native checkpoint: a safetensors file with the generator's config as JSON in its metadata.

Loading needs no code from the file and no guess: the config gives every name and shape, and a file that does not
fit is refused by name and shape.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CorruptFileError, InputError, UnknownFormatError
from ..files import atomic_path
from ..generators import Generator, GeneratorConfig

FORMAT = "dcp-deploy.generator"
FORMAT_VERSION = 1
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def save_generator(
    generator: Generator,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a generator atomically; ``extra`` (JSON values: provenance, licence) travels in the metadata.

    ``dtype`` is the storage type of the tensors; loading always gives float32 back.
    """
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in generator.state_dict().items()}
    # One entry, with sorted keys: safetensors writes several metadata entries in an order that differs between runs.
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": generator.config.to_dict(),
        "extra": dict(extra or {}),
    }
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={FORMAT: json.dumps(document, sort_keys=True)})
    return Path(path)


def is_native(path: str | os.PathLike[str]) -> bool:
    """True when the content looks like a safetensors file: a plausible header length, then a JSON object."""
    with Path(path).open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and int.from_bytes(head[:8], "little") < 1 << 32 and head[8:] == b"{"


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata document of a native file: format, version, config, extra. Reads no tensor."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(f"{path}: not a readable safetensors file: {error}") from error
    if FORMAT not in metadata:
        raise UnknownFormatError(
            f"{path}: a safetensors file without dcp-deploy's metadata",
            "only files written by `dcp-deploy convert`, `prune`, `distill` or `build` carry the config they need",
        )
    try:
        document = json.loads(metadata[FORMAT])
        version = document["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path}: the metadata is not the JSON document it should be: {error!r}") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version!r}, this release reads {FORMAT_VERSION}", "update dcp-deploy"
        )
    return dict(document)


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """Read a generator from a native file, in float32 and in evaluation mode. Never executes code.

    Raises UnknownFormatError for other content, CorruptFileError for a file whose tensors do not fit its config.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such file", "check the path given")
    if source.stat().st_size == 0:
        raise CorruptFileError(f"{source}: the file is empty", "was its download or copy interrupted?")
    if not is_native(source):
        raise UnknownFormatError(
            f"{source}: neither safetensors nor any other format that this release reads",
            "pass a native .safetensors checkpoint; NVIDIA and rosinality files are not read yet",
        )
    document = read_metadata(source)
    try:
        config = GeneratorConfig.from_dict(document["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{source}: the config in the metadata is not usable: {error}") from error
    with torch.device("meta"):
        generator = Generator(config)
    state = _read_tensors(source, {name: tuple(t.shape) for name, t in generator.state_dict().items()})
    generator.load_state_dict(state, strict=True, assign=True)
    return generator.eval().requires_grad_(True)


def _read_tensors(source: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of the file as float32, after every name, shape and type was found as the config demands."""
    with safe_open(source, framework="pt") as stream:
        shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
        problems = [f"missing {name} {list(expected[name])}" for name in expected.keys() - shapes.keys()]
        problems += [f"unexpected {name} {list(shapes[name])}" for name in shapes.keys() - expected.keys()]
        problems += [
            f"{name} is {list(shapes[name])}, the config needs {list(expected[name])}"
            for name in expected.keys() & shapes.keys()
            if shapes[name] != expected[name]
        ]
        if problems:
            shown = "\n  ".join(sorted(problems)[:8])
            more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise CorruptFileError(f"{source}: the tensors do not fit the config:\n  {shown}{more}")
        state = {name: stream.get_tensor(name) for name in expected}
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS:
            raise CorruptFileError(f"{source}: {name} is stored as {tensor.dtype}, floats were expected")
        if not torch.isfinite(tensor).all():
            raise CorruptFileError(f"{source}: {name} holds values that are not finite")
    return {name: tensor.float() for name, tensor in state.items()}
