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

_SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{_SERVICE}ModelInfer"
# Nothing else: not the server's shared memory, log files, traces, or its model repository.
READ = {
    "/grpc.health.v1.Health/Check",
    *(_SERVICE + name for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")),
    *(_SERVICE + name for name in ("ModelConfig", "ModelStatistics", "RepositoryIndex")),
}

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
    server.add_generic_rpc_handlers((_Calls(channel, most_body, traffic),))
    if server.add_insecure_port(address) == 0:
        raise OSError(f"cannot listen on {address}")
    return server


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, channel: grpc.aio.Channel, most: int, traffic: Traffic) -> None:
        answers = {name: _forward(channel.unary_unary(name), None, traffic) for name in READ}
        answers[INFER] = _forward(channel.unary_unary(INFER), most, traffic)
        self.handlers = {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in answers.items()}

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call, or None, which gRPC answers with UNIMPLEMENTED."""
        return self.handlers.get(handler_call_details.method)


def _forward(ask: Any, most: int | None, traffic: Traffic) -> Answer:
    async def answer(content: bytes, context: Any) -> bytes:
        if traffic.refusing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        traffic.in_flight += 1
        try:
            if most is not None:
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
