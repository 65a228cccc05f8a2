"""The native checkpoint: a safetensors file with the generator's config as JSON in its metadata.

The config determines every name and shape, so loading needs neither code from the file nor a guess. A file that does
not fit is refused by name and shape.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import CorruptFileError, InputError, UnknownFormatError
from ..files import write_bytes
from ..generators import Generator, GeneratorConfig
from .checkpoint import Checkpoint
from .fitting import empty, fill
from .pickles.values import printable
from .provenance import stated_licence

FORMAT = "dcp-deploy.generator"
FORMAT_VERSION = 1
# The errors that a config with ill-typed, huge or zero entries causes; its network is built without memory.
_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


def save_generator(
    generator: Generator,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a generator atomically, with ``extra`` (JSON values, see :mod:`.provenance`) in the metadata.

    ``dtype`` is the storage type of the tensors; loading always returns float32.
    """
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in generator.state_dict().items()}
    # One entry, with sorted keys: safetensors writes several metadata entries in an order that differs between runs.
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": generator.config.to_dict(),
        "extra": dict(extra or {}),
    }
    write_bytes(path, save(state, {FORMAT: json.dumps(document, sort_keys=True)}))
    return Path(path)


@contextmanager
def opened_safetensors(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file. Raises CorruptFileError if it, or a tensor of it, cannot be read."""
    try:
        with safe_open(path, framework="pt") as stream:
            yield stream
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(f"{path}: not a readable safetensors file: {error}") from error


def is_native(path: str | os.PathLike[str]) -> bool:
    """Return whether a safetensors file carries the metadata of this package."""
    with opened_safetensors(path) as stream:
        return FORMAT in (stream.metadata() or {})


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata document of a native file: format, version, config, extra. Reads no tensor."""
    with opened_safetensors(path) as stream:
        metadata = stream.metadata() or {}
    if FORMAT not in metadata:
        raise UnknownFormatError(
            f"{path}: a safetensors file without dcp-deploy's metadata",
            "Give a file that dcp-deploy convert, prune, distill or build wrote: only those carry a config.",
        )
    try:
        document = json.loads(metadata[FORMAT])
        version = document["version"]
        if type(version) is not int:
            raise TypeError("the version is not a number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{path}: the metadata is not the JSON document it should be: {error!r}") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}, this release reads {FORMAT_VERSION}", "Update dcp-deploy.")
    return dict(document)


def read_native(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a native file.

    Raises UnknownFormatError for other safetensors files, CorruptFileError for tensors that do not fit the config.
    """
    source = Path(path)
    document = read_metadata(source)
    try:
        generator = empty(Generator, GeneratorConfig.from_dict(document["config"])).eval()
    except _UNUSABLE as error:
        what = printable(str(error), 400)
        raise CorruptFileError(f"{source}: the config in the metadata is not usable: {what}") from error
    extra = document.get("extra", {})
    if not isinstance(extra, dict):
        raise CorruptFileError(f"{source}: the metadata is not the JSON document it should be: extra is not an object")
    with opened_safetensors(source) as stream:
        names = stream.keys()
        shapes = {printable(name): tuple(stream.get_slice(name).get_shape()) for name in names}
        fill(generator, shapes, lambda: {name: stream.get_tensor(name) for name in names}, str(source))
    return Checkpoint(generator, "native", licence=stated_licence(extra), extra=extra)
