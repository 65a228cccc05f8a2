"""The verbs that ship a generator: pack it, check it, serve it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..doctor.diagnosis import TRITON_VARIABLE
from ..errors import DcpDeployError, UsageError
from .options import option
from .output import Output
from .verb import verb

if TYPE_CHECKING:
    from ..export.serving.endpoint_check import EndpointReport
    from ..export.serving.server import Program, Server


@verb(computes=True)
def bundle(
    output: Output,
    source: Annotated[Path, typer.Argument(help="A run directory of build or an ONNX file.")],
    out: Annotated[Path, option("Folder to write, or a file that ends in .tar.zst.", "--out", "-o")],
    name: Annotated[str | None, option("Name of the bundle, by default its source's.")] = None,
    teacher: Annotated[bool, option("Also serve the teacher, to compare.", "--teacher")] = False,
    synthesis: Annotated[bool, option("Also serve the form that takes ws, for editing.", "--synthesis")] = False,
    directions: Annotated[
        Path | None, option("Also serve edits along the directions in w of this safetensors file.")
    ] = None,
    engine: Annotated[list[Path] | None, option("TensorRT engine to add, built from the same ONNX file.")] = None,
    max_batch: Annotated[int | None, option("Largest batch that the server accepts, by default 8.")] = None,
    web: Annotated[
        bool,
        option("Make a page that generates images in browsers. npm fetches ONNX Runtime Web for it once.", "--web"),
    ] = False,
    force: Annotated[bool, option("Replace a folder that holds other files.", "--force")] = False,
) -> None:
    """Make a bundle that an inference server loads, or a page for browsers. dcp-deploy bundle verify checks one.

    Example: dcp-deploy bundle build/demo -o demo-bundle --teacher

    Example: dcp-deploy bundle build/demo --web -o build/demo/web
    """
    if web:
        unused = {"--teacher": teacher, "--synthesis": synthesis, "--engine": engine, "--max-batch": max_batch}
        _web_page(output, source, out, name=name, directions=directions, force=force, unused=unused)
        return
    from ..export.bundle.writer import MAX_BATCH, write_bundle
    from ..shipping.contents import contents_of

    with output.task("bundle"), tempfile.TemporaryDirectory() as scratch:
        contents = contents_of(
            source,
            name=name,
            teacher=teacher,
            synthesis=synthesis,
            directions=directions,
            engines=engine or (),
            scratch=Path(scratch),
        )
        largest = MAX_BATCH if max_batch is None else max_batch
        manifest = write_bundle(contents, out, max_batch=largest, force=force)
    _written(output, out, manifest)


def _web_page(
    output: Output,
    source: Path,
    out: Path,
    *,
    name: str | None,
    directions: Path | None,
    force: bool,
    unused: Mapping[str, Any],
) -> None:
    """Make a page for browsers. ``unused``: flags for servers only, and whether they were given."""
    from ..export.bundle.web.writer import write_web_page
    from ..shipping.web import web_contents_of

    given = [flag for flag, value in unused.items() if value not in (None, False)]
    if given:
        raise UsageError(
            f"{given[0]} is for inference servers, and --web makes a page for browsers", "Leave one of them out."
        )
    with output.task("bundle"), tempfile.TemporaryDirectory() as scratch:
        contents = web_contents_of(source, name=name, directions=directions, scratch=Path(scratch))
        manifest = write_web_page(contents, out, force=force)
    if (source / "report.html").is_file() and out.resolve() == source.resolve() / "web":
        from ..report import write_report

        write_report(source)  # it links the page
    _written(output, out, manifest)


def _written(output: Output, out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the settings beside a bundle or page, and show its facts."""
    settings = output.write_settings(out)
    facts = {key: value for key, value in manifest.items() if key not in ("schema", "files", "provenance")}
    output.result({"path": str(out), "settings": str(settings), **facts}, str(out))
    output.finished(out)


@verb()
def bundle_verify(
    output: Output, path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: folder or .tar.zst.")]
) -> None:
    """Compare every file of a bundle with its manifest, without a network.

    Exit code 3 names a file that was altered, lost or added.

    Example: dcp-deploy bundle verify demo-bundle
    """
    from ..export.runners.bundle import bundle_facts

    facts = bundle_facts(path)
    words = f"{path}: all {facts['file_count']} files are as {facts['name']} was made; manifest {facts['sha256']}"
    output.result({"path": str(path), **{key: value for key, value in facts.items() if key != "schema"}}, words)


@verb()
def serve(
    output: Output,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that dcp-deploy bundle made.")],
    host: Annotated[str, option("Address to listen on. 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, option("Port for HTTP. The next two are for gRPC and metrics.")] = 8000,
    server: Annotated[
        Path | None,
        option("A tritonserver program, or an environment that has nvidia-pytriton.", envvar=TRITON_VARIABLE),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        option("Name by which clients call this server; * for any. Addresses and localhost always work."),
    ] = None,
) -> None:
    """Run a bundle on this machine with NVIDIA's Triton server until Ctrl-C, SIGTERM or SIGHUP.

    Running requests are finished first. Without a server on this machine, the error says how to get one. A page of
    bundle --web needs no Triton: its files are served as they are.

    Example: dcp-deploy serve demo-bundle --port 8000
    """
    from ..export.serving.pages import is_web_page
    from ..export.serving.server import find_program, running_server

    if not 1 <= port <= 65533:
        raise UsageError(f"port {port} does not leave three ports", "Give one from 1 to 65533.")
    if is_web_page(path):
        # A server that the environment names is meant for bundles, and does not disturb.
        unused = {"--server": output.was_typed("server"), "--allow-host": bool(allow_host)}
        _serve_page(output, path, host=host, port=port, unused=unused)
        return
    program = find_program(server)
    begun = False
    ports = (port, port + 1, port + 2)
    try:
        with (
            first_signal_stops(),
            running_server(path, program, host=host, ports=ports, hosts=allow_host or ()) as running,
        ):
            begun = True
            _announce(output, running, program, path)
            raise DcpDeployError(running.wait(output.message), "Read the server's log.")
    except KeyboardInterrupt:
        if not begun:
            raise
        output.message("stopped")


def _serve_page(output: Output, path: Path, *, host: str, port: int, unused: Mapping[str, bool]) -> None:
    """Serve a page for browsers until a signal. ``unused``: flags for bundles only, and whether they were given."""
    from ..export.serving.pages import running_page

    given = [flag for flag, was_given in unused.items() if was_given]
    if given:
        raise UsageError(f"{given[0]} is for bundles, and {path} is a page for browsers", "Leave it out.")
    try:
        with first_signal_stops(), running_page(path, host=host, port=port) as address:
            output.result({"http": address, "process": os.getpid()}, f"{path} is at {address}; Ctrl-C ends it")
            Event().wait()
    except KeyboardInterrupt:
        output.message("stopped")


def _announce(output: Output, running: Server, program: Program, path: Path) -> None:
    """Say where the server listens, and what is special about it."""
    if running.resized_from is not None:
        size = running.size
        output.message(
            f"made for another number of cores ({running.resized_from}) than is allowed here; instances of each model: "
            f"{size.instances}, threads of an instance: {size.threads}"
        )
    if program.config == "python":
        output.message(f"on the CPU, by {program.path}; the full server, with or without GPU: {_docker(path)}")
    if not program.pictures:
        output.message("pictures of seeds are not served: the server's Python lacks Pillow; pip install pillow")
    addresses = {"http": running.http, "grpc": f"grpc://{running.grpc}", "metrics": running.metrics}
    shown = ", ".join(addresses.values())
    output.result({**addresses, "process": running.process.pid}, f"serving {path} at {shown}; Ctrl-C ends it")


@contextmanager
def first_signal_stops() -> Iterator[None]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP interrupts. Later ones do nothing.

    Stopping takes some seconds, in which requests in flight finish; another signal must not cut it short. A SIGHUP that
    is ignored from the start, as nohup does, stays ignored.
    """

    def stop(number: int, frame: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _docker(path: Path) -> str:
    from ..export.bundle.kubernetes import TRITON_IMAGE

    return (
        f"docker run --rm --gpus all --shm-size 1g -p 127.0.0.1:8000:8000 -v {path.absolute() / 'models'}:/models:ro "
        f"{TRITON_IMAGE} tritonserver --model-repository=/models"
    )


def verify_server(
    a: str, b: str, output: Output, *, model: str, clients: int, requests: int
) -> tuple[EndpointReport, Any, str, str]:
    """Compare a bundle's golden images with a server's. Returns the report, and its table, verdict and times."""
    from ..export.bundle.writer import read_golden
    from ..export.integrity import is_bundle
    from ..export.serving.endpoint import is_address
    from ..export.serving.endpoint_check import check_endpoint
    from .tables import checks_table

    address, bundle = (a, b) if is_address(a) else (b, a)
    if is_address(bundle):
        raise UsageError("two servers cannot be compared", "Write: dcp-deploy verify BUNDLE http://HOST:PORT")
    if Path(bundle).is_file() and not is_bundle(Path(bundle)):
        raise UsageError(
            f"a server is compared with the bundle that it serves; {bundle} is not a bundle",
            "Pack the run first: dcp-deploy bundle RUN --out FOLDER",
        )
    golden, kept = read_golden(Path(bundle), model)
    with output.task("verify"):
        report = check_endpoint(address, golden, kept, model=model, clients=clients, requests=requests)
    load = report.load
    words = f"first request {report.first_ms:.1f} ms; not tried under load"
    if load is not None:
        words = (
            f"first request {report.first_ms:.1f} ms; {load.clients} clients, {load.requests} requests, {load.failed} "
            f"failed: p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms, {load.images_per_second:.0f} images/s"
        )
    return report, checks_table(report.alone), report.alone.verdict, words
