"""A model on a running server as a Runner, over HTTP (binary or JSON) or gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import numpy as np

from ...errors import DcpDeployError, InputError, MissingCapabilityError, UsageError
from ..graph.releases import too_new
from ..runners.runner import Array, Runner, feeds_of

if TYPE_CHECKING:
    from ..fused.generator import ImageForm

CLIENTS = {"http": "tritonclient.http", "grpc": "tritonclient.grpc"}
TIMEOUT = 60.0  # seconds for one answer


def is_address(text: str) -> bool:
    """Return whether a command-line argument is the address of a server and not a path."""
    return text.startswith(tuple(f"{scheme}://" for scheme in CLIENTS))


@contextmanager
def endpoint_runner(address: str, model: str = "generator", *, binary: bool = True) -> Iterator[Runner]:
    """Run the ``model`` served at ``http://HOST:PORT`` or ``grpc://HOST:PORT``. The Runner is for one thread at a time.

    ``binary`` False sends and requests JSON, over HTTP only. Raises UsageError for a malformed address,
    MissingCapabilityError without tritonclient, and InputError for a model that is not a generator of ours. This
    function and the Runner raise DcpDeployError if the server refuses a request or does not answer within a minute.
    """
    with closing(_Client(address)) as client:
        z_dim, c_dim, size, image = _sizes(client.describe("metadata", model), f"{model} at {address}")

        def draw(z: Array, psi: Array, c: Array | None) -> Array:
            return client.infer(model, feeds_of(z, psi[:, None], c), binary)

        yield Runner(f"{model} at {address}", "triton", z_dim, c_dim, size, image, draw)


def largest_batch(address: str, model: str) -> int:
    """Return the largest batch that the server accepts."""
    with closing(_Client(address)) as client:
        return max(1, int(client.describe("config", model)["max_batch_size"]))  # 0: one image, without batching


class _Client:
    """A client of tritonclient that raises our errors."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in CLIENTS or not parts.netloc or parts.path not in ("", "/"):
            raise UsageError(
                f"{address!r} is not the address of a server", "Write http://HOST:PORT or grpc://HOST:PORT."
            )
        try:
            self.module: Any = import_module(CLIENTS[parts.scheme])
        except ImportError as error:
            message = f"connecting to {address} needs tritonclient, which is not installed"
            raise MissingCapabilityError(message, "Install it: pip install 'dcp-deploy[serve]'") from error
        self.address, self.over_http = address, parts.scheme == "http"
        limits = {"network_timeout": TIMEOUT, "connection_timeout": TIMEOUT} if self.over_http else {}
        self.client = self.module.InferenceServerClient(parts.netloc, **limits)

    def close(self) -> None:
        self.client.close()

    def describe(self, what: Literal["metadata", "config"], model: str) -> dict[str, Any]:
        """Return the metadata or the configuration of a model, with the field names of HTTP over gRPC too."""
        with self._errors():
            options = {} if self.over_http else {"as_json": True}
            answer: dict[str, Any] = getattr(self.client, f"get_model_{what}")(model, **options)
        config: dict[str, Any] = answer.get("config", answer)
        return config

    def infer(self, model: str, feeds: Mapping[str, Array], binary: bool) -> Array:
        """Send float32 arrays and return the images."""
        inputs = []
        for name, values in feeds.items():
            inputs.append(self.module.InferInput(name, list(values.shape), "FP32"))
            encoding = {"binary_data": binary} if self.over_http else {}
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(values), **encoding)
        if self.over_http:
            options: dict[str, Any] = {"outputs": [self.module.InferRequestedOutput("image", binary_data=binary)]}
        else:
            options = {"client_timeout": TIMEOUT}
        with self._errors():
            return cast(Array, self.client.infer(model, inputs, **options).as_numpy("image"))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            meaning = too_new(error.message())
            remedy = "Read its log." if meaning is None else " ".join(meaning)
            raise DcpDeployError(f"{self.address} refused: {error.message()}", remedy) from error
        except Exception as error:  # errors of sockets and of the HTTP client have no common base class
            raise DcpDeployError(f"{self.address} does not answer: {error}", "Check that it is running.") from error


def _sizes(metadata: Mapping[str, Any], name: str) -> tuple[int, int, tuple[int, int], ImageForm]:
    """Return (z_dim, c_dim, (height, width), image format) of a served generator."""
    try:
        tensors = (*metadata["inputs"], *metadata["outputs"])
        types = {tensor["name"]: tensor["datatype"] for tensor in tensors}
        shapes = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in tensors}
        if set(shapes) - {"c"} != {"z", "psi", "image"} or len(shapes["image"]) != 4:
            raise ValueError(f"its inputs and outputs are {', '.join(shapes)}")
        image: ImageForm = "uint8" if types["image"] == "UINT8" else "float"
        height, width = shapes["image"][1:3] if image == "uint8" else shapes["image"][2:]
        return shapes["z"][1], shapes["c"][1] if "c" in shapes else 0, (height, width), image
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{name} is not a generator of ours: {error}", "Name the model: --model.") from error
