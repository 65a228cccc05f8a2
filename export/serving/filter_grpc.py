"""The gRPC side of the request filter: it serves a fixed set of calls and forwards their bytes to Triton unchanged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from tritonclient.grpc.service_pb2 import ModelInferRequest

from .filter_http import Traffic
from .request_checks import Refusal, check_message

# Nothing else: not the server's shared memory, log files, traces, or its model repository.
SERVED = {
    "grpc.health.v1.Health": ("Check",),
    "inference.GRPCInferenceService": (
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
        "RepositoryIndex", "ModelInfer",
    ),
}  # fmt: skip

Answer = Callable[[bytes, Any], Awaitable[bytes]]


def grpc_filter(address: str, upstream: str, *, most_body: int, traffic: Traffic) -> grpc.aio.Server:
    """Make a server on ``address`` (HOST:PORT), not yet started, that forwards to Triton's gRPC port ``upstream``."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = grpc.aio.insecure_channel(
        upstream,
        options=[*unlimited, ("grpc.enable_http_proxy", 0)],  # Triton is on this machine
    )
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", most_body),  # RESOURCE_EXHAUSTED before it is read
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # two servers on one port are a mistake
        ]
    )
    for service, names in SERVED.items():
        calls = {
            name: _forward(channel.unary_unary(f"/{service}/{name}"), name == "ModelInfer", most_body, traffic)
            for name in names
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    if server.add_insecure_port(address) == 0:
        raise OSError(f"cannot listen on {address}")
    return server


def _forward(ask: Any, checked: bool, most: int, traffic: Traffic) -> Answer:
    async def answer(content: bytes, context: Any) -> bytes:
        if traffic.refusing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        traffic.in_flight += 1
        try:
            if checked:
                check_message(ModelInferRequest.FromString(content), most=most)
            done: bytes = await ask(content, timeout=context.time_remaining())
            return done
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is not a ModelInferRequest")
        except Refusal as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        finally:
            traffic.in_flight -= 1
        raise AssertionError("abort raises")

    return answer
