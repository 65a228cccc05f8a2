"""A bundle on NVIDIA's Triton server: correct answers over every protocol, clear errors, and an orderly shutdown."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
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

from dcp_deploy.benchmarks.experiments.serving import server_memory
from dcp_deploy.benchmarks.experiments.serving_faults import first_port
from dcp_deploy.errors import (
    CorruptFileError,
    DcpDeployError,
    InputError,
    MissingCapabilityError,
    ParityError,
    UsageError,
)
from dcp_deploy.export import Runner, classes_of, latents_of, load_runner, verify
from dcp_deploy.export.bundle.golden import read_golden_images
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.serving.endpoint import endpoint_runner
from dcp_deploy.export.serving.endpoint_check import check_endpoint
from dcp_deploy.export.serving.ports import check_ports
from dcp_deploy.export.serving.server import Program, Server, _check_runtime, find_program, running_server

from ..conftest import TRITON, kill_triton
from .clients import answers_correctly, arrays, ask, body, infer

# ---- correct answers ----


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


def test_16_clients_with_mixed_batches_get_correct_images_and_memory_stays_constant(
    server: Server, bundle: Path
) -> None:
    golden, kept = read_golden(bundle, "generator")
    check_endpoint(server.http, golden, kept, clients=16, requests=200).raise_for_failure()  # buffers have grown
    before = server_memory(server)
    check_endpoint(server.http, golden, kept, clients=16, requests=500).raise_for_failure()
    # A leak of one image of each request would be 6.9 MB.
    assert server_memory(server) - before < 5e6


def test_a_wrong_image_is_detected(server: Server, own_bundle: Path) -> None:
    folder = own_bundle / "golden" / "generator"
    pixels = np.asarray(Image.open(folder / "seed2_psi1.png")).copy()
    pixels[3:9, 3:9] ^= 32
    Image.fromarray(pixels).save(folder / "seed2_psi1.png")
    report = check_endpoint(server.http, *read_golden_images(folder), requests=0)
    assert not report.passed and report.alone.worst == (2, 1.0)
    with pytest.raises(ParityError):
        report.raise_for_failure()


def test_health_and_metrics_are_served(server: Server) -> None:
    for address in (f"{server.http}/v2/health/live", f"{server.http}/v2/health/ready"):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(server.metrics, timeout=10) as answer:
        assert b'nv_inference_count{model="generator"' in answer.read()


def test_the_example_client_gets_the_same_image(server: Server, bundle: Path, local: Runner, tmp_path: Path) -> None:
    out = tmp_path / "image.png"
    done = subprocess.run(
        [sys.executable, bundle / "clients" / "client.py", "5", urlsplit(server.http).netloc, out],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = local(z=latents_of([5], local.z_dim), psi=0.7, c=classes_of([5], local.c_dim))[0]
    assert np.abs(np.asarray(Image.open(out)).astype(int) - expected).max() <= 1


def test_serving_does_not_change_the_bundle(server: Server, bundle: Path) -> None:
    assert answers_correctly(server, bundle)  # read_golden checks every file, after model.py was imported


# ---- shutdown ----


def test_a_killed_triton_is_reported_and_another_server_can_take_its_ports(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], local: Runner, tmp_path: Path
) -> None:
    ports = free_ports()
    with (
        running_server(bundle, triton, ports=ports, log=tmp_path / "log") as server,
        endpoint_runner(server.http) as endpoint,
    ):
        z, c = latents_of([0], endpoint.z_dim), classes_of([0], endpoint.c_dim)
        assert endpoint(z=z, c=c).shape == (1, 32, 32, 3)
        kill_triton(server)
        assert server.wait() == f"tritonserver ended by itself with code {-signal.SIGKILL}"
        with pytest.raises(DcpDeployError, match=r"does not answer|refused"):
            endpoint(z=z, c=c)
        status, answer = infer(server, body(local))
        assert status == 502 and "tritonserver does not answer" in json.loads(answer)["error"]
        with pytest.raises(InferenceServerException):
            ask(server, "grpc", arrays(local))
        assert server.request_filter.poll() is None
    with running_server(bundle, triton, ports=ports, log=tmp_path / "log") as server:
        assert answers_correctly(server, bundle)
        kill_triton(server)


STAND_IN = f"""#!{sys.executable}
import http.server, sys
ports = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(ports["--http-port"])), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program in place of tritonserver that is ready at once and has no models."""
    program = tmp_path / "tritonserver"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return program


@contextmanager
def serving(bundle: Path, server: Path, port: int, log: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run ``dcp-deploy serve`` as a user starts it; yield it and its JSON answer once it serves."""
    words = ["serve", str(bundle), "--port", str(port), "--server", str(server), "--json"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dcp_deploy", *words], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        yield process, json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_if_serve_is_killed_its_server_and_request_filter_end_too(bundle: Path, stand_in: Path, tmp_path: Path) -> None:
    with serving(bundle, stand_in, first_port(), tmp_path / "log") as (process, document):
        children = psutil.Process(process.pid).children()
        assert {document["process"]} < {child.pid for child in children} and len(children) == 2
        process.kill()
        process.wait()
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert len(gone) == 2 and not alive


def test_sigterm_under_load_finishes_the_requests_in_flight_and_every_answer_is_correct(
    bundle: Path, triton: Program, tmp_path: Path
) -> None:
    golden, _ = read_golden(bundle, "generator")
    log = tmp_path / "log"
    answered: dict[str, list[tuple[float, float]]] = {"http": [], "grpc": []}  # begin and end of each request
    images: dict[int, set[bytes]] = {}
    signalled: list[float] = []

    def client(protocol: str, address: str, seed: int) -> None:
        with endpoint_runner(address) as endpoint:
            z, c = latents_of([seed] * 8, endpoint.z_dim), classes_of([seed] * 8, endpoint.c_dim)
            while True:
                begin = time.monotonic()
                try:
                    answer = endpoint(z=z, psi=0.7, c=c)
                except DcpDeployError:
                    if not signalled or begin < signalled[0]:
                        raise  # it was sent before the signal
                    return
                answered[protocol].append((begin, time.monotonic()))
                images.setdefault(seed, set()).update(image.tobytes() for image in answer)

    with serving(bundle, TRITON, first_port(), log) as (process, document), ThreadPoolExecutor(32) as pool:
        clients = [
            pool.submit(client, protocol, document[protocol], number % 4)
            for protocol in answered
            for number in range(16)
        ]
        time.sleep(1.0)
        signalled.append(time.monotonic())
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)  # changes nothing
        for one in clients:
            one.result()
        assert process.wait(60) == 0, log.read_text()
    for times in answered.values():
        assert sum(begin < signalled[0] - 0.01 and end > signalled[0] for begin, end in times) >= 4  # surely in flight
    for seed, found in images.items():
        expected = golden(z=latents_of([seed], golden.z_dim), psi=0.7, c=classes_of([seed], golden.c_dim))[0]
        for image in found:
            difference = np.abs(np.frombuffer(image, np.uint8).reshape(expected.shape).astype(int) - expected)
            assert difference.max() <= 1


# ---- errors ----


def test_an_altered_bundle_is_not_served(own_bundle: Path, triton: Program) -> None:
    (own_bundle / "models" / "generator" / "1" / "model.py").write_text("print('evil')")
    with pytest.raises(CorruptFileError, match=r"model\.py"), running_server(own_bundle, triton):
        pytest.fail("the server was started")


def test_a_missing_server_is_reported_with_install_instructions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a tritonserver program nor"):
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


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_port_in_use_is_reported_before_anything_is_started(
    bundle: Path, stand_in: Path, free_ports: Callable[[], tuple[int, int, int]], place: int
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports, used = list(free_ports()), other.getsockname()[1]
        ports[place] = used
        before = psutil.Process().children()
        with (
            pytest.raises(MissingCapabilityError, match=rf"port {used} of 127\.0\.0\.1 is in use"),
            running_server(bundle, find_program(stand_in), ports=(ports[0], ports[1], ports[2])),
        ):
            pytest.fail("it cannot listen")
        assert psutil.Process().children() == before


def test_a_host_that_is_not_here_is_reported() -> None:
    with pytest.raises(UsageError, match="not an address of this machine"):
        check_ports("192.0.2.1", (8000,))
    with pytest.raises(UsageError, match="unknown"):
        check_ports("nowhere.invalid", (8000,))


@pytest.mark.parametrize("address", ["http://", "http://127.0.0.1:1/path", "ftp://127.0.0.1", "127.0.0.1:8000"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a server"), endpoint_runner(address):
        pytest.fail("no server is there")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_unreachable_server_is_reported(scheme: str, free_ports: Callable[[], tuple[int, int, int]]) -> None:
    with pytest.raises(DcpDeployError), endpoint_runner(f"{scheme}://127.0.0.1:{free_ports()[0]}"):
        pytest.fail("no server is there")


def test_an_unknown_model_is_refused(server: Server) -> None:
    with pytest.raises((InputError, DcpDeployError), match="nobody"), endpoint_runner(server.http, "nobody"):
        pytest.fail("the model does not exist")


def test_an_endpoint_can_be_compared_like_any_runner(server: Server, uint8_onnx: Path) -> None:
    with endpoint_runner(server.http) as endpoint:
        verify(load_runner(uint8_onnx), endpoint, latents=6, psis=(0.5,), batches=(1, 5)).raise_for_failure()


def test_a_model_that_is_too_new_for_the_servers_onnxruntime_is_refused_before_the_start() -> None:
    program = Program(Path("tritonserver"), "python", onnxruntime="1.17.3")
    with pytest.raises(MissingCapabilityError, match="cannot load generator: it has IR version 10") as caught:
        _check_runtime(program, {"models": {"generator": {"ir_version": 10, "opset": 18}}})
    assert "Install onnxruntime 1.18 or later there" in caught.value.remedy
    _check_runtime(program, {"models": {"generator": {"ir_version": 8, "opset": 17}, "of an earlier version": {}}})
