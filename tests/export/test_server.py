"""A bundle on NVIDIA's Triton server: right answers over every protocol, clear refusals, and an orderly end."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from dcp_deploy.errors import (
    CorruptFileError,
    DcpDeployError,
    InputError,
    MissingCapabilityError,
    ParityError,
    UsageError,
)
from dcp_deploy.export import Runner, classes_of, latents_of, load_runner, verify
from dcp_deploy.export.bundle import read_golden
from dcp_deploy.export.endpoint import endpoint_runner
from dcp_deploy.export.golden import golden_runner
from dcp_deploy.export.live import check_endpoint
from dcp_deploy.export.server import Program, Server, find_program, running_server

ROOT = Path(__file__).parents[2]


def infer(server: Server, body: bytes, model: str = "generator") -> tuple[int, bytes]:
    """(status, answer) of a raw request."""
    request = urllib.request.Request(f"{server.http}/v2/models/{model}/infer", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def body(runner: Runner, batch: int = 1, **changes: Any) -> bytes:
    """A good request of zeros, or one with some inputs replaced; None takes an input out."""
    inputs: dict[str, Any] = {
        "z": {"name": "z", "shape": [batch, runner.z_dim], "datatype": "FP32", "data": [0.0] * batch * runner.z_dim},
        "psi": {"name": "psi", "shape": [batch, 1], "datatype": "FP32", "data": [1.0] * batch},
        "c": {"name": "c", "shape": [batch, runner.c_dim], "datatype": "FP32", "data": [0.0] * batch * runner.c_dim},
    }
    for name, change in changes.items():
        inputs[name] = None if change is None else {**inputs.get(name, {}), **change}
    return json.dumps({"inputs": [entry for entry in inputs.values() if entry is not None]}).encode()


@pytest.fixture(scope="session")
def local(bundle: Path) -> Runner:
    return load_runner(bundle, threads=1)


def answers_rightly(server: Server, bundle: Path) -> bool:
    golden, kept = read_golden(bundle, "generator")
    return check_endpoint(server.http, golden, kept, requests=0).passed


# ---- right answers ----


@pytest.mark.parametrize("way", ["http binary", "http json", "grpc"])
def test_a_client_gets_the_golden_images_alone_and_under_load(server: Server, bundle: Path, way: str) -> None:
    golden, kept = read_golden(bundle, "generator")
    address = f"grpc://{server.grpc}" if way == "grpc" else server.http
    report = check_endpoint(address, golden, kept, clients=8, requests=60, binary=way != "http json")
    report.raise_for_failure()
    assert report.load is not None and report.load.failed == 0
    assert report.load.images == sum(number % 8 + 1 for number in range(60))
    assert 0 < report.load.p50_ms <= report.load.p99_ms
    json.dumps(report.to_dict(), allow_nan=False)


def test_16_clients_with_mixed_batches_get_right_images_from_flat_memory(server: Server, bundle: Path) -> None:
    golden, kept = read_golden(bundle, "generator")
    check_endpoint(server.http, golden, kept, clients=16, requests=200).raise_for_failure()  # buffers have grown
    before = memory(server)
    check_endpoint(server.http, golden, kept, clients=16, requests=500).raise_for_failure()
    # A leak of one image of each request would be 6.9 MB.
    assert memory(server) - before < 5e6


def memory(server: Server) -> int:
    """Bytes that the server and its model processes hold alone."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_full_info().uss for process in (main, *main.children(recursive=True)))


def test_a_wrong_image_is_found_out(server: Server, bundle: Path, own_bundle: Path) -> None:
    folder = own_bundle / "golden" / "generator"
    pixels = np.asarray(Image.open(folder / "seed2_psi1.png")).copy()
    pixels[3:9, 3:9] ^= 32
    Image.fromarray(pixels).save(folder / "seed2_psi1.png")
    report = check_endpoint(server.http, golden_runner(folder), read_golden(bundle, "generator")[1], requests=0)
    assert not report.passed and report.alone.worst == (2, 1.0)
    with pytest.raises(ParityError):
        report.raise_for_failure()


def test_health_and_metrics_are_there(server: Server) -> None:
    for address in (f"{server.http}/v2/health/live", f"{server.http}/v2/health/ready"):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(server.metrics, timeout=10) as answer:
        assert b'nv_inference_count{model="generator"' in answer.read()


def test_the_example_client_draws_the_same_image(server: Server, bundle: Path, local: Runner, tmp_path: Path) -> None:
    out = tmp_path / "image.png"
    done = subprocess.run(
        [sys.executable, bundle / "clients" / "client.py", "5", urlsplit(server.http).netloc, out],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = local(z=latents_of([5], local.z_dim), psi=0.7, c=classes_of([5], local.c_dim))[0]
    assert np.abs(np.asarray(Image.open(out)).astype(int) - expected).max() <= 1


def test_serving_leaves_the_bundle_as_it_was(server: Server, bundle: Path) -> None:
    assert answers_rightly(server, bundle)  # read_golden checks every file, after model.py was imported


# ---- refusals ----


@pytest.mark.parametrize(
    ("name", "change", "status", "reason"),
    [
        ("z", {"datatype": "INT64", "data": [0] * 24}, 400, "data-type is 'INT64'"),
        ("z", {"shape": [1, 5], "data": [0.0] * 5}, 400, "shape"),
        ("z", {"shape": [5], "data": [0.0] * 5}, 400, "batch size does not match"),
        ("z", {"name": "latent"}, 400, "unexpected inference input 'latent'"),
        ("z", None, 400, "expected 3 inputs but got 2"),
        ("c", {"shape": [1, 99], "data": [0.0] * 99}, 400, "shape"),
        ("psi", {"data": [float("nan")]}, 400, "psi hold values that are not finite"),
        ("psi", {"data": [1e39]}, 400, "psi hold values that are not finite"),
        # Triton 2.51 says 500 to what it cannot read at all.
        ("z", {"shape": [1, -5]}, 500, "non-unsigned-integer"),
        ("z", {"data": ["x"] * 5}, 500, "non-number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_malformed_request_is_refused_with_the_reason(
    server: Server, local: Runner, name: str, change: dict[str, Any] | None, status: int, reason: str
) -> None:
    answered, answer = infer(server, body(local, **{name: change}))
    assert answered == status
    assert reason in json.loads(answer)["error"]
    assert infer(server, body(local))[0] == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"inputs": 5}', b"\xff" * 100, b"[" * 1000], ids=range(7)
)
def test_a_body_that_is_no_request_is_refused(server: Server, local: Runner, content: bytes) -> None:
    status, answer = infer(server, content)
    assert status in (400, 500)  # Triton 2.51 says 500 to what it cannot read at all
    assert json.loads(answer)["error"]
    assert infer(server, body(local))[0] == 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_does_not_spoil_its_batch(
    server: Server, local: Runner, value: float
) -> None:
    import tritonclient.http as triton

    def values(seed: int) -> list[triton.InferInput]:
        z = latents_of([seed], local.z_dim)
        z[0, 1] = value if seed == 0 else z[0, 1]
        feeds = {"z": z, "psi": np.ones((1, 1), np.float32), "c": classes_of([seed], local.c_dim)}
        inputs = []
        for name, array in feeds.items():
            tensor = triton.InferInput(name, list(array.shape), "FP32")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return inputs

    with triton.InferenceServerClient(urlsplit(server.http).netloc, concurrency=8) as client:
        asked = [client.async_infer("generator", values(seed)) for seed in range(6)]
        with pytest.raises(triton.InferenceServerException, match="z hold values that are not finite"):
            asked[0].get_result()
        for seed, one in enumerate(asked[1:], start=1):
            image = one.get_result().as_numpy("image")
            expected = local(z=latents_of([seed], local.z_dim), c=classes_of([seed], local.c_dim))
            assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_batch_over_the_maximum_and_an_unknown_model_are_refused(server: Server, local: Runner) -> None:
    status, answer = infer(server, body(local, batch=9))
    assert status == 400 and b"batch-size must be <= 8" in answer
    assert infer(server, body(local), model="nobody")[0] in (400, 404)


@pytest.mark.parametrize("module", ["tritonclient.http", "tritonclient.grpc"])
def test_a_body_of_100_mb_is_refused_and_the_server_lives(
    server: Server, bundle: Path, local: Runner, module: str
) -> None:
    # In the binary form: Triton 2.51 ends of 8 MB of JSON, one of the holes that later releases mended.
    triton = importlib.import_module(module)
    rows = 25_000_000 // local.z_dim
    inputs = []
    for name, size in (("z", local.z_dim), ("psi", 1), ("c", local.c_dim)):
        inputs.append(triton.InferInput(name, [rows, size], "FP32"))
        inputs[-1].set_data_from_numpy(np.zeros((rows, size), np.float32))
    client = triton.InferenceServerClient(server.grpc if module.endswith("grpc") else urlsplit(server.http).netloc)
    with client, pytest.raises(InferenceServerException, match="batch-size must be <= 8"):
        client.infer("generator", inputs)
    assert answers_rightly(server, bundle)


def test_clients_that_vanish_disturb_nobody(server: Server, bundle: Path, local: Runner) -> None:
    where, content = urlsplit(server.http), body(local, batch=8)
    head = f"POST /v2/models/generator/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for number in range(60):
        with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
            connection.sendall((head + content)[: [20, len(head), len(head) + 50, None][number % 4]])
    assert answers_rightly(server, bundle)


# ---- the end ----


def test_a_killed_server_is_missed_and_its_successor_answers(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], local: Runner, tmp_path: Path
) -> None:
    ports = free_ports()
    with (
        running_server(bundle, triton, ports=ports, log=tmp_path / "log") as server,
        endpoint_runner(server.http) as far,
    ):
        z, c = latents_of([0], far.z_dim), classes_of([0], far.c_dim)
        assert far(z=z, c=c).shape == (1, 32, 32, 3)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        with pytest.raises(DcpDeployError, match=r"does not answer|refused"):
            far(z=z, c=c)
    with running_server(bundle, triton, ports=ports, log=tmp_path / "log") as server:
        assert answers_rightly(server, bundle)


@contextmanager
def serving(bundle: Path, port: int, log: Path) -> Iterator[subprocess.Popen[str]]:
    """``dcp-deploy serve`` as a user starts it, once it says that it serves."""
    command = [
        sys.executable,
        "-m",
        "dcp_deploy",
        "serve",
        bundle,
        "--port",
        str(port),
        "--server",
        ROOT / ".venv-triton",
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen([*map(str, command), "--json"], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_sigterm_in_mid_load_finishes_what_is_in_flight_and_nothing_answered_is_wrong(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path
) -> None:
    golden, _ = read_golden(bundle, "generator")
    log = tmp_path / "log"
    with serving(bundle, free_ports()[0], log) as process:
        assert process.stdout is not None
        document = "".join(iter(process.stdout.readline, "}\n")) + "}"
        address = json.loads(document)["http"]
        asked: list[tuple[float, float]] = []  # begin and end of each answered request
        images: dict[int, set[bytes]] = {}
        stopping = threading.Event()

        def client(seed: int) -> None:
            with endpoint_runner(address) as far:
                z, c = latents_of([seed] * 8, far.z_dim), classes_of([seed] * 8, far.c_dim)
                while not stopping.is_set():
                    begin = time.monotonic()
                    answer = far(z=z, psi=0.7, c=c)
                    asked.append((begin, time.monotonic()))
                    images.setdefault(seed, set()).update(image.tobytes() for image in answer)

        with ThreadPoolExecutor(24) as pool:
            clients = [pool.submit(client, number % 4) for number in range(24)]
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            time.sleep(0.05)  # some are sent after the signal, too
            stopping.set()
            for one in clients:
                one.result()  # raises for a request that was not answered
        assert process.wait(60) == 0, log.read_text()
    assert sum(begin < told - 0.02 and end > told for begin, end in asked) >= 4  # were in flight for certain
    for seed, found in images.items():
        expected = golden(z=latents_of([seed], golden.z_dim), psi=0.7, c=classes_of([seed], golden.c_dim))[0]
        for image in found:
            difference = np.abs(np.frombuffer(image, np.uint8).reshape(expected.shape).astype(int) - expected)
            assert difference.max() <= 1


# ---- what cannot be served ----


def test_an_altered_bundle_is_not_served(own_bundle: Path, triton: Program) -> None:
    (own_bundle / "models" / "generator" / "1" / "model.py").write_text("print('evil')")
    with pytest.raises(CorruptFileError, match=r"model\.py"), running_server(own_bundle, triton):
        pytest.fail("it was started")


def test_where_there_is_no_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tritonserver program"):
        find_program(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(MissingCapabilityError) as error:
        find_program(tmp_path)
    assert "nvidia-pytriton" in error.value.remedy and "docker run" in error.value.remedy


def test_a_server_that_ends_at_once_is_reported(bundle: Path, tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(DcpDeployError, match="ended with code 3"), running_server(bundle, find_program(program)):
        pytest.fail("it cannot be ready")


@pytest.mark.parametrize("address", ["http://", "http://127.0.0.1:1/path", "ftp://127.0.0.1", "127.0.0.1:8000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"), endpoint_runner(address):
        pytest.fail("there is nobody there")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_reported(scheme: str, free_ports: Callable[[], tuple[int, int, int]]) -> None:
    with pytest.raises(DcpDeployError), endpoint_runner(f"{scheme}://127.0.0.1:{free_ports()[0]}"):
        pytest.fail("there is nobody there")


def test_a_model_that_is_no_generator_is_refused(server: Server) -> None:
    with pytest.raises((InputError, DcpDeployError), match="nobody"), endpoint_runner(server.http, "nobody"):
        pytest.fail("there is no such model")


def test_the_endpoint_is_one_side_of_any_comparison(server: Server, uint8_onnx: Path) -> None:
    with endpoint_runner(server.http) as far:
        verify(load_runner(uint8_onnx), far, latents=6, psis=(0.5,), batches=(1, 5)).raise_for_failure()
