"""The HTTP side of the request filter: which paths it serves, how much it reads, and how it forwards to Triton."""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .filter_connections import TimedProtocol
from .hosts import is_allowed
from .request_checks import Refusal, check_body
from .traffic import Traffic

BODY_SECONDS = 30.0  # in which all of a request's body must arrive
SEND_SECONDS = 30.0  # in which a client must take each part of its answer
HEALTH_SECONDS = 2.0  # in which Triton must say that it is ready
HEADER_LENGTH = "Inference-Header-Content-Length"
FORWARDED = (HEADER_LENGTH, "Content-Type")

_MODEL = r"/v2/models/([A-Za-z0-9_][A-Za-z0-9_.-]{0,99})(/versions/[0-9]{1,9})?"
INFER = re.compile(rf"{_MODEL}/infer")
# Nothing else: not the server's shared memory, log files, traces, or its model repository.
HEALTH = re.compile(rf"/v2/health/(live|ready)|{_MODEL}/ready")
READ = re.compile(rf"/v2(/models/stats)?|{_MODEL}(/config|/stats)?")
INDEX = "/v2/repository/index"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def inference_application(
    upstream: str,
    *,
    most_body: int,
    most_json: int,
    traffic: Traffic,
    most_values: int | None = None,
    hosts: frozenset[str] | None = None,
) -> web.Application:
    """Forward to Triton's HTTP port ``upstream`` ("http://127.0.0.1:PORT"). Sizes in bytes of unpacked content.

    ``most_values``: how many values JSON may have. ``hosts``: the names by which clients may call this server, None for
    any.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if request.method == "POST" and (asked := INFER.fullmatch(path)):
            with traffic.inferring():
                body, length = await _body(request, most_body, traffic), request.headers.get(HEADER_LENGTH)
                await traffic.check(len(body), check_body, body, length, most_json=most_json, most_values=most_values)
                with traffic.answers.waiting(asked[1]) as answered:
                    return await _forward(request, upstream, body, _forwarded(request.headers), answered)
        if request.method == "GET" and HEALTH.fullmatch(path):
            return await _health(request, upstream, traffic)
        if (request.method == "GET" and READ.fullmatch(path)) or (request.method, path) == ("POST", INDEX):
            traffic.check_ready()
            return await _forward(request, upstream)
        raise Refusal(f"{request.method} {path[:100]} is not served", 404)

    return _application(handle, most_body, traffic, hosts)


async def _health(request: web.Request, upstream: str, traffic: Traffic) -> web.StreamResponse:
    """Say whether Triton is ready. A restart of its models does not make this server dead, only not ready."""
    if not traffic.ready:
        if request.rel_url.raw_path.endswith("/live"):
            return web.Response()
        traffic.check_ready()
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await _forward(request, upstream)
    except TimeoutError as error:
        raise Refusal(f"tritonserver did not answer within {HEALTH_SECONDS:.0f} s", 503) from error


def metrics_application(upstream: str, *, traffic: Traffic, hosts: frozenset[str] | None = None) -> web.Application:
    """Forward GET /metrics to Triton's metrics port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method != "GET" or request.rel_url.raw_path != "/metrics":
            raise Refusal("only GET /metrics is served", 404)
        return await _forward(request, upstream)

    return _application(handle, 1024, traffic, hosts)


def _protocol(request: web.Request) -> TimedProtocol | None:
    protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, TimedProtocol) else None


def _answering(request: web.Request) -> AbstractContextManager[None]:
    protocol = _protocol(request)
    return nullcontext() if protocol is None else protocol.answering()


def _check_host(request: web.Request, hosts: frozenset[str] | None) -> None:
    """Refuse a request for another host: a web page of a foreign name may not reach this server by its address."""
    given = request.headers.getall("Host", [])
    if len(given) > 1 or (not given and request.version >= aiohttp.HttpVersion11):
        raise Refusal(f"the request has {len(given)} Host headers instead of one")
    if hosts is not None and given and not is_allowed(given[0], hosts):
        raise Refusal(f"host {given[0][:100]!r} is not served; serve --allow-host NAME adds a name", 403)


_SESSION = web.AppKey("session", aiohttp.ClientSession)


def _application(handle: Handler, most_body: int, traffic: Traffic, hosts: frozenset[str] | None) -> web.Application:
    async def handle_or_refuse(request: web.Request) -> web.StreamResponse:
        protocol = _protocol(request)
        traffic.in_flight += 1
        try:
            with protocol.request() if protocol else nullcontext():
                _check_host(request, hosts)
                return await handle(request)
        except Refusal as error:
            return _refused(request, error.status, error.reason)
        except web.HTTPRequestEntityTooLarge:
            return _refused(request, 413, _too_large(most_body))
        except aiohttp.ClientError as error:
            return _refused(request, 503 if not traffic.ready else 502, f"tritonserver does not answer: {error}")
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


async def _body(request: web.Request, most: int, traffic: Traffic) -> bytes:
    """Read all of the body and unpack it. After a body that is too large the connection is closed, not read further."""
    packed = ", ".join(request.headers.getall("Content-Encoding", ["identity"])).strip().lower()
    if packed not in ("identity", "gzip", "deflate"):  # of brotli, 800 bytes can stand for a gigabyte
        raise Refusal(f"content encoding {packed[:40]!r} is not served; send gzip, deflate or neither", 415)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            content = await request.read()
    except TimeoutError as error:
        raise Refusal(f"the body did not arrive within {BODY_SECONDS:.0f} s", 408) from error
    except (aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise Refusal(f"the body cannot be read: {error}") from error
    return content if packed == "identity" else await traffic.check(most, _unpacked, content, most)


def _unpacked(content: bytes, most: int) -> bytes:
    """Unpack one gzip or zlib stream of at most ``most`` bytes. Raises Refusal for anything else."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # its header says which of the two it is
    try:
        body = unpacker.decompress(content, most + 1)
    except zlib.error as error:
        raise Refusal(f"the body cannot be unpacked: {error}") from error
    if len(body) > most:
        raise Refusal(_too_large(most), 413)
    if not unpacker.eof or unpacker.unused_data:
        raise Refusal("the packed body is cut off, or something follows it")
    return body


def _too_large(most: int) -> str:
    return f"more than the {most} bytes that a request of this bundle needs"


def leave_out_bad_requests() -> None:
    """Keep requests that are not HTTP out of the log: their senders got the reason, and anybody may send many."""
    logging.getLogger("aiohttp.server").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
    )


async def _forward(
    request: web.Request, upstream: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
    answered: Callable[[], None] = lambda: None,
) -> web.StreamResponse:  # fmt: skip
    """Send the request to Triton and stream its answer back. The query is dropped: no path that is served has one.

    ``answered`` is called when the model has answered: Triton sends nothing before.
    """
    path = request.rel_url.raw_path  # it matched one of the patterns above, so it needs no quoting
    all_headers = {"Accept-Encoding": "identity", **(headers or {})}
    asked = request.app[_SESSION].request(request.method, upstream + path, data=body, headers=all_headers)
    with nullcontext() if body is None else _answering(request):
        async with asked as answer:
            if answer.status == 200:
                answered()
            response = web.StreamResponse(status=answer.status, headers=_forwarded(answer.headers))
            response.content_length = answer.content_length
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    async with asyncio.timeout(SEND_SECONDS):
                        await response.write(chunk)
                await response.write_eof()
            except (aiohttp.ClientError, OSError):  # and TimeoutError
                # Triton or the client is gone, or does not read: an unfinished answer must not look whole.
                if request.transport is not None:
                    request.transport.abort()
    return response


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in FORWARDED if name in headers}


def _refused(request: web.Request, status: int, reason: str) -> web.Response:
    response = web.json_response({"error": reason}, status=status)
    if not request.content.is_eof():  # the rest of a refused body
        response.force_close()
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response
