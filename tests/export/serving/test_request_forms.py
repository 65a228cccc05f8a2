"""Requests of every form, each part right or wrong, to a running server: it answers an image or a reason, never 500."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dcp_deploy.export import Runner
from dcp_deploy.export.serving.request_checks import ITEM_BYTES, PARAMETERS
from dcp_deploy.export.serving.server import Server

from .clients import body, infer

FORMS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40]),
    st.floats(), st.text(max_size=3), st.just("a\0b"), st.lists(st.integers(0, 1), max_size=2), st.just({}),
)  # fmt: skip
NAMES = st.sampled_from([*PARAMETERS, "binary_data", "binary_data_size", "classification", "shared_memory_region",
                         "triton_enable_empty_final_response", "another", "", "priority\0"])  # fmt: skip
PARAMETERS_OF = st.dictionaries(NAMES, VALUES, max_size=2)
TYPES = st.sampled_from([*ITEM_BYTES, "BYTES", "FP8", "", "fp32", "FP32\0"])


def rarely(strategy: st.SearchStrategy[Any], usual: Any) -> st.SearchStrategy[Any]:
    """Return the usual value five times of six."""
    return st.integers(0, 5).flatmap(lambda number: strategy if number == 0 else st.just(usual))


def tensors(runner: Runner) -> list[tuple[str, int]]:
    return [("z", runner.z_dim), ("psi", 1), ("c", runner.c_dim)]


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(server.http).netloc, timeout=30)
    yield connection
    connection.close()


def check_answer(connection: http.client.HTTPConnection, content: bytes, headers: dict[str, str]) -> None:
    connection.request("POST", "/v2/models/generator/infer", content, headers)
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status in (200, 400), (answer.status, said[:300], content[:2000], headers)
    if answer.status == 400:
        assert json.loads(said)["error"]


@given(data=st.data())
@FORMS
def test_json(connection: http.client.HTTPConnection, local: Runner, data: st.DataObject) -> None:
    inputs = []
    for name, count in tensors(local):
        fields = {
            "name": data.draw(rarely(st.sampled_from(["z", "z\0", "", "psi"]), name)),
            "shape": data.draw(rarely(st.lists(st.integers(-1, 30), max_size=3), [1, count])),
            "datatype": data.draw(rarely(TYPES, "FP32")),
            "data": data.draw(rarely(st.lists(VALUES, max_size=3) | VALUES, [0.5] * count)),
        }
        if (given := data.draw(rarely(PARAMETERS_OF | VALUES, {}))) != {}:
            fields["parameters"] = given
        inputs.append(fields)
    request: dict[str, Any] = {"inputs": inputs, "parameters": data.draw(PARAMETERS_OF)}
    if data.draw(st.booleans()):
        request["outputs"] = [{"name": data.draw(rarely(st.sampled_from(["z", "image\0", ""]), "image")),
                               "parameters": data.draw(rarely(PARAMETERS_OF, {}))}]  # fmt: skip
    request["id"] = data.draw(rarely(VALUES, "1"))
    check_answer(connection, json.dumps(request).encode(), {})


@given(data=st.data())
@FORMS
def test_binary(connection: http.client.HTTPConnection, local: Runner, data: st.DataObject) -> None:
    inputs, contents = [], b""
    for name, count in tensors(local):
        content = data.draw(rarely(st.binary(max_size=9), struct.pack(f"<{count}f", *[0.5] * count)))
        size = data.draw(rarely(VALUES, len(content)))
        datatype = data.draw(rarely(TYPES, "FP32"))
        inputs.append(
            {"name": name, "shape": [1, count], "datatype": datatype, "parameters": {"binary_data_size": size}}
        )
        contents += content
    request = {"inputs": inputs, "parameters": data.draw(rarely(PARAMETERS_OF, {"binary_data_output": True}))}
    head = json.dumps(request).encode()
    length = data.draw(rarely(st.sampled_from(["", "x", "-1", "0", "9" * 20, str(len(head) - 1)]), str(len(head))))
    kind = data.draw(rarely(st.sampled_from(["text/html", "application/json", "x"]), "application/octet-stream"))
    check_answer(connection, head + contents, {"Inference-Header-Content-Length": length, "Content-Type": kind})


KINDS = st.sampled_from(["bool_param", "int64_param", "string_param", "double_param", "uint64_param"])


def set_parameter(parameters: Any, name: str, kind: str, number: int) -> None:
    value: Any = {"bool_param": bool(number), "string_param": "\0" * (number == 2) + str(number)}.get(kind, number)
    setattr(parameters[name], kind, abs(value) if kind == "uint64_param" else value)


@given(data=st.data())
@FORMS
def test_grpc(server: Server, local: Runner, data: st.DataObject) -> None:
    request = service_pb2.ModelInferRequest(
        model_name=data.draw(rarely(st.sampled_from(["generator\0"]), "generator")),
        model_version=data.draw(rarely(st.sampled_from(["1", "x", "-1", "1\0", "9" * 30]), "")),
        id=data.draw(rarely(st.text(max_size=2), "1")),
    )
    for name, count in tensors(local):
        entry = request.inputs.add(
            name=data.draw(rarely(st.sampled_from(["z\0", "", "psi"]), name)),
            datatype=data.draw(rarely(TYPES, "FP32")),
            shape=data.draw(rarely(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9), [1, count])),
        )
        field = data.draw(rarely(st.sampled_from(["int_contents", "fp64_contents", "bool_contents"]), "fp32_contents"))
        if data.draw(rarely(st.just(True), False)):
            request.raw_input_contents.append(data.draw(st.binary(max_size=9)))
        else:
            getattr(entry.contents, field).extend([0] * count)
        if data.draw(rarely(st.just(True), False)):
            set_parameter(entry.parameters, data.draw(NAMES), data.draw(KINDS), 1)
    if data.draw(st.booleans()):
        set_parameter(request.parameters, data.draw(NAMES), data.draw(KINDS), data.draw(st.integers(-2, 2)))
    request.outputs.add(name=data.draw(rarely(st.sampled_from(["", "image\0", "z"]), "image")))
    with grpc.insecure_channel(server.grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, (error, request)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403), ({"Host": "localhost"}, 200), ({"Content-Encoding": "gzip"}, 400),
        ({"Content-Encoding": "deflate"}, 400), ({"Content-Encoding": "x"}, 415), ({"Expect": "100-continue"}, 200),
        ({"X-Forwarded-For": "x" * 2000}, 200),
    ],
    ids=str,
)  # fmt: skip
def test_headers(server: Server, headers: dict[str, str], status: int, local: Runner) -> None:
    assert infer(server, body(local), **headers)[0] == status
