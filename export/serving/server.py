"""Find NVIDIA's Triton Inference Server on this machine, start it on a bundle, watch it and stop it.

The server is the program of the Triton container, or else the one in the package nvidia-pytriton, which has only the
Python backend. That package needs an environment of its own, with numpy 1:

    python3 -m venv triton
    triton/bin/pip install nvidia-pytriton onnxruntime pillow
    dcp-deploy serve BUNDLE --server triton

Triton listens on ports that only this machine reaches; the request filter (:mod:`.request_filter`) is in front of it.
A model's process that has died is noticed, and Triton is started again; meanwhile the filter says that it is not ready.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DcpDeployError, MissingCapabilityError, UsageError
from ..bundle.kubernetes import TRITON_IMAGE
from ..bundle.sizing import allowed_cores
from ..bundle.triton import BYTES_PER_NUMBER, largest_request
from ..graph.releases import shortfall
from ..integrity import check_served
from .leftovers import Scratch, scratch_folder
from .ports import LOCAL, check_ports, free_ports, is_answered
from .probes import report_pipe, reported_model
from .processes import Triton, start, stop
from .pulse import FILTER, Pulse
from .repository import MODELS, PICTURES, Size, link_repository, size_for
from .request_filter import MOST_JSON, FilterSettings, url_host

STOP_SECONDS = 10  # for requests in flight; Triton also waits that long for idle connections of clients
PATIENCE_SECONDS = 20.0  # without an answer, before a small model counts as silent
READY_SECONDS = 5.0  # for the answer whether it is ready
LOAD_SECONDS = 120.0  # more than the largest models need to warm up on two cores
WATCH_SECONDS = 0.1  # between two looks at the processes
MOST_RESTARTS, RESTART_SECONDS = 5, 600.0  # of Triton in that time, before serving ends
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
    onnxruntime: str | None = None
    """Version of the ONNX Runtime in its Python backend, where known."""


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
        found["onnxruntime"],
    )


@dataclass
class Server:
    """A running server behind its request filter. ``http`` and ``metrics`` are URLs, ``grpc`` is HOST:PORT."""

    triton: Triton
    request_filter: subprocess.Popen[bytes]
    report: int
    """The end of a pipe where the filter names a model that does not answer."""
    http: str
    grpc: str
    metrics: str
    size: Size
    resized_from: int | None = None
    """The cores of the machine that the bundle was made for, if this one allows another number."""
    restarts: deque[float] = field(default_factory=deque)
    """When Triton was started again, in the last minutes."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return Triton's process."""
        return self.triton.process

    def ended(self) -> tuple[str, int] | None:
        """Return the name and the exit code of a process that has ended, None while both run."""
        for name, process in (("tritonserver", self.process), ("its request filter", self.request_filter)):
            if process.poll() is not None:
                return name, process.returncode
        return None

    def wait(self, say: Callable[[str], None] = lambda text: None) -> str:
        """Wait until one of the two processes has ended, or the filter hangs; return which, and its exit code.

        Starts Triton again, and says so, if a model's process has died, a model does not answer, or Triton or a model's
        process hangs. Returns what has happened if that happens too often.
        """
        pulse = Pulse(self.triton, self.request_filter.pid)
        with pulse.watching():
            while (end := self.ended()) is None:
                hanging = pulse.hanging()
                if hanging == FILTER:
                    return f"{FILTER} has stopped responding"
                if (trouble := self._trouble(hanging)) is not None:
                    if not self._may_start_again():
                        return f"{trouble} {MOST_RESTARTS + 1} times in a few minutes"
                    self._replace_triton(trouble, say)
                    pulse.begin()
                time.sleep(WATCH_SECONDS)
        return f"{end[0]} ended by itself with code {end[1]}"

    def _trouble(self, hanging: str | None) -> str | None:
        """Return what is wrong with Triton or a model, None if nothing is. ``hanging``: the process that hangs."""
        if (dead := self.triton.dead_model()) is not None:
            return f"the process of model {dead} has died"
        if hanging is not None:
            return f"{hanging} has stopped responding"
        silent = reported_model(self.report)
        return None if silent is None else f"model {silent} has stopped answering"

    def _may_start_again(self) -> bool:
        """Say that the models are not ready, and return whether they may start again, which is then counted."""
        self.tell("starting")
        now = time.monotonic()
        while self.restarts and now - self.restarts[0] > RESTART_SECONDS:
            self.restarts.popleft()
        if len(self.restarts) >= MOST_RESTARTS:
            return False
        self.restarts.append(now)
        return True

    def _replace_triton(self, trouble: str, say: Callable[[str], None]) -> None:
        say(f"{trouble}; the models are started again")
        begin = time.monotonic()
        self.start_again()
        say(f"serving again after {time.monotonic() - begin:.1f} s")

    def start_again(self) -> None:
        """Replace Triton by a new one on the same ports. Its requests in flight get an error."""
        self.triton.kill()
        self.triton.start()
        self.wait_until_ready()
        reported_model(self.report)  # drop a report about the models that were replaced

    def tell(self, line: str) -> None:
        """Send a line to the request filter."""
        assert self.request_filter.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, as ended() says
            self.request_filter.stdin.write(f"{line}\n".encode())
            self.request_filter.stdin.flush()

    def wait_until_ready(self) -> None:
        """Wait for Triton, tell the filter, and wait for the filter. Raises DcpDeployError if one ends or is late."""
        self.tell(f"triton {self.process.pid}")
        end = time.monotonic() + LOAD_SECONDS
        for address in (self.triton.http, self.http):
            while not is_answered(f"{address}/v2/health/ready", READY_SECONDS):
                if ended := self.ended():
                    raise DcpDeployError(f"{ended[0]} ended with code {ended[1]} before it was ready", "Read its log.")
                if time.monotonic() > end:
                    raise DcpDeployError(f"tritonserver was not ready after {LOAD_SECONDS:.0f} s", "Read its log.")
                time.sleep(0.05)
            if address == self.triton.http:
                self.triton.loaded()
                self.tell("ready")


@contextmanager
def running_server(
    bundle: Path,
    program: Program,
    *,
    host: str = LOCAL,
    ports: tuple[int, int, int] = (8000, 8001, 8002),
    hosts: Sequence[str] = (),
    log: Path | None = None,
) -> Iterator[Server]:
    """Check the bundle, start the server on ``ports`` (HTTP, gRPC, metrics) and wait for it; stop it at the end.

    ``hosts``: names by which clients may call it, beside addresses, localhost, ``host`` and the machine's name.
    ``log``: where the server writes; by default where this process does. Requests in flight finish before it stops.
    However it ends, its processes, its scratch folder and its shared memory go.

    Raises what :func:`~.integrity.check_served` does, MissingCapabilityError for a port in use or if the packages of
    the request filter are not installed, and DcpDeployError if the server ends or is not ready in time.
    """
    check_ports(host, ports)
    manifest = check_served(bundle)
    if not bundle.is_dir():
        raise UsageError(f"{bundle} is packed", f"Unpack it first: tar --zstd -xf {bundle.name}")
    _check_runtime(program, manifest)
    _check_packages()
    most, name, cores = largest_request(manifest["models"]), url_host(host), allowed_cores()
    size, made_for = size_for(cores, manifest["sizing"]), manifest["sizing"]["cores"]
    upstream = free_ports()
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        output = None if log is None else stack.enter_context(log.open("ab"))
        report, reporting = report_pipe()
        stack.callback(os.close, report)
        stack.callback(os.close, reporting)
        settings = _filter_settings(host, ports, upstream, most, hosts, scratch, reporting)
        command = [str(program.path), *_arguments(bundle.absolute(), program, upstream, scratch, size)]
        triton = Triton(command, {**os.environ, **program.environment}, output, scratch, upstream[0])
        stack.callback(triton.stop, STOP_SECONDS + 10)
        # The request filter is started first: it cleans up if this process is killed. It is stopped first, too: it
        # finishes the requests in flight and accepts no new ones.
        request_filter = start(
            settings.command(), dict(os.environ), output, lock=scratch.lock, report=reporting, stdin=subprocess.PIPE,
            orphan=True,
        )  # fmt: skip
        stack.callback(stop, request_filter, STOP_SECONDS + 10)
        triton.start()
        addresses = (f"http://{name}:{ports[0]}", f"{name}:{ports[1]}", f"http://{name}:{ports[2]}/metrics")
        server = Server(triton, request_filter, report, *addresses, size, None if made_for == cores else made_for)
        server.wait_until_ready()
        yield server


def _check_packages() -> None:
    """Raise MissingCapabilityError if the packages of the request filter are not installed."""
    for package in ("aiohttp", "grpc"):
        if importlib.util.find_spec(package) is None:
            raise MissingCapabilityError(f"serving needs {package}, which is not installed", FILTER_INSTALL)


def _check_runtime(program: Program, manifest: Mapping[str, Any]) -> None:
    """Raise MissingCapabilityError for a model that is newer than the server's ONNX Runtime; unknown ones pass."""
    for name, model in manifest["models"].items():
        versions = model.get("ir_version"), model.get("opset")
        if program.onnxruntime is None or None in versions:
            continue
        if problem := shortfall(program.onnxruntime, *versions):
            raise MissingCapabilityError(f"the server cannot load {name}: {problem[0]}", problem[1])


def _filter_settings(
    host: str, ports: tuple[int, int, int], upstream: tuple[int, int, int], most: int, hosts: Sequence[str],
    scratch: Scratch, report: int,
) -> FilterSettings:  # fmt: skip
    most_json = min(most, MOST_JSON)
    return FilterSettings(
        host, ports, upstream, most_body=most, most_json=most_json, most_values=most_json // BYTES_PER_NUMBER,
        hosts=tuple(hosts), grace_seconds=STOP_SECONDS, patience=PATIENCE_SECONDS, report=report,
        scratch=str(scratch.folder),
    )  # fmt: skip


def _arguments(bundle: Path, program: Program, ports: tuple[int, int, int], scratch: Scratch, size: Size) -> list[str]:
    names = (MODELS, *([PICTURES] if program.pictures and (bundle / PICTURES).is_dir() else []))
    link_repository(bundle, scratch.folder, names, size)
    backends = scratch.folder / "backends"
    for name, target in program.backends.items():
        link = backends / "python" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return [
        *(f"--model-repository={scratch.folder / name}" for name in names),
        *([f"--model-config-name={program.config}"] if program.config else []),
        *([f"--backend-directory={backends}"] if program.backends else []),
        f"--backend-config=python,shm-region-prefix-name={scratch.shared_memory}",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={STOP_SECONDS}",
        *(f"--{kind}-address={LOCAL}" for kind in ("http", "grpc", "metrics")),
        *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
    ]
