"""Requests to a served bundle that are too large, or whose bodies arrive in pieces, compressed, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import logging
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from aiohttp.http_exceptions import BadStatusLine, InvalidHeader
from aiohttp.test_utils import TestServer
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dcp_deploy.benchmarks.experiments.serving import server_memory
from dcp_deploy.export import Runner
from dcp_deploy.export.serving import filter_http
from dcp_deploy.export.serving.server import Server

from .clients import answers_correctly, arrays, ask, body, infer


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_batch_over_the_maximum_is_refused(server: Server, local: Runner, kind: str) -> None:
    with pytest.raises(InferenceServerException, match="batch-size must be <= 8"):
        ask(server, kind, arrays(local, rows=9))


def sent(server: Server, head: str, content: Iterator[bytes]) -> tuple[int, bytes]:
    """Send until the server stops reading. Return (status, answer)."""
    where = urlsplit(server.http)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(f"POST /v2/models/generator/infer HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        try:
            for block in content:
                connection.sendall(block)
        except OSError:
            pass  # the server has answered and closed the connection
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


MEGABYTE = b"1, " * 349_525 + b"0"


@pytest.mark.parametrize("framing", ["with its length", "in chunks"])
def test_100_mb_of_json_are_refused_as_too_large_and_cost_no_memory(server: Server, bundle: Path, framing: str) -> None:
    def chunked() -> Iterator[bytes]:
        for _ in range(100):
            yield b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE)
        yield b"0\r\n\r\n"

    assert answers_correctly(server, bundle)
    before = server_memory(server)
    whole = (MEGABYTE for _ in range(100))
    head = f"Content-Length: {100 * len(MEGABYTE)}" if framing == "with its length" else "Transfer-Encoding: chunked"
    status, answer = sent(server, head, whole if framing == "with its length" else chunked())
    assert status == 413 and "bytes that a request of this bundle needs" in json.loads(answer)["error"]
    assert server_memory(server) - before < 10e6
    assert answers_correctly(server, bundle)


@pytest.mark.parametrize(("kind", "reason"), [("http", "bytes that a request"), ("grpc", "larger than max")])
def test_100_mb_in_the_binary_encoding_are_refused(
    server: Server, bundle: Path, local: Runner, kind: str, reason: str
) -> None:
    rows = 25_000_000 // local.z_dim
    sizes = {"z": local.z_dim, "psi": 1, "c": local.c_dim}
    values = {name: np.zeros((rows, size), np.float32) for name, size in sizes.items()}
    try:
        with pytest.raises(InferenceServerException, match=reason):
            ask(server, kind, values)
    except OSError:
        assert kind == "http"  # the client was still sending when the server had answered and closed the connection
    assert answers_correctly(server, bundle)


def test_a_compressed_body_is_read_unless_it_unpacks_to_too_much(server: Server, local: Runner) -> None:
    assert infer(server, gzip.compress(body(local)), Content_Encoding="gzip")[0] == 200
    bomb = gzip.compress(MEGABYTE * 30)
    assert len(bomb) < 60_000
    status, answer = infer(server, bomb, Content_Encoding="gzip")
    assert status == 413, answer
    for cut in (20, 60):
        assert infer(server, gzip.compress(body(local))[:-cut], Content_Encoding="gzip")[0] == 400
    with grpc.insecure_channel(
        server.grpc, options=[("grpc.enable_http_proxy", 0)], compression=grpc.Compression.Gzip
    ) as channel:
        request = service_pb2.ModelInferRequest(model_name="generator", raw_input_contents=[bytes(30_000_000)])
        with pytest.raises(grpc.RpcError) as error:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert infer(server, body(local))[0] == 200


@pytest.mark.parametrize(("packed", "status"), [("deflate", 200), ("br", 415), ("zstd", 415), ("gzip, gzip", 415)])
def test_only_what_triton_unpacks_too_is_unpacked(server: Server, local: Runner, packed: str, status: int) -> None:
    assert infer(server, zlib.compress(body(local)), Content_Encoding=packed)[0] == status


def test_what_follows_a_packed_body_is_refused(server: Server, local: Runner) -> None:
    status, answer = infer(server, gzip.compress(body(local)) + b"more", Content_Encoding="gzip")
    assert status == 400 and b"something follows it" in answer


def test_only_faults_of_the_filter_itself_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("aiohttp.server")
    monkeypatch.setattr(log, "filters", [])
    filter_http.leave_out_bad_requests()
    for error in (BadStatusLine("x"), InvalidHeader("x"), ZeroDivisionError("ours")):
        log.error("Error handling request", exc_info=error)
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("ours",)]


def test_a_body_in_chunks_is_read(server: Server, local: Runner) -> None:
    content = body(local)
    chunks = [b"%x\r\n%b\r\n" % (len(content[i : i + 100]), content[i : i + 100]) for i in range(0, len(content), 100)]
    status, _ = sent(server, "Transfer-Encoding: chunked", iter([*chunks, b"0\r\n\r\n"]))
    assert status == 200


def test_a_body_that_does_not_arrive_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_http, "BODY_SECONDS", 0.1)

    async def half_a_request() -> tuple[int, str]:
        application = filter_http.inference_application(
            "http://127.0.0.1:9", most_body=1000, most_json=1000, traffic=filter_http.Traffic()
        )
        async with TestServer(application) as filter_server:
            reader, writer = await asyncio.open_connection("127.0.0.1", filter_server.port)
            writer.write(b"POST /v2/models/generator/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            answer = (await reader.readuntil(b"}")).decode()
            writer.close()
        return int(answer.split()[1]), answer

    status, answer = asyncio.run(half_a_request())
    assert status == 408 and "did not arrive within" in answer


def test_an_incomplete_answer_of_triton_does_not_look_complete_to_the_client() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(10))
        await writer.drain()
        writer.close()

    async def asked() -> bytes:
        upstream = await asyncio.start_server(break_off, "127.0.0.1", 0)
        port = upstream.sockets[0].getsockname()[1]
        application = filter_http.metrics_application(f"http://127.0.0.1:{port}", traffic=filter_http.Traffic())
        async with asyncio.timeout(10), upstream, TestServer(application) as filter_server:
            reader, writer = await asyncio.open_connection("127.0.0.1", filter_server.port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while block := await reader.read(1000):
                    answer += block
            writer.close()
            return answer

    head, _, content = asyncio.run(asked()).partition(b"\r\n\r\n")
    assert b"Content-Length: 1000" in head and content == bytes(10)[: len(content)]
