"""The guard before a Triton server: a process that refuses what older Tritons fall over, and forwards the rest.

    client -> guard: size, JSON, shapes, finite numbers -> tritonserver, on a port of this machine's own

It draws nothing and knows no model. Triton 2.51, which nvidia-pytriton carries, ends when it is sent 8 MB of JSON or a
shape that overflows; the guard holds requests to what a bundle needs, over HTTP and gRPC.
``serve`` starts it: python -m dcp_deploy.export.serving.request_filter '{"host": "127.0.0.1", ...}'
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

MOST_JSON = 4 << 20  # Triton 2.51 ends of 8 MB
QUIET_SECONDS = 0.5  # without a request under way, before a guard that was told to end does so


@dataclass(frozen=True)
class FilterSettings:
    """Where the guard listens, where Triton does on this machine, and how large a request may be."""

    host: str
    ports: tuple[int, int, int]
    """HTTP, gRPC, metrics."""
    upstream: tuple[int, int, int]
    """Triton's, on 127.0.0.1."""
    most_body: int
    most_json: int
    grace_seconds: float
    triton: int
    """Its process, which is ended in order when whoever started both is gone and cannot."""

    def command(self) -> list[str]:
        """What starts it."""
        return [sys.executable, "-P", "-m", "dcp_deploy.export.serving.request_filter", json.dumps(asdict(self))]


async def stand(guarded: FilterSettings) -> None:
    """Listen until SIGTERM, SIGINT or the end of standard input, which whoever started this keeps open.

    Then take no new connections, answer what is under way, and return.
    """
    from aiohttp import web

    from .filter_grpc import grpc_guard
    from .filter_http import Traffic, inference_application, metrics_application

    told, traffic = asyncio.Event(), Traffic()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    alone = asyncio.Event()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            alone.set()
            told.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), read)
    http, grpc_port, metrics = (f"127.0.0.1:{port}" for port in guarded.upstream)
    applications = (
        inference_application(
            f"http://{http}", most_body=guarded.most_body, most_json=guarded.most_json, traffic=traffic
        ),
        metrics_application(f"http://{metrics}", traffic=traffic),
    )
    runners, sites = [], []
    for application, port in zip(applications, (guarded.ports[0], guarded.ports[2]), strict=True):
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=guarded.grace_seconds)
        await runner.setup()
        sites.append(web.TCPSite(runner, guarded.host, port))
        await sites[-1].start()
        runners.append(runner)
    host = f"[{guarded.host}]" if ":" in guarded.host else guarded.host
    grpc_server = grpc_guard(f"{host}:{guarded.ports[1]}", grpc_port, most_body=guarded.most_body, traffic=traffic)
    await grpc_server.start()
    await told.wait()
    await _drain(traffic, sites, guarded.grace_seconds)
    await grpc_server.stop(1.0)
    for runner in runners:
        await runner.cleanup()
    if alone.is_set():
        with contextlib.suppress(ProcessLookupError):
            os.kill(guarded.triton, signal.SIGTERM)


async def _drain(traffic: Any, sites: list[Any], seconds: float) -> None:
    """Clients may have just sent on a connection that they keep: answer those for a moment, then what is under way."""
    for site in sites:
        await site.stop()
    traffic.draining = True
    end = asyncio.get_running_loop().time() + seconds
    await asyncio.sleep(QUIET_SECONDS)
    traffic.refusing = True
    quiet = 0.0
    while quiet < QUIET_SECONDS and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(QUIET_SECONDS / 10)
        quiet = 0.0 if traffic.under_way else quiet + QUIET_SECONDS / 10


def main() -> None:
    """The process: its one argument is a :class:`FilterSettings` as JSON."""
    told = json.loads(sys.argv[1])
    guarded = FilterSettings(**{**told, "ports": tuple(told["ports"]), "upstream": tuple(told["upstream"])})
    try:
        asyncio.run(stand(guarded))
    except OSError as error:  # a port that is taken
        sys.exit(f"the guard cannot listen: {error}")


if __name__ == "__main__":
    main()
