"""Measure a bundle on Triton under load, with and without dynamic batching.

    python -m dcp_deploy.benchmarks.experiments.serving BUNDLE ENV

ENV is an environment with nvidia-pytriton (see :mod:`dcp_deploy.export.serving.server`). On this machine, 16 clients
send 5,500 requests of 1 to 8 images to 127.0.0.1 over HTTP, then as many over gRPC. The first 500 are the warm-up, the
other 5,000 come in two halves. Every image is compared with the bundle's golden images, and the memory of the server's
processes is read after each of the three parts. Prints one JSON document.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from ...export.bundle.writer import read_golden
from ...export.integrity import MANIFEST, SEAL, seal
from ...export.serving.endpoint_check import check_endpoint
from ...export.serving.server import Program, Server, find_program, running_server
from ..machine.environment import capture_environment

CLIENTS, REQUESTS = 16, 5000  # the warm-up has a tenth as many more
PORTS = (18000, 18001, 18002)


def measure(bundle: Path, program: Program, *, requests: int = REQUESTS) -> dict[str, Any]:
    """Return the results of the load and the bytes of the server's memory, over HTTP and gRPC.

    Raises ParityError when an image is wrong or a request fails.
    """
    golden, kept = read_golden(bundle, "generator")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with running_server(bundle, program, ports=PORTS, log=log) as server:
            for address in (server.http, f"grpc://{server.grpc}"):
                protocol, memory = found.setdefault(address.split(":")[0], {"halves": []}), []
                for part in (requests // 10, requests // 2, requests - requests // 2):  # the first part is the warm-up
                    report = check_endpoint(address, golden, kept, clients=CLIENTS, requests=part)
                    report.raise_for_failure()
                    assert report.load is not None
                    memory.append(server_memory(server))
                    protocol.setdefault("first_ms", report.first_ms)
                    protocol["halves"].append(asdict(report.load))
                protocol["memory_bytes"] = memory
    return found


def server_memory(server: Server) -> int:
    """Return the bytes that only the server, its model processes and its request filter hold."""
    main = psutil.Process(server.process.pid)
    processes = (main, *main.children(recursive=True), psutil.Process(server.request_filter.pid))
    return sum(process.memory_full_info().uss for process in processes)


@contextmanager
def without_batching(bundle: Path) -> Iterator[Path]:
    """Yield a copy of a bundle whose models take each request by itself."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(bundle, Path(scratch) / bundle.name))
        manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
        for path in copy.glob("models/**/*.pbtxt"):
            text, count = re.subn(r"^dynamic_batching \{.*?^\}\n", "", path.read_text("utf-8"), flags=re.M | re.S)
            assert count == 1, path
            path.write_text(text, encoding="utf-8")
        for name in (MANIFEST, SEAL):
            (copy / name).unlink()
        seal(copy, {key: value for key, value in manifest.items() if key not in ("schema", "kind", "files")})
        yield copy


def main() -> None:
    """Measure the bundle of the first argument with the server of the second."""
    bundle, program = Path(sys.argv[1]), find_program(Path(sys.argv[2]))
    with without_batching(bundle) as single:
        found = {"dynamic batching": measure(bundle, program), "one by one": measure(single, program)}
    print(json.dumps({"schema": 1, "environment": asdict(capture_environment()), **found}, indent=2))


if __name__ == "__main__":
    main()
