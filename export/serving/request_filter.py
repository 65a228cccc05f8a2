"""The request filter in front of Triton: a process that refuses what older releases cannot handle.

    client -> request filter: size, JSON, shapes, finite numbers -> tritonserver, on a port of this machine only

It forwards all other requests, generates no images and knows no model. Triton 2.51, which nvidia-pytriton contains,
crashes on 8 MB of JSON or on a shape whose product overflows. The filter accepts only what a bundle needs.
:func:`~.server.running_server` starts it: python -m dcp_deploy.export.serving.request_filter '{"host": ..., ...}'
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

MOST_JSON = 4 << 20  # Triton 2.51 crashes on 8 MB
QUIET_SECONDS = 0.5  # without any request in flight, before a filter that received SIGTERM ends


@dataclass(frozen=True)
class FilterSettings:
    """Where the filter and Triton listen, and how large a request may be."""

    host: str
    ports: tuple[int, int, int]
    """Ports of the filter: HTTP, gRPC, metrics."""
    upstream: tuple[int, int, int]
    """The same three ports of Triton, on 127.0.0.1."""
    most_body: int
    """Bytes of the largest request."""
    most_json: int
    """Bytes of the largest JSON."""
    grace_seconds: float
    """How long requests in flight may take after SIGTERM."""
    triton: int
    """Triton's process id. The filter sends it SIGTERM if the process that started both is killed."""

    def command(self) -> list[str]:
        """Return the command line that starts the filter."""
        return [sys.executable, "-P", "-m", "dcp_deploy.export.serving.request_filter", json.dumps(asdict(self))]


def url_host(host: str) -> str:
    """Put an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


async def run_filter(settings: FilterSettings) -> None:
    """Listen until SIGTERM, SIGINT or the end of standard input, which the starting process keeps open.

    Then accept no new connections, answer the requests in flight, and return.
    """
    from aiohttp import web

    from .filter_grpc import grpc_filter
    from .filter_http import Traffic, inference_application, metrics_application

    loop, ending, orphaned, traffic = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), Traffic()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            orphaned.set()
            ending.set()

    loop.add_reader(sys.stdin.fileno(), read)
    http, grpc_address, metrics = (f"127.0.0.1:{port}" for port in settings.upstream)
    sizes = {"most_body": settings.most_body, "most_json": settings.most_json}
    applications = {
        settings.ports[0]: inference_application(f"http://{http}", **sizes, traffic=traffic),
        settings.ports[2]: metrics_application(f"http://{metrics}", traffic=traffic),
    }
    runners, sites = [], []
    for port, application in applications.items():
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=settings.grace_seconds)
        await runner.setup()
        sites.append(web.TCPSite(runner, settings.host, port))
        await sites[-1].start()
        runners.append(runner)
    own_grpc = f"{url_host(settings.host)}:{settings.ports[1]}"
    grpc_server = grpc_filter(own_grpc, grpc_address, most_body=settings.most_body, traffic=traffic)
    await grpc_server.start()
    await ending.wait()
    await _drain(traffic, sites, settings.grace_seconds)
    await grpc_server.stop(1.0)
    for runner in runners:
        await runner.cleanup()
    if orphaned.is_set():
        with contextlib.suppress(ProcessLookupError):
            os.kill(settings.triton, signal.SIGTERM)


async def _drain(traffic: Any, sites: list[Any], seconds: float) -> None:
    """Stop listening. Answer what clients have just sent on open connections, then wait for the requests in flight."""
    for site in sites:
        await site.stop()
    traffic.draining = True
    end = asyncio.get_running_loop().time() + seconds
    await asyncio.sleep(QUIET_SECONDS)
    traffic.refusing = True
    quiet = 0.0
    while quiet < QUIET_SECONDS and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(QUIET_SECONDS / 10)
        quiet = 0.0 if traffic.in_flight else quiet + QUIET_SECONDS / 10


def main() -> None:
    """Run the process; its one argument is a :class:`FilterSettings` as JSON."""
    settings = TypeAdapter(FilterSettings).validate_json(sys.argv[1])
    try:
        asyncio.run(run_filter(settings))
    except OSError as error:  # a port that is in use
        sys.exit(f"the request filter cannot listen: {error}")


if __name__ == "__main__":
    main()
