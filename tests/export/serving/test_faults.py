"""Invalid requests to a served bundle: each is refused with a clear reason and disturbs no other client."""

from __future__ import annotations

import copy
import http.client
import json
import random
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dcp_deploy.export import Runner
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.serving.endpoint_check import check_endpoint
from dcp_deploy.export.serving.server import Server

from .clients import CLIENTS, answers_correctly, arrays, ask, body, infer, inputs

# ---- malformed requests ----


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("z", {"datatype": "INT64", "data": [0] * 24}, "data-type is 'INT64'"),
        ("z", {"shape": [1, 5], "data": [0.0] * 5}, "shape"),
        ("z", {"shape": [24]}, "batch size does not match"),
        ("z", {"name": "latent"}, "unexpected inference input 'latent'"),
        ("z", {"name": "psi"}, "given twice"),
        ("z", None, "expected 3 inputs but got 2"),
        ("z", {"shape": [1, -24]}, "inputs.0.shape.1"),
        ("z", {"shape": [2**62, 4]}, "inputs.0.shape.0"),
        ("z", {"shape": [2**30, 2**30, 2**30]}, "larger than the request"),
        ("z", {"data": ["x"] * 24}, "does not fit FP32"),
        ("z", {"data": [0.0] * 23}, "has 23 numbers"),
        ("z", {"parameters": {"shared_memory_region": "r"}}, "shared_memory_region"),
        ("c", {"shape": [1, 99], "data": [0.0] * 99}, "shape"),
        ("psi", {"data": [float("nan")]}, "'psi' holds values that are not finite"),
        ("psi", {"data": [1e39]}, "'psi' holds values that are not finite"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_request_gets_a_400_with_the_reason(
    server: Server, local: Runner, name: str, change: dict[str, Any] | None, reason: str
) -> None:
    answered, answer = infer(server, body(local, **{name: change}))
    assert answered == 400
    assert reason in json.loads(answer)["error"]
    assert infer(server, body(local))[0] == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"inputs": 5}', b"\xff" * 100, b"[" * 1000, b"\0"], ids=range(8)
)
def test_a_body_that_is_not_a_request_gets_a_400(server: Server, local: Runner, content: bytes) -> None:
    status, answer = infer(server, content)
    assert status == 400 and json.loads(answer)["error"]
    assert infer(server, body(local))[0] == 200


WEIRD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**64, -(2**63), 10**30, 1e308, 1.5, "", "x", "\ud800", "\0", [], [[]], {}, [None],
    ["x"], float("nan"), float("inf"), "FP32", "INT64", "BYTES", "image", {"binary_data_size": 8},
    {"binary_data": True}, {"classification": 5}, {"sequence_id": 3}, {"priority": 9},
]  # fmt: skip


def mutated(document: Any, chance: random.Random) -> Any:
    """Return a copy in which one value, anywhere, is replaced or removed."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(document)
    node, key = chance.choice(places)
    if chance.random() < 0.2:
        del node[key]
    else:
        node[key] = copy.deepcopy(chance.choice(WEIRD))
    return document


def test_a_request_damaged_anywhere_gets_a_4xx_or_an_image(server: Server, local: Runner) -> None:
    chance, statuses = random.Random(0), []
    good = {**json.loads(body(local)), "id": "1", "outputs": [{"name": "image", "parameters": {"binary_data": False}}]}
    connection = http.client.HTTPConnection(urlsplit(server.http).netloc, timeout=30)
    for _ in range(400):
        damaged = mutated(good, chance)
        connection.request("POST", "/v2/models/generator/infer", json.dumps(damaged))
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200 or 400 <= answer.status < 500, (answer.status, content[:200], damaged)
        statuses.append(answer.status)
    connection.close()
    assert 200 in statuses and statuses.count(400) > 200  # some changes are valid, such as another id
    assert infer(server, body(local))[0] == 200


def test_unknown_models_and_versions_are_refused(server: Server, local: Runner) -> None:
    assert infer(server, body(local), model="nobody")[0] in (400, 404)
    assert infer(server, body(local), path="/v2/models/generator/versions/7/infer")[0] in (400, 404)


# ---- values that are not finite ----


@pytest.mark.parametrize("kind", ["http", "grpc"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_latent_that_is_not_finite_is_refused_before_any_backend(
    server: Server, local: Runner, kind: str, value: float
) -> None:
    values = arrays(local)
    values["z"][0, 1] = value
    with pytest.raises(InferenceServerException, match="input 'z' holds values that are not finite"):
        ask(server, kind, values)


def test_the_python_backend_refuses_it_too_and_answers_the_rest_of_its_batch(server: Server, local: Runner) -> None:
    port = json.loads(server.request_filter.args[-1])["upstream"][0]  # type: ignore[index]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}", concurrency=8) as client:
        many = [arrays(local, seed) for seed in range(6)]
        many[0]["z"][0, 1] = np.nan
        asked = [client.async_infer("generator", inputs("http", values)) for values in many]
        with pytest.raises(InferenceServerException, match="z hold values that are not finite"):
            asked[0].get_result()
        for one, values in zip(asked[1:], many[1:], strict=True):
            image = one.get_result().as_numpy("image")
            assert np.abs(image.astype(int) - local(z=values["z"], c=values["c"])).max() <= 1


# ---- paths and calls ----


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2/systemsharedmemory/region/x/register", b'{"key": "/x", "byte_size": 8}'),
        ("/v2/systemsharedmemory/status", None),
        ("/v2/cudasharedmemory/region/x/register", b"{}"),
        ("/v2/logging", b'{"log_file": "x"}'),
        ("/v2/trace/setting", b'{"trace_file": "x"}'),
        ("/v2/repository/models/generator/unload", b"{}"),
        ("/v2/models/generator/generate", b"{}"),
        ("/v2/models/..%2f..%2fetc/config", None),
        ("/v2/models/../config", None),
        ("/", None),
    ],
)
def test_the_rest_of_triton_is_not_served(server: Server, path: str, content: bytes | None) -> None:
    status, answer = infer(server, content, path=path)
    assert status == 404 and "not served" in json.loads(answer)["error"]


def test_the_rest_of_triton_is_not_served_over_grpc(server: Server) -> None:
    with grpc.insecure_channel(server.grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        register = service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=8)
        for attempt in (
            lambda: stub.SystemSharedMemoryRegister(register, timeout=10),
            lambda: stub.LogSettings(service_pb2.LogSettingsRequest(), timeout=10),
            lambda: stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as error:
                attempt()
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        infer_raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            infer_raw(b"\xff" * 50, timeout=10)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_health_metadata_and_statistics_are_served(server: Server) -> None:
    for kind, address in (("http", urlsplit(server.http).netloc), ("grpc", server.grpc)):
        with CLIENTS[kind].InferenceServerClient(address) as client:
            assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("generator")
            assert client.get_server_metadata() and client.get_model_metadata("generator")
            assert client.get_model_config("generator") and client.get_inference_statistics("generator")
            assert client.get_model_repository_index()


# ---- clients that disconnect, faults under load ----


def test_clients_that_disconnect_do_not_disturb_others(server: Server, bundle: Path, local: Runner) -> None:
    where, content = urlsplit(server.http), body(local, batch=8)
    path = "/v2/models/generator/infer"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for number in range(60):
        with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
            connection.sendall((head + content)[: [20, len(head), len(head) + 50, None][number % 4]])
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        ended = threading.Semaphore(0)
        for _ in range(20):
            values = inputs("grpc", arrays(local, rows=8))
            client.async_infer("generator", values, callback=lambda result, error: ended.release()).cancel()
        assert all(ended.acquire(timeout=10) for _ in range(20))
    assert answers_correctly(server, bundle)


def test_faults_under_load_do_not_change_other_clients_images(server: Server, bundle: Path, local: Runner) -> None:
    golden, kept = read_golden(bundle, "generator")
    bad = [body(local, psi={"data": [float("nan")]}), body(local, batch=9), body(local, z={"shape": [2**62, 4]}), b"{"]
    over = threading.Event()
    statuses = set()

    def send_bad() -> None:
        while not over.is_set():
            statuses.update(infer(server, content)[0] for content in bad)

    sender = threading.Thread(target=send_bad)
    sender.start()
    try:
        report = check_endpoint(server.http, golden, kept, clients=4, requests=100)
    finally:
        over.set()
        sender.join()
    report.raise_for_failure()
    assert statuses == {400}
