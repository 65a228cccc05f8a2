"""A bundle on NVIDIA's Triton server: right answers over every protocol, clear refusals, and an orderly end."""

from __future__ import annotations

import json
import os
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
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from dcp_deploy.benchmarks.experiments.serving import server_memory
from dcp_deploy.errors import (
    CorruptFileError,
    DcpDeployError,
    InputError,
    MissingCapabilityError,
    ParityError,
    UsageError,
)
from dcp_deploy.export import Runner, classes_of, latents_of, load_runner, verify
from dcp_deploy.export.bundle.golden import golden_runner
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.serving.endpoint import endpoint_runner
from dcp_deploy.export.serving.endpoint_check import check_endpoint
from dcp_deploy.export.serving.server import Program, Server, find_program, running_server

from .asking import answers_rightly

ROOT = Path(__file__).parents[3]


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
    before = server_memory(server)
    check_endpoint(server.http, golden, kept, clients=16, requests=500).raise_for_failure()
    # A leak of one image of each request would be 6.9 MB.
    assert server_memory(server) - before < 5e6


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


def test_where_serve_itself_is_killed_its_server_and_request_filter_end_too(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path
) -> None:
    with serving(bundle, free_ports()[0], tmp_path / "log") as process:
        assert process.stdout is not None
        document = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        children = psutil.Process(process.pid).children()
        assert {document["process"]} < {child.pid for child in children} and len(children) == 2
        process.kill()
        process.wait()
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert len(gone) == 2 and not alive


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_sigterm_in_mid_load_finishes_what_is_in_flight_and_nothing_answered_is_wrong(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path, way: str
) -> None:
    golden, _ = read_golden(bundle, "generator")
    log = tmp_path / "log"
    with serving(bundle, free_ports()[0], log) as process:
        assert process.stdout is not None
        document = "".join(iter(process.stdout.readline, "}\n")) + "}"
        address = json.loads(document)[way]
        answered: list[tuple[float, float]] = []  # begin and end of each request
        images: dict[int, set[bytes]] = {}
        told: list[float] = []

        def client(seed: int) -> None:
            with endpoint_runner(address) as far:
                z, c = latents_of([seed] * 8, far.z_dim), classes_of([seed] * 8, far.c_dim)
                while True:
                    begin = time.monotonic()
                    try:
                        answer = far(z=z, psi=0.7, c=c)
                    except DcpDeployError:
                        if not told or begin < told[0]:
                            raise  # it was sent before the signal
                        return
                    answered.append((begin, time.monotonic()))
                    images.setdefault(seed, set()).update(image.tobytes() for image in answer)

        with ThreadPoolExecutor(24) as pool:
            clients = [pool.submit(client, number % 4) for number in range(24)]
            time.sleep(1.0)
            told.append(time.monotonic())
            process.send_signal(signal.SIGTERM)
            for one in clients:
                one.result()
        assert process.wait(60) == 0, log.read_text()
    assert sum(begin < told[0] - 0.01 and end > told[0] for begin, end in answered) >= 4  # in flight for certain
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


def test_a_port_that_is_taken_is_reported(bundle: Path, triton: Program, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken, log = other.getsockname()[1], tmp_path / "log"
        with (
            pytest.raises(DcpDeployError, match="its request filter ended with code 1"),
            running_server(bundle, triton, ports=(taken, taken + 1, taken + 2), log=log),
        ):
            pytest.fail("it cannot listen")
    assert f"{taken}" in log.read_text() and "cannot listen" in log.read_text()


@pytest.mark.parametrize("address", ["http://", "http://127.0.0.1:1/path", "ftp://127.0.0.1", "127.0.0.1:8000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a server"), endpoint_runner(address):
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
