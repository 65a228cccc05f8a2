"""The verbs that ship a generator: pack it, check it, serve it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..doctor.diagnosis import TRITON_VARIABLE
from ..errors import DcpDeployError, UsageError
from .output import ConfigFile, Debug, Json, Output, Quiet, verb, write_settings

if TYPE_CHECKING:
    from ..export.serving.endpoint_check import EndpointReport


@verb
def bundle(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A run directory of build or an ONNX file; or the word verify.")],
    packed: Annotated[Path | None, typer.Argument(help="After verify: the bundle to check.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder, or file ending in .tar.zst, to write.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default as its source.")] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Serve the teacher too, to compare.")] = False,
    synthesis: Annotated[bool, typer.Option("--synthesis", help="Serve the form that takes ws too, to edit.")] = False,
    directions: Annotated[
        Path | None, typer.Option(help="Serve edits along the directions in w of this safetensors file.")
    ] = None,
    engine: Annotated[list[Path] | None, typer.Option(help="A TensorRT engine of the same ONNX file to add.")] = None,
    max_batch: Annotated[int, typer.Option(help="Largest batch that is served.")] = 8,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make what an inference service loads, or check it.

    `bundle verify BUNDLE` compares every file with the manifest, without a network; exit code 3 names the file that was
    altered, lost or added.

    Example: dcp-deploy bundle build/demo -o demo-bundle --teacher

    Example: dcp-deploy bundle verify demo-bundle
    """
    output = Output(as_json=as_json, quiet=quiet)
    if source == "verify":
        if packed is None or out is not None:
            raise UsageError("bundle verify takes one bundle and nothing else", "dcp-deploy bundle verify FOLDER")
        _check(output, packed)
        return
    if packed is not None or out is None:
        raise UsageError("bundle needs one source and --out", "dcp-deploy bundle build/demo --out demo")
    from ..export.bundle.writer import write_bundle
    from ..shipping.contents import contents_of

    with output.task("bundle"), tempfile.TemporaryDirectory() as scratch:
        contents = contents_of(
            Path(source),
            name=name,
            teacher=teacher,
            synthesis=synthesis,
            directions=directions,
            engines=engine or (),
            scratch=Path(scratch),
        )
        manifest = write_bundle(contents, out, max_batch=max_batch)
    settings = write_settings(context, out)
    facts = {key: value for key, value in manifest.items() if key not in ("schema", "files", "provenance")}
    output.result({"path": str(out), "settings": str(settings), **facts}, str(out))


def _check(output: Output, path: Path) -> None:
    from ..export.runners.bundle import bundle_facts

    facts = bundle_facts(path)
    words = f"{path}: all {facts['file_count']} files are as {facts['name']} was made; manifest {facts['sha256']}"
    output.result({"path": str(path), **{key: value for key, value in facts.items() if key != "schema"}}, words)


@verb
def serve(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that dcp-deploy bundle made.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="For HTTP; gRPC and metrics take the next two.")] = 8000,
    server: Annotated[
        Path | None,
        typer.Option(
            envvar=TRITON_VARIABLE, help="A tritonserver program, or an environment that has nvidia-pytriton."
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a bundle on this machine with NVIDIA's Triton server until Ctrl-C or SIGTERM.

    Requests in flight are finished first. Without a server here it says how to get one.

    Example: dcp-deploy serve demo-bundle --port 8000
    """
    from ..export.serving.server import find_program, running_server

    output = Output(as_json=as_json, quiet=quiet)
    if not 1 <= port <= 65533:
        raise UsageError(f"port {port} leaves no three ports", "give one from 1 to 65533")
    program = find_program(server)
    begun = False
    try:
        with running_server(path, program, host=host, ports=(port, port + 1, port + 2)) as running:
            begun = True
            if program.config == "python":
                output.message(
                    f"on the CPU, by {program.path}; with a GPU or without, the full server: {_docker(path)}"
                )
            if not program.pictures:
                output.message("pictures of seeds are not served: the server's Python lacks Pillow; pip install pillow")
            addresses = {"http": running.http, "grpc": f"grpc://{running.grpc}", "metrics": running.metrics}
            shown = ", ".join(addresses.values())
            output.result({**addresses, "process": running.process.pid}, f"serving {path} at {shown}; Ctrl-C ends it")
            raise DcpDeployError(running.wait(), "its log says why")
    except KeyboardInterrupt:
        if not begun:
            raise
        output.message("stopped")


def _docker(path: Path) -> str:
    from ..export.bundle.kubernetes import TRITON_IMAGE

    return (
        f"docker run --rm --gpus all --shm-size 1g -p 127.0.0.1:8000:8000 -v {path.absolute() / 'models'}:/models:ro "
        f"{TRITON_IMAGE} tritonserver --model-repository=/models"
    )


def verify_server(
    a: str, b: str, output: Output, *, model: str, clients: int, requests: int
) -> tuple[EndpointReport, Any, str]:
    """Compare a bundle's golden images with a server. (the report, and what to show of it)"""
    from ..export.bundle.writer import read_golden
    from ..export.serving.endpoint import is_address
    from ..export.serving.endpoint_check import check_endpoint
    from .tables import checks_table

    address, bundle = (a, b) if is_address(a) else (b, a)
    if is_address(bundle):
        raise UsageError("two servers cannot be compared", "dcp-deploy verify BUNDLE http://HOST:PORT")
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
    return report, checks_table(report.alone), words
