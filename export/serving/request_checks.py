"""Checks of a request before Triton reads it: well-formed, complete, finite, and with shapes that cannot overflow.

These are rules of the v2 inference protocol and its binary encoding that older releases of Triton do not check: a shape
that overflows, a number in place of a string, or two values under one name. Triton itself checks whether a request
fits its model: names, types, the largest batch.

Everything is counted before it is converted: the values of JSON and the fields of a protobuf message before they are
parsed, the types of a list before numpy reads it. So the time and the memory of a check are bounded by the size of the
body, whatever it holds.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .message_fields import TooManyFields, count_fields

if TYPE_CHECKING:
    from tritonclient.grpc.service_pb2 import ModelInferRequest

ITEM_BYTES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2,
    "INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip
FLOATS: dict[str, np.dtype[Any]] = {"FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
TYPES: dict[str, set[type]] = {  # in JSON; all others: int
    "BOOL": {bool}, "BYTES": {str}, **{name: {int, float} for name in (*FLOATS, "BF16")},
}  # fmt: skip
TENSORS, RANK = 64, 8  # largest number of tensors and of dimensions; our models need 4 and 3
PREFIX = 4  # bytes of the length before each element of a BYTES tensor
NAMES = 32  # largest number of names in one JSON object; the protocol's have at most six
DIGITS = 20  # of the largest integer, of 64 bits, with its sign
SPARE = 1000  # names, objects and lists of a request beside its values
PARAMETERS: dict[str, set[type]] = {  # of a request; numbers are 0 to 2**63 - 1
    "priority": {int}, "timeout": {int}, "sequence_id": {int, str}, "sequence_start": {bool}, "sequence_end": {bool},
    "binary_data_output": {bool},
}  # fmt: skip

Size = Annotated[int, Field(ge=0, lt=2**31)]


class Refusal(Exception):
    """A request is refused with this HTTP status (over gRPC: INVALID_ARGUMENT) and reason."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


def _without_nul(name: str) -> str:
    if "\0" in name:
        raise ValueError("contains a NUL character, where Triton would cut it off")
    return name


Name = Annotated[str, AfterValidator(_without_nul)]


class _Part(BaseModel):
    # Only the protocol's fields: Triton's parser must not receive what is not checked here.
    model_config = ConfigDict(strict=True, extra="forbid")


class _InputParameters(_Part):
    binary_data_size: Size | None = None


class _OutputParameters(_Part):
    binary_data: bool = False


class _Input(_Part):
    name: Name
    datatype: str
    shape: list[Size] = Field(max_length=RANK)
    parameters: _InputParameters = _InputParameters()
    data: Any = None


class _Output(_Part):
    name: Name
    parameters: _OutputParameters = _OutputParameters()


class _Request(_Part):
    id: Name = ""
    inputs: list[_Input] = Field(min_length=1, max_length=TENSORS)
    outputs: list[_Output] = Field(default=[], max_length=TENSORS)
    parameters: dict[str, Any] = {}


# ---- HTTP ----


def check_body(body: bytes, header_length: str | None, *, most_json: int, most_values: int | None = None) -> None:
    """Raise Refusal unless ``body`` is one request of the v2 protocol with at most ``most_json`` bytes of JSON.

    ``header_length`` is given for the binary encoding: the bytes of JSON before the tensors' bytes. ``most_values`` is
    the number of values that the largest request has; by default only ``most_json`` bounds it.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    if length > most_json:
        raise Refusal(f"{length} bytes of JSON are more than the {most_json} accepted; send the binary encoding", 413)
    request = _parsed(body[:length], most_json if most_values is None else most_values)
    _unique_names([tensor.name for tensor in request.inputs])
    _check_parameters(request.parameters)
    rest = memoryview(body)[length:]
    for tensor in request.inputs:
        elements = _elements(tensor.name, tensor.datatype, tensor.shape, most=len(body))
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise Refusal(f"input {tensor.name!r} needs either data or a binary_data_size")
        if size is None:
            _check_list(tensor.name, tensor.datatype, elements, tensor.data)
        else:
            if size > len(rest):
                raise Refusal(f"input {tensor.name!r} is cut off: {len(rest)} of its {size} bytes arrived")
            _check_raw(tensor.name, tensor.datatype, elements, rest[:size])
            rest = rest[size:]
    if len(rest):
        raise Refusal(f"{len(rest)} bytes after the last input do not belong to any input")


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and 0 < int(text) <= most):
        raise Refusal(f"Inference-Header-Content-Length {text[:40]!r} is not from 1 to {most}")
    return int(text)


def _parsed(content: bytes, most_values: int) -> _Request:
    # A value, a name, a list or an object needs one of these characters, so the parser makes at most as many.
    if (found := sum(map(content.count, (b",", b":", b"[", b"{")))) > 2 * most_values + SPARE:
        raise Refusal(f"the request has {found} values, names and lists, more than any request of this bundle needs")
    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer)
        return _Request.model_validate(document)
    except ValidationError as error:  # a ValueError too
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(f"the request is malformed: {place + ': ' if place else ''}{first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the request is not readable JSON: {error}") from error


def _integer(digits: str) -> int | float:
    """Read an integer. Python's own reading of thousands of digits is slow; no number of a request is so long."""
    return int(digits) if len(digits) <= DIGITS else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name with two values: some readers take the first, others the last."""
    if len(pairs) > NAMES:
        raise ValueError(f"an object contains {len(pairs)} names")
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object contains a name twice")
    for text in (*values, *(value for value in values.values() if isinstance(value, str))):
        text.encode()  # ValueError for half of a surrogate pair
    return values


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    """Check the parameters of a request, by the names and types that Triton reads. Our models read no others."""
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise Refusal(f"parameter {name[:40]!r} is not served")
        if type(value) not in PARAMETERS[name]:
            kinds = " or ".join(sorted(kind.__name__ for kind in PARAMETERS[name]))
            raise Refusal(f"parameters.{name} is not of type {kinds}")
        if type(value) is int and not 0 <= value < 2**63:
            raise Refusal(f"parameters.{name} is not from 0 to {2**63 - 1}")
        if isinstance(value, str) and "\0" in value:
            raise Refusal(f"parameters.{name} contains a NUL character")


def _check_list(name: str, datatype: str, elements: int, data: Any) -> None:
    """Check the data of a tensor in JSON: a flat or nested list of the right type and number."""
    values = _flat(name, data)
    types = set(map(type, values))  # before numpy, which would convert true and "1" to numbers
    fits = types <= TYPES.get(datatype, {int})
    if datatype == "BYTES":
        if not fits or len(values) != elements:
            raise Refusal(f"the data of input {name!r} is not {elements} strings")
        try:
            "".join(values).encode()
        except UnicodeEncodeError as error:
            raise Refusal(f"the data of input {name!r} is not valid Unicode") from error
        return
    if len(values) != elements:
        raise Refusal(f"the data of input {name!r} has {len(values)} numbers, its shape needs {elements}")
    if not fits:
        raise Refusal(f"the data of input {name!r} does not fit {datatype}")
    if datatype in FLOATS:
        try:
            with np.errstate(over="ignore"):  # a number too large for the type becomes infinite
                _finite(name, np.array(values, np.float64).astype(FLOATS[datatype]))
        except OverflowError as error:  # an integer beyond any float
            raise Refusal(f"input {name!r} holds values that are not finite") from error
    elif datatype == "BF16":
        raise Refusal(f"input {name!r}: JSON cannot carry BF16; send the binary encoding")
    elif elements and datatype != "BOOL":
        bounds = np.iinfo(datatype.lower())
        if min(values) < bounds.min or max(values) > bounds.max:
            raise Refusal(f"the data of input {name!r} does not fit {datatype}")


def _flat(name: str, data: Any) -> list[Any]:
    """Return the values of a flat or nested list. No step makes a list longer than the values that were parsed."""
    if not isinstance(data, list):
        raise Refusal(f"the data of input {name!r} is not a list")
    values: list[Any] = data
    for _ in range(RANK):
        types = set(map(type, values))
        if list not in types:
            return values
        if types != {list} or len(set(map(len, values))) > 1:
            raise Refusal(f"the data of input {name!r} is ragged")
        values = list(itertools.chain.from_iterable(values))
    raise Refusal(f"the data of input {name!r} is nested more than {RANK} times")


# ---- gRPC ----


def parsed_message(content: bytes, *, most_values: int) -> ModelInferRequest:
    """Parse a message of at most ``most_values`` fields. Raises Refusal for more, and for another kind of message."""
    from google.protobuf.message import DecodeError
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    try:
        count_fields(content, ModelInferRequest.DESCRIPTOR, most=most_values + SPARE)
        return ModelInferRequest.FromString(content)
    except TooManyFields as error:
        raise Refusal("the message has more fields than any request of this bundle needs") from error
    except (DecodeError, ValueError) as error:
        raise Refusal("the message is not a ModelInferRequest") from error


def check_message(request: ModelInferRequest, *, most: int) -> None:
    """Raise Refusal unless the tensors are complete and finite, with at most ``most`` elements each."""
    raw = request.raw_input_contents
    _check_message_names(request)
    if not request.inputs or len(request.inputs) > TENSORS or (raw and len(raw) != len(request.inputs)):
        raise Refusal(f"{len(request.inputs)} inputs and {len(raw)} raw contents do not match")
    for index, tensor in enumerate(request.inputs):
        elements = _elements(tensor.name, tensor.datatype, tensor.shape, most=most)
        fields = [field for field, _ in tensor.contents.ListFields()]
        if raw:
            if fields:
                raise Refusal(f"input {tensor.name!r} has both contents and raw contents")
            _check_raw(tensor.name, tensor.datatype, elements, memoryview(raw[index]))
            continue
        count = sum(len(getattr(tensor.contents, field.name)) for field in fields)
        if len(fields) > 1 or count != elements:
            raise Refusal(f"input {tensor.name!r} has {count} values, its shape needs {elements}")
        for values in (tensor.contents.fp32_contents, tensor.contents.fp64_contents):
            _finite(tensor.name, np.asarray(values, dtype=np.float64))


def _check_message_names(request: ModelInferRequest) -> None:
    """Check every name and parameter of a message."""
    tensors = (*request.inputs, *request.outputs)
    _unique_names([tensor.name for tensor in request.inputs])
    for name in (request.model_name, request.model_version, request.id, *(tensor.name for tensor in tensors)):
        if "\0" in name:
            raise Refusal(f"the name {name[:40]!r} contains a NUL character, where Triton would cut it off")
    for tensor in tensors:
        for key in tensor.parameters:
            raise Refusal(f"parameter {key[:40]!r} of a tensor is not served")
    given = {key: value.WhichOneof("parameter_choice") for key, value in request.parameters.items()}
    # Triton reads these kinds only: any other number of a timeout is refused there, too.
    for key, kind in given.items():
        if kind == "uint64_param" and key != "priority":
            raise Refusal(f"parameter {key[:40]!r} is not an int64_param")
    _check_parameters({key: kind and getattr(request.parameters[key], kind) for key, kind in given.items()})


# ---- both ----


def _unique_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise Refusal(f"an input is given twice: {', '.join(names)[:200]}")


def _elements(name: str, datatype: str, shape: Sequence[int], *, most: int) -> int:
    """Return the number of elements of a shape; at most ``most``, so that Triton's product cannot overflow."""
    if datatype not in ITEM_BYTES and datatype != "BYTES":
        raise Refusal(f"input {name!r} has the unknown datatype {datatype[:40]!r}")
    if len(shape) > RANK or any(size < 0 for size in shape):
        raise Refusal(f"input {name!r} has shape {list(shape[:RANK])}")
    elements = math.prod(shape)
    if elements > most:
        raise Refusal(f"input {name!r} has shape {list(shape)}, larger than the request or its limit")
    return elements


def _check_raw(name: str, datatype: str, elements: int, content: memoryview) -> None:
    """Check the bytes of a tensor in the binary encoding."""
    if datatype == "BYTES":
        _check_strings(name, elements, content)
        return
    wanted = elements * ITEM_BYTES[datatype]
    if len(content) != wanted:
        raise Refusal(f"input {name!r} has {len(content)} bytes, its shape needs {wanted}")
    if datatype in FLOATS:
        _finite(name, np.frombuffer(content, FLOATS[datatype]))


def _check_strings(name: str, elements: int, content: memoryview) -> None:
    place = found = 0
    while place + PREFIX <= len(content):
        place += PREFIX + int.from_bytes(content[place : place + PREFIX], "little")
        found += 1
    if place != len(content) or found != elements:
        raise Refusal(f"input {name!r} needs {elements} strings, each preceded by its length")


def _finite(name: str, values: npt.NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise Refusal(f"input {name!r} holds values that are not finite")
