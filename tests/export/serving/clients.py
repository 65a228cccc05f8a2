"""Requests to a served generator: raw ones, as other clients may send them, and those of tritonclient."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc
import tritonclient.http

from dcp_deploy.export import Runner, classes_of, latents_of
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.serving.endpoint_check import check_endpoint
from dcp_deploy.export.serving.server import Server

CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


def infer(
    server: Server, body: bytes | None, model: str = "generator", *, path: str | None = None, **headers: str
) -> tuple[int, bytes]:
    """Send a raw request, a GET if ``body`` is None. Return (status, answer)."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.http + (path or f"/v2/models/{model}/infer"), body, names)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def body(runner: Runner, batch: int = 1, **changes: Any) -> bytes:
    """Return a valid request of zeros, or one with some inputs changed; None removes an input."""
    inputs: dict[str, Any] = {
        "z": {"name": "z", "shape": [batch, runner.z_dim], "datatype": "FP32", "data": [0.0] * batch * runner.z_dim},
        "psi": {"name": "psi", "shape": [batch, 1], "datatype": "FP32", "data": [1.0] * batch},
        "c": {"name": "c", "shape": [batch, runner.c_dim], "datatype": "FP32", "data": [0.0] * batch * runner.c_dim},
    }
    for name, change in changes.items():
        inputs[name] = None if change is None else {**inputs.get(name, {}), **change}
    return json.dumps({"inputs": [entry for entry in inputs.values() if entry is not None]}).encode()


def answers_correctly(server: Server, bundle: Path) -> bool:
    """Return whether one client gets the golden images over HTTP."""
    golden, kept = read_golden(bundle, "generator")
    return check_endpoint(server.http, golden, kept, requests=0).passed


def arrays(runner: Runner, seed: int = 0, rows: int = 1) -> dict[str, np.ndarray]:
    """Return the inputs for ``rows`` images, all of one seed."""
    classes = classes_of([seed] * rows, runner.c_dim)
    assert classes is not None
    return {"z": latents_of([seed] * rows, runner.z_dim), "psi": np.ones((rows, 1), np.float32), "c": classes}


def inputs(kind: str, values: dict[str, np.ndarray]) -> list[Any]:
    """Return arrays as tritonclient sends them, in its binary encoding."""
    tensors = []
    for name, array in values.items():
        tensors.append(CLIENTS[kind].InferInput(name, list(array.shape), "FP32"))
        tensors[-1].set_data_from_numpy(array)
    return tensors


def ask(server: Server, kind: str, values: dict[str, np.ndarray]) -> np.ndarray:
    """Return the images over "http" or "grpc". InferenceServerException if the server refuses the request."""
    address = server.grpc if kind == "grpc" else urlsplit(server.http).netloc
    with CLIENTS[kind].InferenceServerClient(address) as client:
        images: np.ndarray = client.infer("generator", inputs(kind, values)).as_numpy("image")
        return images
