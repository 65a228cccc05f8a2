"""A model on a running server as a Runner, over HTTP (binary or JSON) or gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import numpy as np

from ...errors import DcpDeployError, InputError, MissingCapabilityError, UsageError
from ..runners.runner import Array, Runner

if TYPE_CHECKING:
    from ..fused.generator import ImageForm

CLIENTS = {"http": "tritonclient.http", "grpc": "tritonclient.grpc"}
TIMEOUT = 60.0  # seconds for one answer


def is_address(text: str) -> bool:
    """Whether a word is the address of a server and not a path."""
    return text.startswith(tuple(f"{scheme}://" for scheme in CLIENTS))


@contextmanager
def endpoint_runner(address: str, model: str = "generator", *, binary: bool = True) -> Iterator[Runner]:
    """The ``model`` served at ``http://HOST:PORT`` or ``grpc://HOST:PORT``. One thread at a time may use the Runner.

    ``binary`` False sends and asks for JSON, which HTTP alone has. Raises UsageError for an address that is none,
    MissingCapabilityError when the client is not installed, InputError for a model that is not one of ours; and here as
    in drawing DcpDeployError when the server refuses, or does not answer within a minute.
    """
    module, client = _connect(address)
    try:
        with _errors_of(module, address):
            told = _told(client.get_model_metadata, model, module)
        z_dim, c_dim, resolution, image = _sizes(told, f"{model} at {address}")

        def draw(z: Array, psi: Array, c: Array | None) -> Array:
            feeds = {"z": z, "psi": psi[:, None], **({} if c is None else {"c": c})}
            with _errors_of(module, address):
                return _infer(module, client, model, feeds, binary)

        yield Runner(f"{model} at {address}", "triton", z_dim, c_dim, resolution, image, draw)
    finally:
        client.close()


def largest_batch(address: str, model: str) -> int:
    """The largest batch that the server takes."""
    module, client = _connect(address)
    try:
        with _errors_of(module, address):
            return int(_told(client.get_model_config, model, module)["max_batch_size"])
    finally:
        client.close()


def _connect(address: str) -> tuple[Any, Any]:
    """(tritonclient's module, its client)"""
    parts = urlsplit(address)
    if parts.scheme not in CLIENTS or not parts.netloc or parts.path not in ("", "/"):
        raise UsageError(f"{address!r} is no address of a server", "write http://HOST:PORT or grpc://HOST:PORT")
    try:
        module = import_module(CLIENTS[parts.scheme])
    except ImportError as error:
        message = f"asking {address} needs tritonclient, which is not installed"
        raise MissingCapabilityError(message, "pip install 'dcp-deploy[serve]'") from error
    if parts.scheme == "http":
        return module, module.InferenceServerClient(parts.netloc, network_timeout=TIMEOUT, connection_timeout=TIMEOUT)
    return module, module.InferenceServerClient(parts.netloc)


@contextmanager
def _errors_of(module: Any, address: str) -> Iterator[None]:
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        raise DcpDeployError(f"{address} refused: {error.message()}", "see its log") from error
    except Exception as error:  # of sockets, and of the HTTP client, whose own share no base
        raise DcpDeployError(f"{address} does not answer: {error}", "is the server running there?") from error


def _told(ask: Any, model: str, module: Any) -> dict[str, Any]:
    """What the client answers about a model, as a dict over gRPC too."""
    answer: dict[str, Any] = ask(model) if _over_http(module) else ask(model, as_json=True)
    config: dict[str, Any] = answer.get("config", answer)
    return config


def _over_http(module: Any) -> bool:
    return bool(module.__name__ == CLIENTS["http"])


def _sizes(told: Mapping[str, Any], name: str) -> tuple[int, int, int, ImageForm]:
    """(z_dim, c_dim, resolution, image form) of a served generator, from its metadata."""
    try:
        kinds = {entry["name"]: entry["datatype"] for entry in (*told["inputs"], *told["outputs"])}
        shapes = {entry["name"]: [int(n) for n in entry["shape"]] for entry in (*told["inputs"], *told["outputs"])}
        if set(shapes) - {"c"} != {"z", "psi", "image"} or len(shapes["image"]) != 4:
            raise ValueError(f"it has {', '.join(shapes)}")
        image: ImageForm = "uint8" if kinds["image"] == "UINT8" else "float"
        return shapes["z"][1], shapes["c"][1] if "c" in shapes else 0, shapes["image"][2], image
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{name} is no generator of ours: {error}", "name the model: --model") from error


def _infer(module: Any, client: Any, model: str, feeds: Mapping[str, Array], binary: bool) -> Array:
    over_http = _over_http(module)
    inputs = []
    for name, values in feeds.items():
        tensor = module.InferInput(name, list(values.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(values), **({"binary_data": binary} if over_http else {}))
        inputs.append(tensor)
    if over_http:
        outputs = [module.InferRequestedOutput("image", binary_data=binary)]
        return cast(Array, client.infer(model, inputs, outputs=outputs).as_numpy("image"))
    return cast(Array, client.infer(model, inputs, client_timeout=TIMEOUT).as_numpy("image"))
