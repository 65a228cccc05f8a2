"""Kill a model's process under load, and hold thousands of idle connections; report what clients see.

    python -m dcp_deploy.benchmarks.experiments.serving_faults BUNDLE ENV

ENV is an environment with nvidia-pytriton (see :mod:`dcp_deploy.export.serving.server`). First 16 clients send 2,000
requests, each until it is answered, while the process of a model gets SIGKILL. Then 2,000 idle connections each are
opened to the HTTP and the gRPC port of a server that may open 1,024 files. Prints one JSON document.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from ...errors import DcpDeployError, MissingCapabilityError
from ...export.bundle.writer import read_golden
from ...export.runners.runner import Runner, classes_of, latents_of
from ...export.serving.endpoint import endpoint_runner
from ...export.serving.leftovers import SHARED_MEMORY, is_alive
from ...export.serving.ports import LOCAL, check_ports

CLIENTS, REQUESTS, CONNECTIONS, DESCRIPTORS = 16, 2000, 2000, 1024
TOLERANCE = 1  # steps of 255 by which a right image may differ from the golden one
PSI = 0.7
BEGINNINGS = {  # of a request that never comes
    "http": b"POST /v2/models/generator/infer HTTP/1.1\r\nHost: ",
    "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@dataclass
class Served:
    """A server as a user starts it, and all processes that it has had."""

    process: subprocess.Popen[str]
    addresses: dict[str, str]
    scratch: Path
    started: dict[psutil.Process, str] = field(default_factory=dict)

    def models(self) -> list[psutil.Process]:
        """Return the processes of the models, and remember all processes of the server."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.started |= {process: process.name() for process in found}
        return [process for process in found if "model.py" in " ".join(process.cmdline())]

    def left(self) -> list[str]:
        """Return what the server has left: processes, and the scratch folder and shared memory of its name."""
        left = [name for process, name in self.started.items() if is_alive(process)]
        places = [*SHARED_MEMORY.glob(f"{self.scratch.name}*"), *([self.scratch] if self.scratch.exists() else [])]
        return [*left, *map(str, places)]


def first_port() -> int:
    """Return the first of three unused ports in a row, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(10_000, 30_000, 3)
        with suppress(MissingCapabilityError):
            check_ports(LOCAL, (port, port + 1, port + 2))
            return port


@contextmanager
def serving(bundle: Path, environment: Path, descriptors: int | None = None) -> Iterator[Served]:
    """Run ``dcp-deploy serve`` with at most ``descriptors`` open files; stop it with SIGTERM."""
    words = ["serve", str(bundle), "--port", str(first_port()), "--server", str(environment), "--json"]

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    process = subprocess.Popen(
        [sys.executable, "-m", "dcp_deploy", *words], stdout=subprocess.PIPE, text=True, preexec_fn=limit
    )
    assert process.stdout is not None
    try:
        document = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        (models, *_) = (
            Path(word.partition("=")[2])
            for word in psutil.Process(document["process"]).cmdline()
            if word.startswith("--model-repository=")
        )
        served = Served(process, document, models.parent)
        served.models()
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def kill_a_model(
    bundle: Path, environment: Path, *, requests: int = REQUESTS, clients: int = CLIENTS
) -> dict[str, Any]:
    """Return how ``requests`` were answered while a model's process was killed, and how long readiness took."""
    golden, kept = read_golden(bundle, "generator")
    answers = _Answers(golden, kept["latents"], requests)
    with serving(bundle, environment) as served:
        watch = _Readiness(served.addresses["http"])
        with ThreadPoolExecutor(clients + 1) as pool:
            futures = [pool.submit(answers.client, served.addresses["http"]) for _ in range(clients)]
            watching = pool.submit(watch.run)
            while answers.right < requests // 2:
                time.sleep(0.01)
            victim = served.models()[0]
            victim.kill()
            killed = time.monotonic()
            for future in futures:
                future.result()
            served.models()
            watch.over.set()
            watching.result()
    not_ready = [moment for moment, ready in watch.seen if not ready and moment > killed]
    back = [moment for moment, ready in watch.seen if ready and not_ready and moment > not_ready[-1]]
    return {
        "requests": requests, "clients": clients, "right": answers.right, "wrong": answers.wrong,
        "refused_and_sent_again": answers.refused,
        "not_ready_after_s": round(not_ready[0] - killed, 3) if not_ready else None,
        "ready_again_after_s": round(back[0] - killed, 3) if back else None,
        "exit_code": served.process.returncode, "left": served.left(),
    }  # fmt: skip


class _Answers:
    """What many clients get, each sending the next request until it is answered."""

    def __init__(self, golden: Runner, seeds: int, requests: int) -> None:
        self.golden, self.seeds, self.requests = golden, seeds, requests
        self.numbers, self.lock = itertools.count(), threading.Lock()
        self.right = self.wrong = self.refused = 0

    def client(self, address: str) -> None:
        while (number := next(self.numbers)) < self.requests:
            seed = number % self.seeds
            found = self._answer(address, seed)
            expected = self.golden(
                z=latents_of([seed], self.golden.z_dim), psi=PSI, c=classes_of([seed], self.golden.c_dim)
            )
            fits = np.abs(found.astype(int) - expected.astype(int)).max() <= TOLERANCE
            with self.lock:
                self.right, self.wrong = self.right + bool(fits), self.wrong + (not fits)

    def _answer(self, address: str, seed: int) -> np.ndarray[Any, Any]:
        end = time.monotonic() + 60
        while True:
            try:
                return request(address, seed)
            except DcpDeployError:
                if time.monotonic() > end:
                    raise
                with self.lock:
                    self.refused += 1
                time.sleep(0.05)


class _Readiness:
    """What the server says about itself, every few milliseconds."""

    def __init__(self, address: str) -> None:
        self.address, self.seen = address, list[tuple[float, bool]]()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.seen.append((time.monotonic(), is_ready(self.address)))


def request(address: str, seed: int) -> np.ndarray[Any, Any]:
    """Return the image of a seed. DcpDeployError if the server refuses or does not answer."""
    with endpoint_runner(address) as endpoint:
        return endpoint(z=latents_of([seed], endpoint.z_dim), psi=PSI, c=classes_of([seed], endpoint.c_dim))


def _is_golden(golden: Runner, seed: int, found: np.ndarray[Any, Any]) -> bool:
    expected = golden(z=latents_of([seed], golden.z_dim), psi=PSI, c=classes_of([seed], golden.c_dim))
    return bool(np.abs(found.astype(int) - expected.astype(int)).max() <= TOLERANCE)


def is_ready(address: str) -> bool:
    """Return whether the server says that it is ready."""
    try:
        with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5):
            return True
    except OSError:
        return False


def hold_idle_connections(
    bundle: Path, environment: Path, *, connections: int = CONNECTIONS, descriptors: int = DESCRIPTORS
) -> dict[str, Any]:
    """Return how fast a server answers that has ``connections`` idle clients on each port, and few open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    times = {}
    with serving(bundle, environment, descriptors) as served, ExitStack() as stack:
        for protocol in ("http", "grpc"):
            place = urlsplit(served.addresses[protocol])
            for number in range(connections):
                one = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=10))
                if number % 2:
                    one.sendall(BEGINNINGS[protocol])
        begin = time.monotonic()
        assert is_ready(served.addresses["http"])
        times["health_ms"] = round((time.monotonic() - begin) * 1e3, 1)
        golden, _ = read_golden(bundle, "generator")
        for protocol in ("http", "grpc"):
            begin = time.monotonic()
            found = request(served.addresses[protocol], 0)
            times[f"{protocol}_ms"] = round((time.monotonic() - begin) * 1e3, 1)
            assert _is_golden(golden, 0, found)
    return {"connections": 2 * connections, "descriptors": descriptors, **times, "left": served.left()}


def main() -> None:
    """Run both with the bundle of the first argument and the server of the second."""
    bundle, environment = Path(sys.argv[1]), Path(sys.argv[2])
    found = {"killed": kill_a_model(bundle, environment), "idle": hold_idle_connections(bundle, environment)}
    print(json.dumps({"schema": 1, **found}, indent=2))


if __name__ == "__main__":
    main()
