"""The form of a bundle's ``manifest.json``, which the schema of ``bundle verify`` publishes, and how it is read.

A later version may add fields, which are kept. Needs neither torch nor onnx.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Size = Annotated[int, Field(ge=-1, lt=2**31)]


class Record(BaseModel):
    """Base of the records below: no value is converted, and fields that are not described are kept."""

    model_config = ConfigDict(
        extra="allow", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class ServedModel(Record):
    """One model that Triton serves."""

    onnx: str
    """Its file in the bundle."""
    max_batch: int = Field(ge=1, lt=2**31)
    """Largest batch that the server accepts."""
    inputs: dict[str, list[_Size]]
    """Dimensions of each input, without the batch."""
    output: dict[str, list[_Size]]
    variants: list[str]
    """Backends that the bundle has a configuration for."""
    parity: dict[str, JsonValue]
    """How far its images are from the reference's."""


class BundledDirection(Record):
    """A direction along which ``edit`` moves w."""

    layers: list[int] = Field(min_length=2, max_length=2)
    """First and last slot of ws that it moves."""
    sigma: float


class BundledEngine(Record):
    """A TensorRT engine, and the fields of its own manifest."""

    file: str


class MeasuredSplit(Record):
    """Copies of the generator with so many threads each."""

    instances: int = Field(ge=1)
    threads: int = Field(ge=1)


class MeasuredSizing(Record):
    """How many copies generated the most images per second when measured."""

    best: MeasuredSplit


class SealedFile(Record):
    """Size and hash of a file."""

    bytes: int = Field(ge=0, lt=2**63)
    sha256: Sha256


class Manifest(Record):
    """``manifest.json``."""

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["dcp-deploy bundle"]
    name: str
    tool: str
    models: dict[str, ServedModel]
    directions: dict[str, BundledDirection]
    engines: list[BundledEngine]
    sizing: MeasuredSizing
    provenance: dict[str, JsonValue]
    files: dict[str, SealedFile]


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return the fields of ``manifest.json``. Raises ValueError that names the field for anything but a manifest."""
    try:
        values: Any = json.loads(content, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    try:
        Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ValueError(f"{where}: {first['msg']}") from error
    found: dict[str, Any] = values
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields. ValueError for a field that is there twice, or a number that is not finite."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"{twice}: it is there twice")
    for name, value in pairs:
        if any(isinstance(number, float) and not math.isfinite(number) for number in _numbers(value)):
            raise ValueError(f"{name}: it is not a finite number")
    return values


def _numbers(value: Any) -> list[Any]:
    """Return the value, or the entries of a list and of the lists in it; objects have been looked at before."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        else:
            found.append(one)
    return found
