from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import psutil
import pytest
import torch

from dcp_deploy.errors import DcpDeployError
from dcp_deploy.export import Engine, Runner, build_engine, export_onnx, load_runner
from dcp_deploy.export.bundle import sizing
from dcp_deploy.export.bundle.writer import write_bundle
from dcp_deploy.export.fused.stylegan2 import Upsample
from dcp_deploy.export.onnx.precision import RangeTable
from dcp_deploy.export.onnx.rounding import IntegerKernel, ranges_and_kernels
from dcp_deploy.export.serving.server import Program, Server, find_program, running_server
from dcp_deploy.export.serving.server import free_ports as unused_ports
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout
from dcp_deploy.shipping.contents import contents_of

from .tensorrt.stub_tensorrt import VERSIONS, Unavailable, stub_tensorrt

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def integer_kernels(
    generator: Generator, ranges: RangeTable, *, upsample: Upsample = "transposed"
) -> dict[str, IntegerKernel]:
    """Return int8 weights from the images that a table was measured on, generated once more."""
    _, kernels = ranges_and_kernels(
        generator, upsample=upsample, latents=ranges.latents, psis=ranges.psis, seed=ranges.seed
    )
    return kernels


def random_generator(widths: tuple[int, ...], *, seed: int = 0, scale: float = 1.0, **config: object) -> Generator:
    """Return a generator whose noise, biases and mean code all matter; ``scale`` multiplies the convs' styles."""
    torch.manual_seed(seed)
    resolution = 2 ** (len(widths) // 2 + 1)
    sizes: dict[str, object] = {"z_dim": 12, "w_dim": 16, "mapping_layers": 2, **config}
    generator = Generator(GeneratorConfig(resolution=resolution, widths=widths, **sizes))  # type: ignore[arg-type]
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.normal_(parameter, 0.3, 0.1)
        elif name.startswith("synthesis") and name.endswith("bias") and "affine" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        elif ".conv" in name and ".affine." in name:
            parameter.data *= scale
    torch.nn.init.normal_(generator.mapping.w_avg)
    return generator.eval().requires_grad_(False)


def random_stylegan3(
    widths: tuple[int, ...], *, seed: int = 0, scale: float = 1.0, radial: bool = False, **config: object
) -> Generator:
    """Return a 32 px StyleGAN3 of few layers in which every parameter matters: 3x3 convolutions, or 1x1 and radial.

    Four layers cover every case: a constant size, a size that grows by up-sampling by four, a critical layer, toRGB.
    """
    torch.manual_seed(seed)
    layout = StyleGAN3Layout(
        fourier_features=7, conv_kernel=1 if radial else 3, radial=radial, num_layers=len(widths) - 1, num_critical=1
    )
    sizes: dict[str, object] = {"z_dim": 12, "w_dim": 16, "mapping_layers": 2, **config}
    generator = Generator(GeneratorConfig(32, widths, kind="stylegan3", layout=layout, **sizes))  # type: ignore[arg-type]
    for name, tensor in generator.state_dict().items():
        if name.startswith("synthesis.L") and name.endswith(".bias") and "affine" not in name:
            tensor.normal_(0.0, 0.3)
        elif name.endswith("magnitude_ema"):
            tensor.uniform_(0.3, 3.0)
        elif name.startswith("synthesis.input.affine"):
            tensor.add_(0.2 * torch.randn_like(tensor))
        elif ".affine." in name and f"L{layout.num_layers}" not in name:
            tensor.mul_(scale)
    torch.nn.init.normal_(generator.mapping.w_avg)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def unconditional(golden_generator: Callable[[str], Generator]) -> Generator:
    return golden_generator("sg2ada_32")


@pytest.fixture(scope="session")
def conditional(golden_generator: Callable[[str], Generator]) -> Generator:
    return golden_generator("sg2ada_32_cond_clamp")


@pytest.fixture(scope="session")
def float_onnx(unconditional: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unconditional golden generator, float output, transposed up-sampling."""
    path = tmp_path_factory.mktemp("onnx") / "float.onnx"
    return export_onnx(unconditional, path, image="float", upsample="transposed", metadata={"licence": "none needed"})


@pytest.fixture(scope="session")
def uint8_onnx(conditional: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class-conditional golden generator, uint8 output, polyphase up-sampling."""
    return export_onnx(conditional, tmp_path_factory.mktemp("onnx") / "uint8.onnx", image="uint8", upsample="polyphase")


@pytest.fixture(scope="session")
def translating() -> Generator:
    """A small StyleGAN3-t."""
    return random_stylegan3((6, 5, 8, 7, 5))


@pytest.fixture(scope="session")
def rotating() -> Generator:
    """A small class-conditional StyleGAN3-r whose clamp clips."""
    return random_stylegan3((6, 5, 8, 7, 5), seed=1, radial=True, c_dim=3, conv_clamp=1.0)


@pytest.fixture(scope="session")
def translating_onnx(translating: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The translating generator with float output."""
    return export_onnx(translating, tmp_path_factory.mktemp("onnx") / "translating.onnx", image="float")


@pytest.fixture(scope="session")
def rotating_onnx(rotating: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rotating generator with uint8 output."""
    return export_onnx(rotating, tmp_path_factory.mktemp("onnx") / "rotating.onnx", image="uint8")


@pytest.fixture(scope="session", params=VERSIONS)
def tensorrt_bindings(request: pytest.FixtureRequest) -> Path:
    """A folder for PYTHONPATH with the real Python bindings of one TensorRT version on top of stub libraries."""
    cache = Path(request.config.cache.mkdir("tensorrt-bindings"))  # type: ignore[union-attr]
    try:
        folder = stub_tensorrt(cache, request.param)
    except Unavailable as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="session")
def engine(uint8_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    return build_engine(
        uint8_onnx, tmp_path_factory.mktemp("engine") / "x.engine", target="sm89, RTX 5090", batch=(1, 4, 16)
    )


@pytest.fixture
def copy(engine: Engine, tmp_path: Path) -> Path:
    """A copy of the engine and its manifest that a test may damage."""
    for suffix in (".engine", ".json"):
        (tmp_path / "x").with_suffix(suffix).write_bytes(engine.path.with_suffix(suffix).read_bytes())
    return tmp_path / "x.engine"


@pytest.fixture
def external_onnx(float_onnx: Path, tmp_path: Path) -> Path:
    """The float file with its weights in a second file."""
    path = tmp_path / "external.onnx"
    model = onnx.load(float_onnx)
    onnx.save(model, path, save_as_external_data=True, location="external.data", size_threshold=64)
    return path


# ---- bundles and a real server ----

TRITON = Path(__file__).parents[2] / ".venv-triton"  # made by make test


@pytest.fixture(scope="session")
def bundle(uint8_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the class-conditional golden generator. Tests must not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "new" / "folder" / "tiny"  # both folders above it are made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizing, "SECONDS", 0.05)
        write_bundle(contents_of(uint8_onnx, name="tiny"), folder, max_batch=8)
    return folder


@pytest.fixture(scope="session")
def local(bundle: Path) -> Runner:
    """The bundle on this machine, without a server."""
    return load_runner(bundle, threads=1)


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.fixture(scope="session")
def triton() -> Program:
    """NVIDIA's server; tests that need it are skipped if it is not installed."""
    try:
        return find_program(TRITON)
    except DcpDeployError as error:
        pytest.skip(f"no Triton server here: {error.message}")


@pytest.fixture(scope="session")
def free_ports() -> Callable[[], tuple[int, int, int]]:
    """A function that returns three unused ports."""
    return unused_ports


def kill_triton(server: Server) -> None:
    """Kill Triton with its models and remove the shared memory that they would leave behind."""
    maps = psutil.Process(server.process.pid).memory_maps()
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    for path in {entry.path for entry in maps if "triton_python_backend" in entry.path}:
        Path(path).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def server(
    bundle: Path,
    triton: Program,
    free_ports: Callable[[], tuple[int, int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The bundle on a running Triton server, which all tests of a worker share."""
    log = tmp_path_factory.mktemp("triton") / "log"
    with running_server(bundle, triton, ports=free_ports(), log=log) as running:
        yield running
        kill_triton(running)  # an orderly shutdown takes seconds; test_server.py tests it
        running.request_filter.kill()
