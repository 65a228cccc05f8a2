"""The HTTP side of the request filter: which paths it serves, how much it reads, and how it forwards to Triton."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from .request_checks import Refusal, check_body

BODY_SECONDS = 30.0  # in which all of a request's body must arrive
HEADER_LENGTH = "Inference-Header-Content-Length"
FORWARDED = (HEADER_LENGTH, "Content-Type")

_MODEL = r"/v2/models/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/versions/[0-9]{1,9})?"
INFER = re.compile(rf"{_MODEL}/infer")
# Nothing else: not the server's shared memory, log files, traces, or its model repository.
READ = re.compile(rf"/v2(/health/(live|ready)|/models/stats)?|{_MODEL}(/ready|/config|/stats)?")
INDEX = "/v2/repository/index"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Traffic:
    """What the HTTP and the gRPC side share: the requests in flight, and how far the shutdown has come."""

    in_flight: int = 0
    draining: bool = False
    """Whether HTTP connections are closed after their answer."""
    refusing: bool = False
    """Whether new gRPC requests are refused; gRPC cannot ask clients to close their connection."""


def inference_application(upstream: str, *, most_body: int, most_json: int, traffic: Traffic) -> web.Application:
    """Forward to Triton's HTTP port ``upstream`` ("http://127.0.0.1:PORT"). Sizes in bytes of unpacked content."""

    async def handle(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if request.method == "POST" and INFER.fullmatch(path):
            body = await _body(request)
            check_body(body, request.headers.get(HEADER_LENGTH), most_json=most_json)
            return await _forward(request, upstream, body, _forwarded(request.headers))
        if (request.method == "GET" and READ.fullmatch(path)) or (request.method, path) == ("POST", INDEX):
            return await _forward(request, upstream)
        raise Refusal(f"{request.method} {path[:100]} is not served", 404)

    return _application(handle, most_body, traffic)


def metrics_application(upstream: str, *, traffic: Traffic) -> web.Application:
    """Forward GET /metrics to Triton's metrics port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method != "GET" or request.rel_url.raw_path != "/metrics":
            raise Refusal("only GET /metrics is served", 404)
        return await _forward(request, upstream)

    return _application(handle, 1024, traffic)


_SESSION = web.AppKey("session", aiohttp.ClientSession)


def _application(handle: Handler, most_body: int, traffic: Traffic) -> web.Application:
    async def handle_or_refuse(request: web.Request) -> web.StreamResponse:
        traffic.in_flight += 1
        try:
            return await handle(request)
        except Refusal as error:
            return _refused(request, error.status, error.reason)
        except web.HTTPRequestEntityTooLarge:
            return _refused(request, 413, f"more than the {most_body} bytes that a request of this bundle needs")
        except aiohttp.ClientError as error:
            return _refused(request, 502, f"tritonserver does not answer: {error}")
        finally:
            traffic.in_flight -= 1

    async def close_when_draining(request: web.Request, response: web.StreamResponse) -> None:
        if traffic.draining:
            response.force_close()

    application = web.Application(client_max_size=most_body)
    application.router.add_route("*", "/{path:.*}", handle_or_refuse)
    application.on_response_prepare.append(close_when_draining)
    application.cleanup_ctx.append(_session)
    return application


async def _session(application: web.Application):  # type: ignore[no-untyped-def]
    # As many connections as clients have: Triton queues the requests, and counts them.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        application[_SESSION] = session
        yield


async def _body(request: web.Request) -> bytes:
    """Read all of the body and unpack it. After a body that is too large the connection is closed, not read further."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise Refusal(f"the body did not arrive within {BODY_SECONDS:.0f} s", 408) from error
    except (aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise Refusal(f"the body cannot be read: {error}") from error


async def _forward(
    request: web.Request, upstream: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Send the request to Triton and stream its answer back. The query is dropped: no path that is served has one."""
    path = request.rel_url.raw_path  # it matched one of the patterns above, so it needs no quoting
    all_headers = {"Accept-Encoding": "identity", **(headers or {})}
    async with request.app[_SESSION].request(request.method, upstream + path, data=body, headers=all_headers) as answer:
        response = web.StreamResponse(status=answer.status, headers=_forwarded(answer.headers))
        response.content_length = answer.content_length
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except (aiohttp.ClientError, OSError):  # Triton or the client is gone: an unfinished answer must not look whole
            if request.transport is not None:
                request.transport.abort()
    return response


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in FORWARDED if name in headers}


def _refused(request: web.Request, status: int, reason: str) -> web.Response:
    response = web.json_response({"error": reason}, status=status)
    if not request.content.is_eof():  # the rest of a refused body
        response.force_close()
    return response
