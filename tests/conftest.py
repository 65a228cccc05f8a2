"""Settings and fixtures that all tests share."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from dcp_deploy.teachers.pace import Patience

from .file_server import FileServer

if TYPE_CHECKING:  # what needs no torch is tested without it too: make pythons
    from dcp_deploy.generators import Generator, GeneratorConfig

HASTE = Patience(connect=1, stall=0.15, attempts=3, pause=0.01)  # with a server on this machine

DATA = Path(__file__).parent / "data"

# A slow machine does not fail a test. In CI the examples are the same every time, so that a failure can be repeated.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# One thread everywhere, in processes that tests start too: workers do not fight for cores, and sums are split the same
# way on every machine, so tolerances mean the same. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes after their argument: archives carry the time, and every worker must collect the same tests."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpus:
        import torch

        if not torch.cuda.is_available():
            for item in for_gpus:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Read a golden file, ``golden("sg2ada_32")``: weights ("sd/<key>"), latents and images of a reference network."""

    def load(name: str) -> Mapping[str, np.ndarray]:
        with np.load(DATA / "golden" / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture(scope="session")
def golden_generator(golden: Callable[[str], Mapping[str, np.ndarray]]) -> Callable[[str], Generator]:
    """Build the StyleGAN2 or StyleGAN3 of a golden file: ``golden_generator("sg2ada_32")``."""

    import torch

    from dcp_deploy.generators import Generator

    def build(name: str) -> Generator:
        arrays = golden(name)
        record = json.loads(str(arrays["config"]))
        config = _golden_stylegan3(record) if "layers" in record else _golden_stylegan2(record)
        # NVIDIA's names of StyleGAN3 layers end in their size and width.
        state = {
            re.sub(r"(?<=synthesis\.)(L\d+)_\d+_\d+", r"\1", key[3:]): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith("sd/") and not key.endswith("resample_filter")
        }
        generator = Generator(config)
        generator.load_state_dict(state)
        return generator.eval().requires_grad_(False)

    return build


def _golden_stylegan2(record: Mapping[str, Any]) -> GeneratorConfig:
    from dcp_deploy.generators import GeneratorConfig

    blocks = sorted(record["blocks"].items(), key=lambda item: int(item[0]))
    return GeneratorConfig(
        resolution=record["img_resolution"],
        widths=tuple(block["out_ch"] for _, block in blocks for _ in range(2)),
        conv_clamp=blocks[0][1]["conv_clamp"],
        **{name: record[name] for name in ("z_dim", "w_dim", "c_dim", "mapping_layers")},
    )


def _golden_stylegan3(record: Mapping[str, Any]) -> GeneratorConfig:
    from dcp_deploy.generators import GeneratorConfig, StyleGAN3Layout

    first = record["layers"][0]
    return GeneratorConfig(
        resolution=record["img_resolution"],
        widths=tuple(layer["in_ch"] for layer in record["layers"]),
        conv_clamp=first["clamp"],
        kind="stylegan3",
        layout=StyleGAN3Layout(record["input"]["channels"], conv_kernel=first["kernel"], radial=first["radial"]),
        **{name: record[name] for name in ("z_dim", "w_dim", "c_dim", "mapping_layers")},
    )


@pytest.fixture
def tiny_generator() -> Generator:
    """Return a 32 px generator, the same on every call, with uneven widths.

    A fresh network has zero biases, noise strengths and mean code. Those zeros would hide a mistake: they are random.
    """
    import torch

    from dcp_deploy.generators import Generator, GeneratorConfig

    config = GeneratorConfig(resolution=32, z_dim=16, w_dim=16, mapping_layers=2, widths=(12, 12, 12, 10, 10, 8, 8, 8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(config).eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.endswith((".bias", ".noise_strength", ".w_avg")):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return generator


@pytest.fixture(scope="session")
def small_onnx() -> Callable[..., Path]:
    """Write an ONNX file with a generator's interface, z [B, 6] to images of 8 px: image = sum(z) psi.

    Its metadata names ``precision``, and its weights lie beside it. Tracing a real network would take much longer.
    """
    from onnx import TensorProto, helper, numpy_helper, save_model

    def write(path: Path, *, precision: str = "fp32") -> Path:
        weights = [
            numpy_helper.from_array(np.ones((6, 3 * 8 * 8), np.float32), "W"),
            numpy_helper.from_array(np.array([-1, 1, 1, 1]), "column"),
            numpy_helper.from_array(np.array([-1, 3, 8, 8]), "shape"),
        ]
        nodes = [
            helper.make_node("MatMul", ["z", "W"], ["flat"]),
            helper.make_node("Reshape", ["flat", "shape"], ["square"]),
            helper.make_node("Reshape", ["psi", "column"], ["scale"]),
            helper.make_node("Mul", ["square", "scale"], ["image"]),
        ]
        z, psi, image = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *rest])
            for name, rest in (("z", [6]), ("psi", []), ("image", [3, 8, 8]))
        )
        graph = helper.make_graph(nodes, "student", [z, psi], [image], weights)
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
        helper.set_model_props(model, {"precision": precision})
        save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
        return path

    return write


# ---- files on servers ----


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # whatever this machine's network is like
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def secure_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The same over TLS, with a certificate that nobody trusts unless ``SSL_CERT_FILE`` names it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FileServer(DATA / "tls" / "localhost.pem")
    yield server
    server.close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host has an address."""

    def unknown(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or fills the cache of the person who runs it; the folder does not exist yet."""
    folder = tmp_path_factory.getbasetemp() / "cache" / os.urandom(4).hex()
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(folder))
    return folder


@pytest.fixture
def no_metrics_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra 'metrics' is not installed."""

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("dcp_deploy.metrics.published.import_module", absent)


@pytest.fixture(scope="session")
def runtime_cache(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cache folder with ONNX Runtime Web, kept between runs of the tests."""
    from dcp_deploy.errors import MissingCapabilityError
    from dcp_deploy.export.bundle.web.runtime import fetched_package

    cache = Path(request.config.cache.mkdir("web"))  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DCP_DEPLOY_CACHE", str(cache))
        try:
            fetched_package()
        except MissingCapabilityError as error:
            pytest.skip(f"no ONNX Runtime Web: {error.message}")
        yield cache
