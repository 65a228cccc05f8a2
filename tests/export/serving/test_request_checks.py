from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from tritonclient.grpc.service_pb2 import ModelInferRequest

from dcp_deploy.export.serving import request_checks
from dcp_deploy.export.serving.message_fields import count_fields
from dcp_deploy.export.serving.request_checks import (
    FLOATS,
    ITEM_BYTES,
    Refusal,
    check_body,
    check_message,
    parsed_message,
)

MOST = 10_000


def tensor(**changes: Any) -> dict[str, Any]:
    """Return a valid input; None removes a field."""
    fields = {"name": "z", "datatype": "FP32", "shape": [1, 2], "data": [0.5, -1], **changes}
    return {name: value for name, value in fields.items() if value is not None}


def in_json(*inputs: Any, **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def in_binary(contents: bytes, **changes: Any) -> tuple[bytes, str]:
    """Return the body of one input and the length of its JSON."""
    head = in_json(tensor(data=None, parameters={"binary_data_size": len(contents)}, **changes))
    return head + contents, str(len(head))


def check(body: bytes, header_length: str | None = None) -> None:
    check_body(body, header_length, most_json=MOST)


SHAPES = array_shapes(min_dims=1, max_dims=3, max_side=4)
FINITE = arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FINITE)
def test_complete_and_finite_values_pass_in_every_encoding(values: np.ndarray) -> None:
    shape = list(values.shape)
    check(in_json(tensor(shape=shape, data=values.tolist())))
    check(in_json(tensor(shape=shape, data=values.ravel().tolist())))
    check(*in_binary(values.tobytes(), shape=shape))
    message = ModelInferRequest()
    entry = message.inputs.add(name="z", datatype="FP32", shape=shape)
    message.raw_input_contents.append(values.tobytes())
    check_message(message, most=MOST)
    del message.raw_input_contents[:]
    entry.contents.fp32_contents.extend(values.ravel().tolist())
    check_message(message, most=MOST)


@given(FINITE, st.integers(0), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_value_that_is_not_finite_is_refused_in_every_encoding(
    values: np.ndarray, place: int, value: float
) -> None:
    values = values.copy()
    values.flat[place % values.size] = value
    shape = list(values.shape)
    message = ModelInferRequest()
    entry = message.inputs.add(name="z", datatype="FP32", shape=shape)
    entry.contents.fp32_contents.extend(values.ravel().tolist())
    raw = ModelInferRequest(raw_input_contents=[values.tobytes()])
    raw.inputs.add(name="z", datatype="FP32", shape=shape)
    for attempt in (
        lambda: check(in_json(tensor(shape=shape, data=values.tolist()))),
        lambda: check(*in_binary(values.tobytes(), shape=shape)),
        lambda: check_message(message, most=MOST),
        lambda: check_message(raw, most=MOST),
    ):
        with pytest.raises(Refusal, match="'z' holds values that are not finite"):
            attempt()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": [1, -2]}, r"inputs.0.shape.1: .*greater than or equal to 0"),
        ({"shape": [2**62, 4]}, r"shape.0: .*less than"),
        ({"shape": [2**30, 2**30, 2**30], "data": []}, "larger than the request"),
        ({"shape": [1.0, 2]}, r"shape.0: .*valid integer"),
        ({"shape": [True, 2]}, r"shape.0: .*valid integer"),
        ({"shape": [1] * 9}, "shape: .*at most 8"),
        ({"shape": [1, 3]}, "has 2 numbers, its shape needs 3"),
        ({"shape": None}, "shape: Field required"),
        ({"name": 5}, "name: .*valid string"),
        ({"datatype": "FLOAT"}, "unknown datatype 'FLOAT'"),
        ({"datatype": "INT64"}, "does not fit INT64"),
        ({"datatype": "UINT8", "data": [1, 256]}, "does not fit UINT8"),
        ({"datatype": "UINT64", "data": [1, -1]}, "does not fit UINT64"),
        ({"datatype": "BYTES"}, "not 2 strings"),
        ({"datatype": "BYTES", "data": ["a"]}, "not 2 strings"),
        ({"data": None}, "needs either data or"),
        ({"data": "0.5"}, "is not a list"),
        ({"data": ["0.5", "1"]}, "does not fit FP32"),
        ({"data": [True, 1.0]}, "does not fit FP32"),
        ({"data": [None, 1.0]}, "does not fit FP32"),
        ({"data": [[1.0], [1.0, 2.0]]}, "ragged"),
        ({"data": [1e39, 0]}, "not finite"),
        ({"data": [10**400, 0]}, "not finite"),
        ({"parameters": {"binary_data_size": 8}}, "needs either data or"),
        ({"parameters": {"shared_memory_region": "x"}}, "shared_memory_region: .*not permitted"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_input_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as refusal:
        check(in_json(tensor(**change)))
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"\xff" * 9, "not readable JSON"),
        ("{}".encode("utf-16"), "not readable JSON"),
        (b"[" * 9_000, "not readable JSON"),
        (b'{"inputs": "\\ud800"}', "not readable JSON"),
        (b'{"inputs": [], "inputs": []}', "contains a name twice"),
        (b"[]", "malformed"),
        (b"null", "malformed"),
        (b"{}", "inputs: Field required"),
        (in_json(), "inputs: .*at least 1"),
        (in_json(*[tensor()] * 2), "given twice"),
        (in_json(*[tensor(name=str(n)) for n in range(65)]), "inputs: .*at most 64"),
        (in_json(tensor(), more=[[[]]]), "more: .*not permitted"),
        (in_json(tensor(), outputs=5), "outputs: .*valid list"),
        (in_json(tensor(), outputs=[{"name": "image", "parameters": {"classification": 5}}]), "classification"),
        (in_json(tensor(), parameters={"timeout": 2**63}), "parameters.timeout"),
        (in_json(tensor(datatype="BYTES", shape=[1], data=["\udc00"])), "not valid Unicode"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_is_not_a_request_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as refusal:
        check(body)
    assert refusal.value.status == 400


def test_too_much_json_is_refused_but_binary_of_that_size_is_not() -> None:
    with pytest.raises(Refusal, match="send the binary encoding") as refusal:
        check(in_json(tensor(shape=[MOST], data=[0] * MOST)))
    assert refusal.value.status == 413
    check(*in_binary(bytes(4 * MOST), shape=[MOST]))


@pytest.mark.parametrize("length", ["0", "-1", "+5", "5.0", "x", "", "9" * 30, "²"])
def test_an_impossible_length_of_the_json_is_refused(length: str) -> None:
    with pytest.raises(Refusal, match="Inference-Header-Content-Length"):
        check(in_json(tensor()), length)


@given(st.integers(-9, 9).filter(bool))
def test_too_few_or_too_many_bytes_in_the_binary_encoding_are_refused(more: int) -> None:
    body, length = in_binary(bytes(8))
    with pytest.raises(Refusal):
        check((body + bytes(9))[: len(body) + more], length)
    with pytest.raises(Refusal, match="its shape needs 8"):
        check(*in_binary(bytes(9 + more) if more != -1 else b""))


@pytest.mark.parametrize(
    "contents", [b"", b"\x01", b"\x01\0\0\0", b"\xff\xff\xff\xffa", b"\x01\0\0\0ab", b"\0\0\0\0" * 2]
)
def test_strings_that_do_not_match_their_lengths_are_refused(contents: bytes) -> None:
    with pytest.raises(Refusal, match="each preceded by its length"):
        check(*in_binary(contents, datatype="BYTES", shape=[1]))
    check(*in_binary(b"\x01\0\0\0a", datatype="BYTES", shape=[1]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["name", "shape", "data", "datatype"]) | st.text(), inner)
    ),
    max_leaves=10,  # many more take seconds to generate
)
INPUT = st.fixed_dictionaries(
    {"name": st.just("z"), "datatype": st.sampled_from([*ITEM_BYTES, "BYTES"]), "shape": st.lists(st.integers(0, 3))},
    optional={"data": JSON, "parameters": JSON},
)


@given(st.binary() | st.builds(in_json, JSON | INPUT), st.none() | st.integers(0, 200).map(str))
def test_any_body_passes_or_is_refused(body: bytes, length: str | None) -> None:
    with contextlib.suppress(Refusal):
        check(body, length)


# ---- gRPC ----


def message(*, raw: list[bytes] | None = None, values: list[float] | None = None, **fields: Any) -> ModelInferRequest:
    """Return a message of one valid input, or with parts of it replaced."""
    request = ModelInferRequest(raw_input_contents=[bytes(8)] if raw is None and values is None else raw or [])
    entry = request.inputs.add(**{"name": "z", "datatype": "FP32", "shape": [1, 2], **fields})
    entry.contents.fp32_contents.extend(values or [])
    return request


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ModelInferRequest(), "0 inputs"),
        (message(raw=[bytes(8)] * 2), "1 inputs and 2 raw contents"),
        (message(raw=[bytes(9)]), "has 9 bytes, its shape needs 8"),
        (message(raw=[bytes(8)], values=[1.0, 2.0]), "both contents and raw contents"),
        (message(values=[1.0]), "has 1 values, its shape needs 2"),
        (message(shape=[-1, 2]), r"has shape \[-1, 2\]"),
        (message(shape=[2**62, 4]), "larger than the request"),
        (message(shape=[1] * 9), "has shape"),
        (message(datatype="FLOAT"), "unknown datatype"),
    ],
    ids=lambda value: str(value)[:40].replace("\n", " "),
)
def test_a_malformed_message_is_refused(request_: ModelInferRequest, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        check_message(request_, most=MOST)


@pytest.mark.parametrize("parameter", ["shared_memory_region", "classification"])
@pytest.mark.parametrize("place", ["request", "input", "output"])
def test_parameters_that_are_not_served_are_refused_anywhere_in_a_message(place: str, parameter: str) -> None:
    request = message()
    request.outputs.add(name="image")
    check_message(request, most=MOST)
    holder = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[place]
    holder.parameters[parameter].string_param = "x"
    with pytest.raises(Refusal, match=parameter):
        check_message(request, most=MOST)


def test_other_parameters_of_a_message_pass() -> None:
    request = message()
    request.parameters["sequence_id"].int64_param = 3
    check_message(request, most=MOST)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9), st.sampled_from([*ITEM_BYTES, "BYTES", ""]), st.binary())
def test_any_message_passes_or_is_refused(shape: list[int], datatype: str, contents: bytes) -> None:
    with contextlib.suppress(Refusal):
        check_message(message(shape=shape, datatype=datatype, raw=[contents]), most=MOST)


def test_values_of_every_floating_type_of_numpy_are_checked() -> None:
    # numpy has no BF16. None of our models takes it, so Triton refuses it.
    assert set(FLOATS) == {"FP16", "FP32", "FP64"} == {name for name in ITEM_BYTES if name.startswith("FP")}


# ---- parameters and names ----

GIVEN: list[tuple[str, Any]] = [
    ("priority", -1), ("priority", "1"), ("priority", True), ("priority", 1.5), ("priority", 2**63), ("priority", None),
    ("priority", 10**50), ("timeout", -1), ("timeout", "1"), ("timeout", []), ("binary_data_output", 1),
    ("binary_data_output", "true"), ("binary_data_output", None), ("sequence_id", True), ("sequence_id", -1),
    ("sequence_id", "a\0"), ("sequence_start", 1), ("sequence_end", "x"), ("another", 1), ("triton_x", 1), ("", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), GIVEN, ids=str)
def test_a_parameter_of_the_wrong_type_or_name_is_refused(name: str, value: Any) -> None:
    with pytest.raises(Refusal, match="parameter"):
        check(in_json(tensor(), parameters={name: value}))


def test_the_parameters_that_triton_reads_pass() -> None:
    given = {"priority": 1, "timeout": 2**63 - 1, "sequence_id": "a", "sequence_start": True, "sequence_end": False}
    check(in_json(tensor(), parameters={**given, "binary_data_output": True}))
    check(in_json(tensor(), parameters={"sequence_id": 0}))


@pytest.mark.parametrize("place", ["input", "output", "id"])
def test_a_name_with_nul_is_refused(place: str) -> None:
    input_ = tensor(name="z\0x") if place == "input" else tensor()
    fields: dict[str, Any] = {"outputs": [{"name": "image\0"}]} if place == "output" else {}
    with pytest.raises(Refusal, match="NUL"):
        check(in_json(input_, **fields, **({"id": "a\0"} if place == "id" else {})))


@pytest.mark.parametrize("place", ["model_name", "model_version", "id", "input", "output", "sequence_id"])
def test_a_name_with_nul_in_a_message_is_refused(place: str) -> None:
    request = message(name="z\0x") if place == "input" else message()
    if place == "output":
        request.outputs.add(name="image\0")
    elif place == "sequence_id":
        request.parameters[place].string_param = "a\0"
    elif place != "input":
        setattr(request, place, "1\0")
    with pytest.raises(Refusal, match="NUL"):
        check_message(request, most=MOST)


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("priority", "int64_param", -1), ("priority", "string_param", "1"), ("priority", "uint64_param", 2**64 - 1),
        ("timeout", "uint64_param", 1), ("timeout", "bool_param", True), ("timeout", "double_param", 1.0),
        ("sequence_start", "int64_param", 1), ("another", "string_param", "x"), ("", "bool_param", True),
    ],
)  # fmt: skip
def test_a_parameter_of_the_wrong_type_in_a_message_is_refused(name: str, kind: str, value: Any) -> None:
    request = message()
    setattr(request.parameters[name], kind, value)
    with pytest.raises(Refusal, match="parameter"):
        check_message(request, most=MOST)
    request = message()
    request.parameters[name].Clear()
    with pytest.raises(Refusal, match="parameter"):
        check_message(request, most=MOST)


# ---- bounded work: counted, not timed ----

LONG = "x" * 40_000
HOSTILE: dict[str, bytes] = {
    "one long string among numbers": in_json(tensor(shape=[1, 20_001], data=[*[0] * 20_000, LONG])),
    "the same in bytes": in_json(tensor(datatype="BYTES", shape=[20_001], data=[*["x"] * 20_000, LONG, 0])),
    "lists in lists": b'{"inputs": [' + b"[],[" * 40_000,
    "objects": b'{"inputs": [' + b"{}," * 40_000 + b"{}]}",
    "names": b"{" + b",".join(b'"%d": 1' % number for number in range(20_000)) + b"}",
    "digits": b'{"inputs": [' + b",".join([b"9" * 4000] * 40) + b"]}",
    "one number": b'{"inputs": [' + b"9" * 160_000 + b"]}",
    "nesting": in_json(tensor(data=json.loads("[" * 800 + "]" * 800))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_refused_request_costs_memory_of_its_own_size(name: str) -> None:
    body = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as refusal:
            check_body(body, None, most_json=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refusal.value.status == 400
    assert peak < 60 * len(body)  # an object for each few bytes


def test_more_values_than_a_request_may_have_are_refused_before_they_are_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_checks.json, "loads", lambda *_, **__: pytest.fail("parsed"))
    for body in (b"," * 5000, b"[" * 5000, b"{" * 5000, b":" * 5000):
        with pytest.raises(Refusal, match="more than any request"):
            check_body(body, None, most_json=MOST, most_values=1000)


def test_the_largest_request_passes_in_any_nesting() -> None:
    rows = [[[0.5]] * 10] * 100
    check_body(in_json(tensor(shape=[100, 10, 1], data=rows)), None, most_json=1 << 20, most_values=1000)


# ---- fields of a message ----


@given(st.integers(0, 3), st.integers(0, 4), st.booleans())
def test_fields_are_counted_as_protobuf_writes_them(inputs: int, values: int, raw: bool) -> None:
    request = ModelInferRequest(model_name="m")
    for _ in range(inputs):
        entry = request.inputs.add(name="z")
        entry.contents.bytes_contents.extend([b"x"] * values)
    request.raw_input_contents.extend([bytes(5)] * raw)
    found = count_fields(request.SerializeToString(), ModelInferRequest.DESCRIPTOR, most=1000)
    assert found == 1 + inputs * (3 + values) + raw  # of each: itself, its name, its contents, and their values


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x2a\x02\x2a\x00", b"\x22\x00", b"\x98\x06\x01"])
def test_many_small_fields_are_refused_before_they_are_parsed(field: bytes) -> None:
    with pytest.raises(Refusal, match="more fields"):
        parsed_message(field * 2000, most_values=10)


@given(st.binary())
def test_any_bytes_are_a_message_or_refused(content: bytes) -> None:
    with contextlib.suppress(Refusal):
        parsed_message(content, most_values=MOST)
