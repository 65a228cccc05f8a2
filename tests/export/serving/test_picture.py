"""The model ``picture`` of a served bundle: golden images from seeds, every format, and refusals with a reason."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image

from dcp_deploy.export import Runner, classes_of, latents_of
from dcp_deploy.export.serving.server import Server

from .clients import infer

KINDS = {"seed": "INT64", "psi": "FP32", "class": "INT64", "format": "BYTES", "edits": "BYTES"}


def request_body(**columns: list[Any]) -> bytes:
    inputs = [
        {"name": name, "shape": [len(values), 1], "datatype": KINDS[name], "data": values}
        for name, values in columns.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def pictures(server: Server, **columns: list[Any]) -> list[Image.Image]:
    """Request pictures over HTTP, in JSON."""
    status, answer = infer(server, request_body(**columns), model="picture")
    assert status == 200, answer
    texts = json.loads(answer)["outputs"][0]["data"]
    return [Image.open(io.BytesIO(base64.b64decode(text, validate=True))) for text in texts]


def difference(picture: Image.Image, expected: np.ndarray) -> int:
    return int(np.abs(np.asarray(picture).astype(int) - expected).max())


def test_seeds_give_the_golden_images(server: Server, bundle: Path) -> None:
    folder = bundle / "golden" / "generator"
    entries = json.loads((folder / "golden.json").read_text())["images"]
    answered = pictures(server, seed=[entry["seed"] for entry in entries], psi=[entry["psi"] for entry in entries])
    for picture, entry in zip(answered, entries, strict=True):
        assert picture.format == "PNG"
        assert (
            difference(picture, np.asarray(Image.open(folder / entry["file"]), int)) <= 1
        )  # the gate's tolerance for fp32


def test_a_seed_alone_gives_a_png_with_psi_1_and_its_own_class(server: Server, local: Runner) -> None:
    (picture,) = pictures(server, seed=[4])
    expected = local(z=latents_of([4], local.z_dim), psi=1.0, c=classes_of([4], local.c_dim))
    assert picture.format == "PNG" and difference(picture, expected[0]) <= 1


def test_every_row_has_its_own_psi_class_and_format(server: Server, local: Runner) -> None:
    seeds, psis, classes = [7, 7, 2**32 - 1], [0.5, 1.0, 0.7], [0, 1, 2]
    formats = ["png;base64", "JPEG;base64", "webp;base64"]
    answered = pictures(server, seed=seeds, psi=psis, **{"class": classes}, format=formats)
    expected = local(z=latents_of(seeds, local.z_dim), psi=np.float32(psis), c=np.eye(3, dtype=np.float32))
    assert [picture.format for picture in answered] == ["PNG", "JPEG", "WEBP"]
    assert all(picture.size == (32, 32) and picture.mode == "RGB" for picture in answered)
    assert difference(answered[0], expected[0]) <= 1
    for picture, image in zip(answered[1:], expected[1:], strict=True):  # lossy encodings of noise: similar on average
        assert np.abs(np.asarray(picture).astype(int) - image).mean() < 25


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_the_binary_encoding_returns_bare_bytes(server: Server, local: Runner, module: Any) -> None:
    columns = {"seed": np.array([[1], [2]], np.int64), "format": np.array([[b"png"], [b"png"]], object)}
    inputs = []
    for name, values in columns.items():
        inputs.append(module.InferInput(name, list(values.shape), KINDS[name]))
        inputs[-1].set_data_from_numpy(values)
    address = server.grpc if module is tritonclient.grpc else urlsplit(server.http).netloc
    with module.InferenceServerClient(address) as client:
        found = client.infer("picture", inputs).as_numpy("picture")
    assert found.shape == (2, 1) and found[0, 0].startswith(b"\x89PNG\r\n\x1a\n")
    expected = local(z=latents_of([1, 2], local.z_dim), c=classes_of([1, 2], local.c_dim))
    for content, image in zip(found[:, 0], expected, strict=True):
        assert difference(Image.open(io.BytesIO(content)), image) <= 1


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"seed": [-1]}, "seed -1 is not from 0 to 4294967295"),
        ({"seed": [2**32]}, "seed 4294967296 is not"),
        ({"seed": [0], "psi": [float("nan")]}, "not finite"),
        ({"seed": [0], "class": [3]}, "class 3 is not from 0 to 2"),
        ({"seed": [0], "format": ["gif"]}, "'gif' is not one of png, jpeg, webp"),
        ({"seed": [0], "format": ["../etc"]}, "is not one of png"),
        ({"seed": [0, 1], "psi": [1.0]}, "batch size does not match"),
        ({"seed": [0] * 9}, "batch-size must be <= 8"),
        ({"psi": [1.0]}, "seed is missing"),
        ({"seed": [0], "edits": ["{}"]}, "unexpected inference input 'edits'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_request_is_refused_with_the_reason(
    server: Server, columns: dict[str, list[Any]], reason: str
) -> None:
    status, answer = infer(server, request_body(**columns), model="picture")
    assert status == 400 and reason in json.loads(answer)["error"]
    assert infer(server, request_body(seed=[0]), model="picture")[0] == 200


def test_the_example_client_without_packages_gets_a_picture(
    server: Server, bundle: Path, local: Runner, tmp_path: Path
) -> None:
    out = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, "-I", "-S", bundle / "clients" / "picture.py", "5", urlsplit(server.http).netloc, out],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = local(z=latents_of([5], local.z_dim), psi=0.7, c=classes_of([5], local.c_dim))[0]
    assert difference(Image.open(out), expected) <= 1
