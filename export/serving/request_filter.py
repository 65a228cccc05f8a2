"""The request filter in front of Triton: a process that refuses what older releases cannot handle.

    client -> request filter: size, JSON, shapes, finite numbers -> tritonserver, on a port of this machine only

It forwards all other requests, generates no images and loads no model. Triton 2.51, which nvidia-pytriton contains,
crashes on 8 MB of JSON or on a shape whose product overflows. The filter accepts only what a bundle needs.
:func:`~.server.running_server` starts it: python -m dcp_deploy.export.serving.request_filter '{"host": ..., ...}'
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import TypeAdapter

from .leftovers import end_group, remove

if TYPE_CHECKING:  # aiohttp and grpc are imported in the filter's own process only
    from .filter_connections import Limits
    from .traffic import Traffic

MOST_JSON = 4 << 20  # Triton 2.51 crashes on 8 MB
IDLE_SECONDS = 75.0  # after which an HTTP connection without requests is closed
QUEUE = 4096  # connections that may wait to be accepted
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
    most_values: int
    """The number of values in the largest JSON."""
    hosts: tuple[str, ...]
    """Names by which clients may call, beside addresses, localhost, ``host`` and the machine's name; "*" for any."""
    grace_seconds: float
    """How long requests in flight may take after SIGTERM."""
    patience: float
    """Seconds without an answer, after which a small model counts as silent."""
    report: int
    """The file descriptor of a pipe for the name of such a model."""
    scratch: str
    """Triton's scratch folder. If the process that started both is killed, the filter ends Triton and removes it."""

    def command(self) -> list[str]:
        """Return the command line that starts the filter."""
        return [sys.executable, "-P", "-m", "dcp_deploy.export.serving.request_filter", json.dumps(asdict(self))]


def url_host(host: str) -> str:
    """Put an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


class Control:
    """What the starting process writes to standard input, a line at a time: "triton PID", "ready", "starting"."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.ending = asyncio.Event()
        self.orphaned = False
        self.triton: psutil.Process | None = None
        self.rest = b""

    def read(self) -> None:
        """Read what there is. The end of it means that the starting process has ended."""
        content = os.read(sys.stdin.fileno(), 1024)
        if not content:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.orphaned = True
            self.ending.set()
        *lines, self.rest = (self.rest + content).split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            if word == "triton":
                with suppress(psutil.NoSuchProcess):
                    self.triton = psutil.Process(int(number))
            else:
                self.traffic.ready = word == "ready"
                self.traffic.answers.begin({})

    def clean_up(self, scratch: Path, seconds: float) -> None:
        """Do what the starting process would have done: end Triton and its models, and remove what they leave."""
        if self.triton is not None:
            end_group(self.triton, seconds)
        remove(scratch)


async def run_filter(settings: FilterSettings) -> None:
    """Listen until SIGTERM, SIGINT or the end of standard input, which the starting process keeps open.

    Then accept no new connections, answer the requests in flight, and return.
    """
    from .filter_connections import limits_of, raise_descriptor_limit
    from .probes import watch_models
    from .traffic import Traffic

    loop, limits = asyncio.get_running_loop(), limits_of(raise_descriptor_limit())
    traffic = Traffic(most=limits.in_flight, ready=False)
    control = Control(traffic)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control.ending.set)
    loop.add_reader(sys.stdin.fileno(), control.read)
    upstream = f"http://127.0.0.1:{settings.upstream[0]}"
    watching = asyncio.create_task(watch_models(upstream, traffic, settings.patience, settings.report))
    watching.add_done_callback(lambda task: control.ending.set())  # only an error ends it
    try:
        listening, runners = await _listen_http(settings, limits, traffic)
        relay, grpc_server = await _listen_grpc(settings, limits, traffic)
        await control.ending.wait()
        await _drain(traffic, [*listening, relay], settings.grace_seconds)
        await grpc_server.stop(1.0)
        for runner in runners:
            await runner.cleanup()
        if watching.done():
            watching.result()
        watching.cancel()
    finally:
        if control.orphaned:
            control.clean_up(Path(settings.scratch), settings.grace_seconds)


async def _listen_http(settings: FilterSettings, limits: Limits, traffic: Traffic) -> tuple[list[Any], list[Any]]:
    """Serve HTTP and metrics. Return what listens, and what serves."""
    from aiohttp import web

    from .filter_connections import BACKLOG, Connections, TimedProtocol
    from .filter_http import inference_application, leave_out_bad_requests, metrics_application
    from .hosts import hosts_of

    leave_out_bad_requests()
    http, _, metrics = (f"http://127.0.0.1:{port}" for port in settings.upstream)
    hosts = hosts_of(settings.host, socket.gethostname(), settings.hosts)
    inference = inference_application(
        http, most_body=settings.most_body, most_json=settings.most_json, most_values=settings.most_values,
        traffic=traffic, hosts=hosts,
    )  # fmt: skip
    listening, runners = [], []
    for port, application, most in (
        (settings.ports[0], inference, limits.http),
        (settings.ports[2], metrics_application(metrics, traffic=traffic, hosts=hosts), limits.metrics),
    ):
        runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=settings.grace_seconds, keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,  # the body of a refused request would be unpacked to its end
        )  # fmt: skip
        await runner.setup()
        server, connections = runner.server, Connections(most)
        assert server is not None

        def protocol(server: Any = server, connections: Connections = connections) -> TimedProtocol:
            return TimedProtocol(server(), connections)

        loop = asyncio.get_running_loop()
        listening.append(_queueing(await loop.create_server(protocol, settings.host, port, backlog=BACKLOG)))
        runners.append(runner)
    return listening, runners


async def _listen_grpc(settings: FilterSettings, limits: Limits, traffic: Traffic) -> tuple[asyncio.Server, Any]:
    """Serve gRPC behind a relay, which bounds its connections. Return the relay's server and gRPC's."""
    from .filter_connections import BACKLOG, Connections, Relay
    from .filter_grpc import grpc_filter

    relay = Relay(Connections(limits.grpc))
    server, port = grpc_filter(
        "127.0.0.1:0", f"127.0.0.1:{settings.upstream[1]}", most_body=settings.most_body,
        most_values=settings.most_values, traffic=traffic, busy=relay.busy,
    )  # fmt: skip
    await server.start()
    relay.port = port
    listening = await asyncio.start_server(relay.accept, settings.host, settings.ports[1], backlog=BACKLOG)
    return _queueing(listening), server


def _queueing(server: asyncio.Server) -> asyncio.Server:
    """Let more connections wait than asyncio accepts at once, which is one number to asyncio."""
    for one in server.sockets:
        with socket.socket(fileno=os.dup(one.fileno())) as same:
            same.listen(QUEUE)
    return server


async def _drain(traffic: Traffic, listening: list[asyncio.Server], seconds: float) -> None:
    """Stop listening. Answer what clients have just sent on open connections, then wait for the requests in flight."""
    for server in listening:
        server.close()
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
