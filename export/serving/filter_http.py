"""The guard's HTTP side: what may be asked, how much may be sent, and what is handed on to Triton as it came."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
from aiohttp import web

from .request_checks import Refusal, check_body

BODY_SECONDS = 30.0  # for all of a request's body to come
HEADER_LENGTH = "Inference-Header-Content-Length"

_MODEL = r"/v2/models/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/versions/[0-9]{1,9})?"
INFER = re.compile(rf"{_MODEL}/infer")
# Nothing else: not the server's shared memory, log files, traces, or its model repository.
READ = re.compile(rf"/v2(/health/(live|ready)|/models/stats)?|{_MODEL}(/ready|/config|/stats)?")
INDEX = re.compile("/v2/repository/index")
METRICS = re.compile("/metrics")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Traffic:
    """How many requests are under way, and how near the end is."""

    def __init__(self) -> None:
        self.under_way = 0
        self.draining = False
        """HTTP connections are closed after their answer."""
        self.refusing = False
        """New requests over gRPC, which has no such word for its clients, are refused."""


def inference_application(upstream: str, *, most_body: int, most_json: int, traffic: Traffic) -> web.Application:
    """Forwards to Triton's HTTP port ``upstream`` ("http://127.0.0.1:PORT"). Sizes in bytes, of unpacked content."""

    async def handle(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if request.method == "POST" and INFER.fullmatch(path):
            body = await _body(request)
            check_body(body, request.headers.get(HEADER_LENGTH), most_json=most_json)
            kept = {name: request.headers[name] for name in (HEADER_LENGTH, "Content-Type") if name in request.headers}
            return await _forward(request, upstream, body, kept)
        if request.method == "GET" and READ.fullmatch(path):
            return await _forward(request, upstream)
        if request.method == "POST" and INDEX.fullmatch(path):
            return await _forward(request, upstream)
        raise Refusal(f"{request.method} {path[:100]} is not served", 404)

    return _application(handle, most_body, traffic)


def metrics_application(upstream: str, *, traffic: Traffic) -> web.Application:
    """The same for Triton's metrics, which are only read."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method != "GET" or not METRICS.fullmatch(request.rel_url.raw_path):
            raise Refusal("only GET /metrics is served", 404)
        return await _forward(request, upstream)

    return _application(handle, 1024, traffic)


_SESSION = web.AppKey("session", aiohttp.ClientSession)


def _application(handle: Handler, most_body: int, traffic: Traffic) -> web.Application:
    async def guarded(request: web.Request) -> web.StreamResponse:
        traffic.under_way += 1
        try:
            return await handle(request)
        except Refusal as error:
            return _told(request, error.status, error.reason)
        except web.HTTPRequestEntityTooLarge:
            return _told(request, 413, f"more than the {most_body} bytes that a request of this bundle needs")
        except aiohttp.ClientError as error:
            return _told(request, 502, f"tritonserver does not answer: {error}")
        finally:
            traffic.under_way -= 1

    async def close_when_draining(request: web.Request, response: web.StreamResponse) -> None:
        if traffic.draining:
            response.force_close()

    application = web.Application(client_max_size=most_body)
    application.router.add_route("*", "/{path:.*}", guarded)
    application.on_response_prepare.append(close_when_draining)
    application.cleanup_ctx.append(_session)
    return application


async def _session(application: web.Application):  # type: ignore[no-untyped-def]
    # As many connections as clients have: who queues requests is Triton, which counts them.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        application[_SESSION] = session
        yield


async def _body(request: web.Request) -> bytes:
    """All of the body, unpacked where it came packed. What is too large ends the connection: nobody reads the rest."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise Refusal(f"the body did not come within {BODY_SECONDS:.0f} s", 408) from error
    except (aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise Refusal(f"the body cannot be read: {error}") from error


async def _forward(
    request: web.Request, upstream: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Ask Triton and hand on its answer as it comes. The query is left out: nothing that is served has one."""
    path = request.rel_url.raw_path  # of plain letters, or it would not have come so far
    asked = {"Accept-Encoding": "identity", **(headers or {})}
    async with request.app[_SESSION].request(request.method, upstream + path, data=body, headers=asked) as answer:
        told = {name: answer.headers[name] for name in (HEADER_LENGTH, "Content-Type") if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=told)
        response.content_length = answer.content_length
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except (aiohttp.ClientError, OSError):  # one of the two is gone: what was begun must not be filled up
            if request.transport is not None:
                request.transport.abort()
    return response


def _told(request: web.Request, status: int, reason: str) -> web.Response:
    response = web.json_response({"error": reason}, status=status)
    if not request.content.is_eof():  # what is left of a body that was refused
        response.force_close()
    return response
