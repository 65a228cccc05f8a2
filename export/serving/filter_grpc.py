"""The gRPC side of the request filter: it serves a fixed set of calls and forwards their bytes to Triton unchanged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
import grpc.aio

from .request_checks import Refusal, check_message, parsed_message
from .traffic import Traffic

# Nothing else: not the server's shared memory, log files, traces, or its model repository.
SERVED = {
    "grpc.health.v1.Health": ("Check",),
    "inference.GRPCInferenceService": (
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
        "RepositoryIndex", "ModelInfer",
    ),
}  # fmt: skip
# Answers while the models start: live, not ready (false is the default), not serving.
STARTING = {"ServerLive": b"\x08\x01", "ServerReady": b"", "ModelReady": b"", "Check": b"\x08\x02"}
HEALTH_SECONDS = 2.0  # in which Triton must say that it is ready
IDLE_SECONDS = 75  # after which a connection without requests is closed; clients open another
HANDSHAKE_SECONDS = 10
STREAMS = 64  # requests at a time on one connection

STATUSES = {503: grpc.StatusCode.UNAVAILABLE, 413: grpc.StatusCode.RESOURCE_EXHAUSTED}
Answer = Callable[[bytes, Any], Awaitable[bytes]]
Busy = Callable[[str], AbstractContextManager[None]]
"""Keeps the connection of a client open, by what gRPC calls its peer."""


def grpc_filter(
    address: str,
    upstream: str,
    *,
    most_body: int,
    traffic: Traffic,
    most_values: int | None = None,
    busy: Busy = lambda peer: nullcontext(),
) -> tuple[grpc.aio.Server, int]:
    """Make a server on ``address`` (HOST:PORT), not yet started, that forwards to Triton's gRPC port ``upstream``.

    Also returns its port; 0 in ``address`` lets the system choose one.
    """
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = grpc.aio.insecure_channel(
        upstream,
        options=[
            *unlimited,
            ("grpc.enable_http_proxy", 0),  # Triton is on this machine
            # It may be started again.
            *((f"grpc.{which}_reconnect_backoff_ms", 200) for which in ("initial", "min", "max")),
        ],
    )
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", most_body),  # RESOURCE_EXHAUSTED before it is read
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # two servers on one port are a mistake
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ]
    )
    forward = _Forward(traffic, most_body, most_body if most_values is None else most_values, busy)
    for service, names in SERVED.items():
        calls = {name: forward.call(name, channel.unary_unary(f"/{service}/{name}")) for name in names}
        handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port(address)
    if port == 0:
        raise OSError(f"cannot listen on {address}")
    return server, port


class _Forward:
    """How each call is answered."""

    def __init__(self, traffic: Traffic, most: int, most_values: int, busy: Busy) -> None:
        self.traffic, self.most, self.most_values, self.busy = traffic, most, most_values, busy

    def call(self, name: str, ask: Any) -> Answer:
        """Return the handler of one call, which ``ask`` forwards."""
        answer = self._infer if name == "ModelInfer" else self._read

        async def handle(content: bytes, context: Any) -> bytes:
            if self.traffic.refusing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            self.traffic.in_flight += 1
            try:
                with self.busy(context.peer()):
                    if name in STARTING and not self.traffic.ready:
                        return STARTING[name]
                    return await answer(content, ask, context.time_remaining(), name in STARTING)
            except Refusal as error:
                status = STATUSES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
                await context.abort(status, error.reason)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            finally:
                self.traffic.in_flight -= 1
            raise AssertionError("abort raises")

        return handle

    async def _infer(self, content: bytes, ask: Any, seconds: float | None, health: bool) -> bytes:
        with self.traffic.inferring():
            model = await self.traffic.check(len(content), self._check, content)
            with self.traffic.answers.waiting(model) as answered:
                done: bytes = await ask(content, timeout=seconds)
                answered()
            return done

    async def _read(self, content: bytes, ask: Any, seconds: float | None, health: bool) -> bytes:
        self.traffic.check_ready()
        limit = HEALTH_SECONDS if health else None
        timeout = min((one for one in (limit, seconds) if one is not None), default=None)
        done: bytes = await ask(content, timeout=timeout)
        return done

    def _check(self, content: bytes) -> str:
        """Check a message and return the model's name."""
        message = parsed_message(content, most_values=self.most_values)
        check_message(message, most=self.most)
        return str(message.model_name)
