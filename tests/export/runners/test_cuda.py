"""Our CUDA path: on a CPU the network, with the kernels' references; on a GPU the graphs and the runner."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.export import latents_of, load_runner
from dcp_deploy.export.fused.cuda import CudaGenerator
from dcp_deploy.export.fused.generator import to_uint8
from dcp_deploy.export.fused.stylegan2 import Upsample
from dcp_deploy.export.runners.cuda import CapturedGenerator, cuda_runner, method_times
from dcp_deploy.generators import Generator

from ..conftest import random_generator, random_stylegan3

WIDTHS = (12, 12, 16, 9, 8, 8)  # 16 px; not all of them whole 16 bytes


def drawn(generator: Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return z, psi, c and the readable network's images."""
    random = torch.Generator().manual_seed(batch)
    z, psi = torch.randn(batch, generator.config.z_dim, generator=random), torch.linspace(0.3, 1.0, batch)
    c_dim = generator.config.c_dim
    c = torch.eye(c_dim)[torch.arange(batch) % c_dim] if c_dim else None
    return z, psi, c, generator(z, c, psi=psi)


@pytest.mark.parametrize(("batch", "base"), [(1, (4, 4)), (5, (4, 4)), (2, (4, 2))])
@pytest.mark.parametrize("method", ["transposed", "polyphase"])
def test_it_equals_the_readable_network_with_either_method(method: Upsample, batch: int, base: tuple[int, int]) -> None:
    generator = random_generator(WIDTHS, c_dim=3, conv_clamp=4.0, base=base)
    z, psi, c, expected = drawn(generator, batch)
    network = CudaGenerator(generator, storage=torch.float32)
    image = network(z, psi, c, dict.fromkeys(("b8.conv0", "b16.conv0"), method))
    torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)  # float32, another order of summation


def test_styles_of_any_size_stay_in_float16() -> None:
    generator = random_generator(WIDTHS, scale=1e4)
    z, psi, _, expected = drawn(generator, 3)
    image = CudaGenerator(generator, storage=torch.float16)(z, psi)
    error = (image - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 3e-3  # six roundings to eleven bits of numbers of similar size


def test_bytes_are_the_float_image_rounded() -> None:
    generator = random_generator(WIDTHS)
    z, psi, _, expected = drawn(generator, 2)
    image = CudaGenerator(generator, storage=torch.float32, image="uint8")(z, psi)
    assert (image.int() - to_uint8(expected).int()).abs().max() <= 1


def test_a_stylegan3_and_an_unknown_precision_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="StyleGAN3"):
        CudaGenerator(random_stylegan3((8, 8, 8, 8)))
    with pytest.raises(UsageError, match="precision is 'int8'"):
        cuda_runner(random_generator(WIDTHS), precision="int8")  # type: ignore[arg-type]


def test_without_a_gpu_the_error_names_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingCapabilityError) as caught:
        load_runner(random_generator(WIDTHS), backend="cuda")
    assert "fused" in caught.value.remedy


# ---- on a GPU ----


@pytest.fixture
def strict_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 3e-2), ("bf16", 2e-1)])
def test_the_runner_gives_the_readable_networks_images(precision: str, tolerance: float, strict_float32: None) -> None:
    """The tolerance is in units of the images' range: float32 sums, storage in eleven and eight bits."""
    generator = random_generator((16, 16, 16, 16, 8, 8), c_dim=3)
    runner = cuda_runner(generator, precision=precision)  # type: ignore[arg-type]
    reference = load_runner(generator)
    for batch in (1, 5, 1):
        z, c = latents_of(range(batch), runner.z_dim), np.eye(3, dtype=np.float32)[np.arange(batch) % 3]
        expected = reference(z=z, psi=0.7, c=c)
        assert np.abs(runner(z=z, psi=0.7, c=c) - expected).max() < tolerance * np.ptp(expected)


@pytest.mark.gpu
def test_threads_get_their_own_images(strict_float32: None) -> None:
    generator = random_generator((16, 16, 16, 16, 8, 8))
    runner = cuda_runner(generator, precision="fp32")
    z = latents_of(range(6), runner.z_dim)
    expected = [runner(z=z[k : k + 1 + k % 2]) for k in range(4)]
    found: dict[int, list[np.ndarray]] = {k: [] for k in range(4)}

    def draw(k: int) -> None:
        for _ in range(20):
            found[k].append(runner(z=z[k : k + 1 + k % 2]))

    threads = [threading.Thread(target=draw, args=(k,)) for k in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, images in found.items():
        assert len(images) == 20
        assert all(np.abs(image - expected[k]).max() < 1e-4 for image in images)  # cuDNN may sum in any order


@pytest.mark.gpu
def test_a_graph_gives_the_images_of_single_calls() -> None:
    generator = random_generator((16, 16, 16, 16, 8, 8))
    network = CudaGenerator(generator, image="uint8").cuda()
    graph = CapturedGenerator(network, 3)
    z, psi = torch.randn(3, 12, device="cuda"), torch.full((3,), 0.6, device="cuda")
    image = graph(z, psi, None)
    with torch.no_grad():
        expected = network(z, psi, None, graph.methods)
    assert (image.int() - expected.int()).abs().max() <= 2  # cuDNN may choose another algorithm, and round elsewhere


@pytest.mark.gpu
def test_both_methods_of_a_layer_are_timed() -> None:
    times = method_times(CudaGenerator(random_generator((16, 16, 16, 16))).cuda(), "b8.conv0", 2)
    assert set(times) == {"transposed", "polyphase"} and min(times.values()) > 0
