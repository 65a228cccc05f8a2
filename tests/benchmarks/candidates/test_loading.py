"""Candidates of specs on this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcp_deploy.benchmarks.candidates import loading
from dcp_deploy.benchmarks.candidates.candidate import fixed_inputs
from dcp_deploy.benchmarks.candidates.loading import file_bytes, open_candidate
from dcp_deploy.benchmarks.candidates.matrix import Spec
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.export import load_runner
from dcp_deploy.generators import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("loading") / "s.safetensors"
    save_generator(Generator(GeneratorConfig(resolution=4, z_dim=4, w_dim=4, mapping_layers=1, widths=(2,) * 2)), path)
    return path


def test_a_checkpoint_generates_its_batch_and_knows_its_work(checkpoint):
    candidate = open_candidate(Spec("student", str(checkpoint), "torch", threads=1, batch=3))
    assert candidate().shape == (3, 3, 4, 4)
    assert (candidate.file_bytes, candidate.file) == (checkpoint.stat().st_size, checkpoint.name)
    assert candidate.work is not None and candidate.phases is None


def test_an_onnx_file_has_its_precision_and_counts_its_weights(small_onnx, tmp_path):
    file = small_onnx(tmp_path / "s.onnx", precision="fp16")
    candidate = open_candidate(Spec("student", str(file), "onnxruntime", threads=1))
    assert (candidate.precision, candidate.threads) == ("fp16", 1)
    assert candidate.file_bytes == sum(part.stat().st_size for part in tmp_path.iterdir())
    assert candidate.work is not None


def test_every_backend_gets_the_same_latents(small_onnx, checkpoint, tmp_path):
    file = small_onnx(tmp_path / "s.onnx")
    readable, exported = (
        open_candidate(Spec("student", str(path), backend, batch=2, seed=4))()
        for path, backend in ((checkpoint, "torch"), (file, "onnxruntime"))
    )
    runner = load_runner(checkpoint)
    z = np.random.default_rng(4).standard_normal((2, runner.z_dim)).astype(np.float32)
    np.testing.assert_array_equal(readable, runner(z=z))
    z = np.random.default_rng(4).standard_normal((2, 6)).astype(np.float32)
    np.testing.assert_allclose(exported[:, 0, 0, 0], z.sum(axis=1), rtol=1e-5)


def test_torch_compile_has_compiled_before_it_is_timed(checkpoint, monkeypatch):
    """Compiling takes minutes and is torch's to test, so the compiled network here is the network itself."""
    calls = []

    def compiled(generator, **settings):
        calls.append(settings)
        generator._compiled_call_impl = lambda *args, **kwargs: (
            calls.append("call") or generator.forward(*args, **kwargs)
        )

    monkeypatch.setattr(loading, "find_compiler", lambda: "g++")
    monkeypatch.setattr(Generator, "compile", compiled)
    eager, candidate = (
        open_candidate(Spec("student", str(checkpoint), backend, batch=2)) for backend in ("torch", "torch-compile")
    )
    assert calls == [{"dynamic": False}, "call"]
    assert (candidate() == eager()).all() and calls[2:] == ["call"]


def test_a_failing_compiler_is_a_missing_capability(checkpoint, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no such register\nand so on")

    monkeypatch.setattr(loading, "find_compiler", lambda: "g++")
    monkeypatch.setattr(Generator, "compile", lambda generator, **_: setattr(generator, "_compiled_call_impl", broken))
    with pytest.raises(MissingCapabilityError, match=r"torch\.compile failed") as raised:
        open_candidate(Spec("student", str(checkpoint), "torch-compile"))
    assert raised.value.message == "torch.compile failed: no such register"


def test_torch_compile_without_a_compiler_is_a_missing_capability(checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "find_compiler", lambda: None)
    with pytest.raises(MissingCapabilityError, match=r"needs a C\+\+ compiler"):
        open_candidate(Spec("student", str(checkpoint), "torch-compile"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests a machine without a GPU")
@pytest.mark.parametrize("backend", ["torch-cuda", "torch-compile-cuda", "cuda-fp16", "tensorrt", "onnxruntime-cuda"])
def test_gpu_backends_need_a_gpu(checkpoint, backend):
    with pytest.raises(MissingCapabilityError, match="needs an NVIDIA GPU"):
        open_candidate(Spec("student", str(checkpoint), backend))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch-cuda", "cuda-fp32", "cuda-fp16", "cuda-fp16-launches"])
def test_a_gpu_times_its_phases(checkpoint, backend):
    candidate = open_candidate(Spec("student", str(checkpoint), backend, batch=2))
    assert candidate().shape[0] == 2
    assert candidate.phases is not None and candidate.phases().compute_ms > 0


def test_fixed_inputs_use_the_classes_in_turn():
    _, psi, c = fixed_inputs(4, 2, 3, seed=0)
    assert c.tolist() == [[1, 0], [0, 1], [1, 0]] and psi.tolist() == [1, 1, 1]


def test_file_bytes_include_the_weights_beside_a_file(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"123")
    (tmp_path / "a.onnx.data").write_bytes(b"4567")
    assert file_bytes(tmp_path / "a.onnx") == 7
    assert file_bytes(tmp_path) == 7
