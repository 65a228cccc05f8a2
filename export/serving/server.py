"""Triton Inference Server on this machine, with a bundle's model repository: found, started, guarded, watched, stopped.

The server is NVIDIA's own: the program of the Triton container where there is one, else the one that the package
nvidia-pytriton carries, which has only the Python backend. That one wants an environment of its own, with numpy 1:

    python3 -m venv triton
    triton/bin/pip install nvidia-pytriton onnxruntime pillow
    dcp-deploy serve BUNDLE --server triton

It listens on ports that only this machine reaches; before it stands the guard (:mod:`.guard`).
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
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ...errors import DcpDeployError, MissingCapabilityError, UsageError
from ..bundle.kubernetes import TRITON_IMAGE
from ..integrity import check_bundle, largest_request
from .request_filter import MOST_JSON, FilterSettings

STOP_SECONDS = 10  # for requests in flight; Triton also waits so long for clients that keep idle connections open
LOCAL = "127.0.0.1"
LOAD_SECONDS = 120.0  # the largest models warm up on two cores in less
INSTALL = (
    "python3 -m venv triton && triton/bin/pip install nvidia-pytriton onnxruntime pillow, then --server triton; "
    f"or the full server, which has all backends: docker run {TRITON_IMAGE}"
)
GUARD_INSTALL = "pip install 'dcp-deploy[serve]'"

# Asked of the environment's own Python: where the server lies, and whether its models will run.
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
    """A tritonserver that can be started, and which of a bundle's configurations it can run ("": config.pbtxt)."""

    path: Path
    config: str
    backends: dict[str, Path] = field(default_factory=dict)
    """Files to link into a folder of backends/python, by name; empty for the server's own."""
    environment: dict[str, str] = field(default_factory=dict)
    pictures: bool = False
    """Whether its Python backend has Pillow, and so can run a bundle's ``picture``."""


def find_program(where: Path | None = None) -> Program:
    """The server at ``where``: a tritonserver program or an environment with nvidia-pytriton; by default this
    environment's, then the one on the PATH. MissingCapabilityError says what is missing and how to get it.
    """
    if where is not None and where.is_file():
        return _full(where)
    if where is not None:
        if not (where / "bin" / "python").exists():
            raise UsageError(f"{where} is no tritonserver program and no Python environment", INSTALL)
        return _pytriton(where / "bin" / "python")
    full = shutil.which("tritonserver")
    if full is not None:
        return _full(Path(full))
    return _pytriton(Path(sys.executable))


def _full(server: Path) -> Program:
    """A server with all backends; its Python backend runs with the packages of the python3 on the PATH."""
    python = shutil.which("python3")
    probe = [python or "python3", "-c", "import numpy, PIL"]
    return Program(server, "", pictures=bool(python) and subprocess.run(probe, capture_output=True).returncode == 0)


def _pytriton(python: Path) -> Program:
    done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise MissingCapabilityError(f"{python} does not work: {done.stderr.strip()[-300:]}", INSTALL)
    found = json.loads(done.stdout)
    if found["pytriton"] is None:
        raise MissingCapabilityError(f"no Triton server: {python} has no nvidia-pytriton", INSTALL)
    if found["numpy"] is None or not found["numpy"].startswith("1."):
        # Its backend was compiled against numpy 1 and sends empty images with numpy 2.
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
        # The backend's Python takes the first python3 on the PATH for its own, and with it that one's packages.
        {
            "PATH": os.pathsep.join([str(python.parent.absolute()), os.environ.get("PATH", "")]),
            "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep),
        },
        found["pillow"] is not None,
    )


@dataclass(frozen=True)
class Server:
    """A running server behind its guard. ``http`` and ``metrics`` are addresses of a browser, ``grpc`` is HOST:PORT."""

    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]
    http: str
    grpc: str
    metrics: str

    def ended(self) -> tuple[str, int] | None:
        """Name and code of the one of the two processes that has ended."""
        for name, process in (("tritonserver", self.process), ("its guard", self.guard)):
            if process.poll() is not None:
                return name, process.returncode
        return None

    def wait(self) -> str:
        """Return when one of the two processes has ended, and say which, with what code."""
        while (end := self.ended()) is None:
            time.sleep(0.2)
        return f"{end[0]} ended by itself with code {end[1]}"


@contextmanager
def running_server(
    bundle: Path,
    program: Program,
    *,
    host: str = "127.0.0.1",
    ports: tuple[int, int, int] = (8000, 8001, 8002),
    log: Path | None = None,
) -> Iterator[Server]:
    """Check the bundle, start the server on ports (HTTP, gRPC, metrics), wait until it is ready; stop it at the end.

    ``log``: where the server writes; by default where this process does. Stopping lets requests in flight finish.
    Raises what :func:`~.integrity.check_bundle` does, MissingCapabilityError when the guard's packages are not
    installed, and DcpDeployError when the server ends or is not ready in time.
    """
    manifest = check_bundle(bundle)
    if not bundle.is_dir():
        raise UsageError(f"{bundle} is packed", f"unpack it first: tar --zstd -xf {bundle.name}")
    for package in ("aiohttp", "grpc"):
        if importlib.util.find_spec(package) is None:
            raise MissingCapabilityError(f"serving needs {package}, which is not installed", GUARD_INSTALL)
    most = largest_request(manifest)
    upstream = free_ports()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dcp-deploy-serve-")))
        output = None if log is None else stack.enter_context(log.open("ab"))
        triton = [str(program.path), *_arguments(bundle, program, upstream, scratch)]
        process = stack.enter_context(_started(triton, {**os.environ, **program.environment}, output))
        # The guard is stopped first: it answers what is in flight, and lets nothing new in.
        guarded = FilterSettings(host, ports, upstream, most, min(most, MOST_JSON), STOP_SECONDS, process.pid)
        guard = stack.enter_context(_started(guarded.command(), dict(os.environ), output, stdin=subprocess.PIPE))
        server = Server(process, guard, *_addresses(host, ports))
        _wait_until_ready(server, f"{server.http}/v2/health/ready")
        yield server


@contextmanager
def _started(
    command: list[str], environment: dict[str, str], output: IO[bytes] | None, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=stdin,
        stdout=output or sys.stderr,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others in order
    )
    try:
        yield process
    finally:
        stop(process)
        if process.stdin is not None:
            process.stdin.close()


def free_ports() -> tuple[int, int, int]:
    """Three ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind((LOCAL, 0))
        first, second, third = (one.getsockname()[1] for one in sockets)
        return first, second, third


def _arguments(bundle: Path, program: Program, ports: tuple[int, int, int], scratch: Path) -> list[str]:
    repositories = ["models", *(["pictures"] if program.pictures and (bundle / "pictures").is_dir() else [])]
    files = [path for name in repositories for path in (bundle.absolute() / name).rglob("*") if path.is_file()]
    # Python leaves its __pycache__ beside a model.py; beside a link it does not become a part of the bundle.
    _link({path.relative_to(bundle.absolute()): path for path in files}, scratch)
    _link({Path("python") / name: target for name, target in program.backends.items()}, scratch / "backends")
    return [
        *(f"--model-repository={scratch / name}" for name in repositories),
        *([f"--model-config-name={program.config}"] if program.config else []),
        *([f"--backend-directory={scratch / 'backends'}"] if program.backends else []),
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={STOP_SECONDS}",
        *(f"--{kind}-address={LOCAL}" for kind in ("http", "grpc", "metrics")),
        *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
    ]


def _link(files: Mapping[Path, Path], folder: Path) -> None:
    for name, target in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)


def _addresses(host: str, ports: tuple[int, int, int]) -> tuple[str, str, str]:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{ports[0]}", f"{name}:{ports[1]}", f"http://{name}:{ports[2]}/metrics"


def _wait_until_ready(server: Server, address: str) -> None:
    end = time.monotonic() + LOAD_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is asked directly
    while time.monotonic() < end:
        if found := server.ended():
            raise DcpDeployError(f"{found[0]} ended with code {found[1]} before it was ready", "its log says why")
        try:
            with opener.open(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise DcpDeployError(f"tritonserver was not ready after {LOAD_SECONDS:.0f} s", "its log says why")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server: ask it to, wait for its requests in flight, and only then use force."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS + 10)
    finally:  # too slow, or this process was interrupted again
        if process.poll() is None:
            process.kill()
            process.wait()
