"""The graph with our CPU operators, in both runtimes that support them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from dcp_deploy.errors import CorruptFileError, MissingCapabilityError, UsageError
from dcp_deploy.export import WinogradFiles, export_onnx, load_form, load_runner, verify, write_winograd
from dcp_deploy.export.fused.stylegan2 import polyphase_weight
from dcp_deploy.export.graph import file, winograd
from dcp_deploy.export.graph.winograd import CPU_DOMAIN, with_cpu_operators
from dcp_deploy.export.onnx.precision import measure_ranges
from dcp_deploy.export.onnx.quantization import quantize
from dcp_deploy.export.runners.loading import Backend
from dcp_deploy.files import find_compiler
from dcp_deploy.kernels.cpu import library

from ..conftest import integer_kernels, random_generator

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(params=["onnxruntime-winograd", "openvino-winograd"])
def backend(request: pytest.FixtureRequest) -> Backend:
    pytest.importorskip(request.param.split("-")[0], reason="the extra is not installed")
    name: Backend = request.param
    return name


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A small generator of uneven widths as a file, exported once for each combination of options.

    A file that takes ws has its weights in a file beside it.
    """
    folder = tmp_path_factory.mktemp("exported")

    def export(**options: Any) -> Path:
        path = folder / f"{'-'.join(f'{key}-{value}' for key, value in options.items()) or 'plain'}.onnx"
        with pytest.MonkeyPatch.context() as patch:
            if "inputs" in options:
                patch.setattr(file, "MOST_INSIDE", 1000)
            return path if path.is_file() else export_onnx(RAGGED, path, image="float", **options)

    return export


RAGGED = random_generator((21, 7, 33, 18))


@pytest.mark.parametrize("name", ["float_onnx", "uint8_onnx"])  # transposed; polyphase, conditional, clamped
def test_a_file_passes_its_gate(name: str, backend: Backend, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    runner = load_runner(path, backend=backend)
    assert runner.backend == backend
    assert verify(load_runner(path), runner, latents=4).passed


def test_ragged_widths_pass_against_the_readable_network(backend: Backend, exported: Callable[..., Path]) -> None:
    assert verify(load_runner(RAGGED), load_runner(exported(), backend=backend), latents=4).passed


def test_both_up_sampling_methods_give_the_same_images(backend: Backend, exported: Callable[..., Path]) -> None:
    z = np.random.default_rng(0).standard_normal((2, RAGGED.config.z_dim)).astype(np.float32)
    paths = exported(), exported(upsample="polyphase")
    images = [load_runner(path, backend=backend)(z=z) for path in paths]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-4)  # float32 through some layers


@pytest.mark.parametrize("noise", ["none", "input"])
def test_a_file_that_takes_ws_and_has_weights_beside_it_gives_the_same_images(
    noise: str, backend: Backend, exported: Callable[..., Path]
) -> None:
    path = exported(inputs="ws", noise=noise)
    plain, ours = load_form(path), load_form(path, backend=backend)
    arrays = {"ws": np.random.default_rng(0).standard_normal((2, 4, 16)).astype(np.float32)}
    arrays |= ours.noise(seed=1, batch=2)
    np.testing.assert_allclose(ours(arrays), plain(arrays), rtol=0, atol=1e-4)


def test_any_number_of_threads_gives_the_same_images(backend: Backend, float_onnx: Path) -> None:
    runner = load_runner(float_onnx, backend=backend, threads=1)
    z = np.random.default_rng(0).standard_normal((3, runner.z_dim)).astype(np.float32)
    np.testing.assert_allclose(runner(z=z), load_runner(float_onnx, backend=backend)(z=z), rtol=0, atol=1e-5)


def test_onnxruntime_alone_runs_the_written_files(float_onnx: Path, tmp_path: Path) -> None:
    """In a process that does not import dcp-deploy or torch."""
    pytest.importorskip("onnxruntime", reason="the extra is not installed")
    files = write_winograd(float_onnx, tmp_path, threads=1)
    assert files == WinogradFiles(tmp_path / "float.winograd.onnx", tmp_path / "dcp_deploy_cpu.so")
    z = np.random.default_rng(0).standard_normal((2, load_runner(float_onnx).z_dim)).astype(np.float32)
    np.save(tmp_path / "z.npy", z)
    script = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "options = ort.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[2])\n"
        "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])\n"
        "z = np.load('z.npy')\n"
        "np.save('image.npy', session.run(['image'], {'z': z, 'psi': np.ones(len(z), np.float32)})[0])\n"
        "assert 'dcp_deploy' not in sys.modules and 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(files.model), str(files.library)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), load_runner(float_onnx)(z=z), rtol=0, atol=1e-4)


def test_no_convolution_and_no_unused_weight_is_left(float_onnx: Path) -> None:
    model = with_cpu_operators(onnx.load(float_onnx), lanes=16)
    counted = Counter(node.op_type for node in model.graph.node)
    ours = {node.op_type for node in model.graph.node if node.domain == CPU_DOMAIN}
    assert ours == {"ModulatedConv", "ToRGB"}
    assert counted["ModulatedConv"] == 7 and counted["ToRGB"] == 4  # of a 32 px network
    assert not {"Conv", "ConvTranspose"} & counted.keys()
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_folded_filters_are_recovered() -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folded = polyphase_weight(weight).float().numpy()
    found = winograd._unfolded(folded)
    # Folded values were rounded to float32: 6e-8 of values up to about 4, times the norm of the inverse, below 2.
    np.testing.assert_allclose(found, weight.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_refused(precision: str, backend: Backend, exported: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=r"b\d+\.conv\d.* is not stored in float32"):
        load_runner(exported(precision=precision), backend=backend)


def test_int8_is_refused(backend: Backend, exported: Callable[..., Path], tmp_path: Path) -> None:
    """Its convolutions read a weight that is computed and not a constant."""
    table = measure_ranges(RAGGED, latents=1, psis=[1.0])
    kernels = integer_kernels(RAGGED, table)
    onnx.save(quantize(onnx.load(exported()), table, kernels, kernels), tmp_path / "int8.onnx")
    with pytest.raises(UsageError, match=r"b\d+\.conv\d.* is not stored in float32"):
        load_runner(tmp_path / "int8.onnx", backend=backend)


def test_a_stylegan3_is_refused(backend: Backend, translating_onnx: Path) -> None:
    with pytest.raises(UsageError, match="none of StyleGAN2's layers"):
        load_runner(translating_onnx, backend=backend)


def test_without_a_compiler_the_error_says_so(
    backend: Backend, float_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.cpu_operators.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingCapabilityError, match=r"no C\+\+ compiler"):
        load_runner(float_onnx, backend=backend)


def test_a_damaged_file_is_reported_as_corrupt(backend: Backend, float_onnx: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(float_onnx.read_bytes()[:3000])
    with pytest.raises(CorruptFileError, match=r"bad\.onnx"):
        load_runner(bad, backend=backend)
