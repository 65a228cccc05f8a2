"""Find NVIDIA's Triton Inference Server on this machine, start it on a bundle, watch it and stop it.

The server is the program of the Triton container, or else the one in the package nvidia-pytriton, which has only the
Python backend. That package needs an environment of its own, with numpy 1:

    python3 -m venv triton
    triton/bin/pip install nvidia-pytriton onnxruntime pillow
    dcp-deploy serve BUNDLE --server triton

Triton listens on ports that only this machine reaches; the request filter (:mod:`.request_filter`) is in front of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ...errors import DcpDeployError, MissingCapabilityError, UsageError
from ..bundle.kubernetes import TRITON_IMAGE
from ..bundle.triton import largest_request
from ..integrity import check_bundle
from .request_filter import MOST_JSON, FilterSettings, url_host

STOP_SECONDS = 10  # for requests in flight; Triton also waits that long for idle connections of clients
LOCAL = "127.0.0.1"
LOAD_SECONDS = 120.0  # more than the largest models need to warm up on two cores
INSTALL = (
    "Make an environment: python3 -m venv triton && triton/bin/pip install nvidia-pytriton onnxruntime pillow, then "
    f"--server triton; or run the full server, which has all backends: docker run {TRITON_IMAGE}"
)
FILTER_INSTALL = "Install it: pip install 'dcp-deploy[serve]'"

# Run by the environment's own Python: find the server and the packages that its models need.
_PROBE = """
import importlib.util as u, json, sysconfig
def version(name):
    try: return __import__(name).__version__
    except Exception: return None
spec = u.find_spec("pytriton")
print(json.dumps({"pytriton": spec and spec.submodule_search_locations[0], "libdir": sysconfig.get_config_var("LIBDIR"),
  "python": sysconfig.get_python_version(), "numpy": version("numpy"), "onnxruntime": version("onnxruntime"),
  "pillow": version("PIL")}))
"""


@dataclass(frozen=True)
class Program:
    """A tritonserver that can be started."""

    path: Path
    config: str
    """The bundle's configuration that it can run; "" means config.pbtxt."""
    backends: dict[str, Path] = field(default_factory=dict)
    """Files to link into the folder backends/python, by name; empty to use the server's own."""
    environment: dict[str, str] = field(default_factory=dict)
    pictures: bool = False
    """Whether its Python backend has Pillow, which a bundle's model ``picture`` needs."""


def find_program(where: Path | None = None) -> Program:
    """Find the server at ``where``: a tritonserver program, or an environment with nvidia-pytriton.

    By default it is the tritonserver on the PATH, then this environment's. MissingCapabilityError names what is missing
    and how to get it.
    """
    if where is None:
        found = shutil.which("tritonserver")
        return _pytriton(Path(sys.executable)) if found is None else _full(Path(found))
    if where.is_file():
        return _full(where)
    if not (where / "bin" / "python").exists():
        raise UsageError(f"{where} is neither a tritonserver program nor a Python environment", INSTALL)
    return _pytriton(where / "bin" / "python")


def _full(server: Path) -> Program:
    """Describe a server with all backends; its Python backend uses the packages of the python3 on the PATH."""
    python = shutil.which("python3")
    pictures = python is not None and subprocess.run([python, "-c", "import numpy, PIL"], capture_output=True)
    return Program(server, "", pictures=bool(pictures and pictures.returncode == 0))


def _pytriton(python: Path) -> Program:
    done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise MissingCapabilityError(f"{python} does not work: {done.stderr.strip()[-300:]}", INSTALL)
    found = json.loads(done.stdout)
    if found["pytriton"] is None:
        raise MissingCapabilityError(f"no Triton server: {python} has no nvidia-pytriton", INSTALL)
    if found["numpy"] is None or not found["numpy"].startswith("1."):
        # Its backend was compiled against numpy 1; with numpy 2 it sends empty images.
        raise MissingCapabilityError(f"nvidia-pytriton needs numpy 1 beside it, {python} has {found['numpy']}", INSTALL)
    if found["onnxruntime"] is None:
        raise MissingCapabilityError(f"{python} has no onnxruntime to run the model with", INSTALL)
    home = Path(found["pytriton"]) / "tritonserver"
    stub = home / "python_backend_stubs" / found["python"] / "triton_python_backend_stub"
    if not stub.is_file():
        raise MissingCapabilityError(f"nvidia-pytriton has no backend for Python {found['python']}", INSTALL)
    backend = {path.name: path for path in (home / "backends" / "python").iterdir() if path.is_file()}
    libraries = [str(home.parents[1] / "nvidia_pytriton.libs"), found["libdir"]]
    return Program(
        home / "bin" / "tritonserver",
        "python",
        {**backend, stub.name: stub},
        # The backend runs the first python3 on the PATH, with that one's packages.
        {
            "PATH": os.pathsep.join([str(python.parent.absolute()), os.environ.get("PATH", "")]),
            "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep),
        },
        found["pillow"] is not None,
    )


@dataclass(frozen=True)
class Server:
    """A running server behind its request filter. ``http`` and ``metrics`` are URLs, ``grpc`` is HOST:PORT."""

    process: subprocess.Popen[bytes]
    request_filter: subprocess.Popen[bytes]
    http: str
    grpc: str
    metrics: str

    def ended(self) -> tuple[str, int] | None:
        """Return the name and the exit code of a process that has ended, None while both run."""
        for name, process in (("tritonserver", self.process), ("its request filter", self.request_filter)):
            if process.poll() is not None:
                return name, process.returncode
        return None

    def wait(self) -> str:
        """Wait until one of the two processes has ended; return which, and its exit code."""
        while (end := self.ended()) is None:
            time.sleep(0.1)
        return f"{end[0]} ended by itself with code {end[1]}"


@contextmanager
def running_server(
    bundle: Path,
    program: Program,
    *,
    host: str = LOCAL,
    ports: tuple[int, int, int] = (8000, 8001, 8002),
    log: Path | None = None,
) -> Iterator[Server]:
    """Check the bundle, start the server on ``ports`` (HTTP, gRPC, metrics) and wait for it; stop it at the end.

    ``log``: where the server writes; by default where this process does. Requests in flight finish before it stops.
    Raises what :func:`~.integrity.check_bundle` does, MissingCapabilityError if the packages of the request filter are
    not installed, and DcpDeployError if the server ends or is not ready in time.
    """
    manifest = check_bundle(bundle)
    if not bundle.is_dir():
        raise UsageError(f"{bundle} is packed", f"Unpack it first: tar --zstd -xf {bundle.name}")
    for package in ("aiohttp", "grpc"):
        if importlib.util.find_spec(package) is None:
            raise MissingCapabilityError(f"serving needs {package}, which is not installed", FILTER_INSTALL)
    most, name = largest_request(manifest["models"]), url_host(host)
    upstream = free_ports()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dcp-deploy-serve-")))
        output = None if log is None else stack.enter_context(log.open("ab"))
        triton = [str(program.path), *_arguments(bundle, program, upstream, scratch)]
        process = stack.enter_context(_started(triton, {**os.environ, **program.environment}, output))
        # The request filter is stopped first: it finishes the requests in flight and accepts no new ones.
        settings = FilterSettings(host, ports, upstream, most, min(most, MOST_JSON), STOP_SECONDS, process.pid)
        request_filter = stack.enter_context(
            _started(settings.command(), dict(os.environ), output, stdin=subprocess.PIPE)
        )
        addresses = (f"http://{name}:{ports[0]}", f"{name}:{ports[1]}", f"http://{name}:{ports[2]}/metrics")
        server = Server(process, request_filter, *addresses)
        _wait_until_ready(server)
        yield server


@contextmanager
def _started(
    command: list[str], environment: dict[str, str], output: IO[bytes] | None, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command,
        env=environment,
        stdin=stdin,
        stdout=output or sys.stderr,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,  # Ctrl-C reaches only this process, which then stops the others in order
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS + 10)
            finally:  # too slow, or this process was interrupted again
                process.kill()


def free_ports() -> tuple[int, int, int]:
    """Return three unused ports of this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind((LOCAL, 0))
        first, second, third = (one.getsockname()[1] for one in sockets)
        return first, second, third


def _arguments(bundle: Path, program: Program, ports: tuple[int, int, int], scratch: Path) -> list[str]:
    repositories = ["models", *(["pictures"] if program.pictures and (bundle / "pictures").is_dir() else [])]
    files = [path for name in repositories for path in (bundle.absolute() / name).rglob("*") if path.is_file()]
    # Python writes __pycache__ beside a model.py. Here that is a link, so the bundle itself stays unchanged.
    links = {scratch / path.relative_to(bundle.absolute()): path for path in files}
    links |= {scratch / "backends" / "python" / name: target for name, target in program.backends.items()}
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return [
        *(f"--model-repository={scratch / name}" for name in repositories),
        *([f"--model-config-name={program.config}"] if program.config else []),
        *([f"--backend-directory={scratch / 'backends'}"] if program.backends else []),
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={STOP_SECONDS}",
        *(f"--{kind}-address={LOCAL}" for kind in ("http", "grpc", "metrics")),
        *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
    ]


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + LOAD_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy on the way to this machine
    while time.monotonic() < end:
        if ended := server.ended():
            raise DcpDeployError(f"{ended[0]} ended with code {ended[1]} before it was ready", "Read its log.")
        try:
            with opener.open(f"{server.http}/v2/health/ready", timeout=5):
                return
        except OSError:  # URLError too
            time.sleep(0.05)
    raise DcpDeployError(f"tritonserver was not ready after {LOAD_SECONDS:.0f} s", "Read its log.")
