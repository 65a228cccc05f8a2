from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.errors import CorruptFileError, InputError, MissingCapabilityError, UnknownFormatError, UsageError
from dcp_deploy.export import classes_of, latents_of, load_runner, verify
from dcp_deploy.export.graph.inlining import fix_batch, inlined
from dcp_deploy.generators import Generator

SEEDS = range(5)


def test_all_backends_give_the_same_images(unconditional: Generator, float_onnx: Path) -> None:
    z = latents_of(SEEDS, 24)
    runners = [load_runner(unconditional), load_runner(unconditional, backend="fused"), load_runner(float_onnx)]
    assert [runner.backend for runner in runners] == ["torch", "fused", "onnxruntime"]
    first, *others = (runner(z=z, psi=0.7) for runner in runners)
    for images in others:
        assert np.abs(images - first).max() < 1e-5  # float32, another order of summation


def test_a_runner_describes_its_images(conditional: Generator, uint8_onnx: Path) -> None:
    for runner, image in ((load_runner(conditional), "float"), (load_runner(uint8_onnx), "uint8")):
        assert (runner.z_dim, runner.c_dim, runner.image_size, runner.image) == (24, 3, (32, 32), image)


def test_a_checkpoint_is_recognised_by_content_not_by_name(unconditional: Generator, tmp_path: Path) -> None:
    save_generator(unconditional, tmp_path / "model.onnx")
    runner = load_runner(tmp_path / "model.onnx")
    assert runner.backend == "torch"
    z = latents_of(SEEDS, 24)
    assert np.array_equal(runner(z=z), load_runner(unconditional)(z=z))


def test_an_onnx_file_is_recognised_by_content_not_by_name(float_onnx: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.engine"
    copy.write_bytes(float_onnx.read_bytes())
    assert load_runner(copy).backend == "onnxruntime"


def test_batch_of_zero_gives_an_empty_array(unconditional: Generator, uint8_onnx: Path) -> None:
    z = np.zeros((0, 24), np.float32)
    assert load_runner(unconditional)(z=z).shape == (0, 3, 32, 32)
    empty = load_runner(uint8_onnx)(z=z, psi=0.5, c=np.zeros((0, 3)))
    assert empty.shape == (0, 32, 32, 3)
    assert empty.dtype == np.uint8


def test_psi_is_a_number_or_one_per_row(float_onnx: Path) -> None:
    runner, z = load_runner(float_onnx, threads=1), latents_of(SEEDS, 24)
    assert np.array_equal(runner(z=z, psi=0.5), runner(z=z, psi=np.full(5, 0.5)))
    assert not np.array_equal(runner(z=z, psi=0.5), runner(z=z))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"z": np.zeros((2, 23))}, r"z has shape \[2, 23\], expected \[B, 24\]"),
        ({"z": np.zeros(24)}, r"z has shape \[24\]"),
        ({"z": np.zeros((2, 24), np.int64)}, "z is an array of int64"),
        ({"z": np.full((2, 24), np.nan)}, "z holds 48 values that are not finite"),
        ({"z": np.full((2, 24), 1e39)}, "z holds 48 values that are not finite in float32"),
        ({"z": np.zeros((2, 24)), "psi": np.zeros(3)}, r"psi has shape \[3\], expected \[2\]"),
        ({"z": np.zeros((2, 24)), "psi": float("inf")}, "psi holds 2 values"),
        ({"z": np.zeros((2, 24)), "c": np.zeros((2, 3))}, "not class-conditional"),
    ],
)
def test_wrong_inputs_are_refused(inputs: dict[str, np.ndarray], words: str, unconditional: Generator) -> None:
    with pytest.raises(UsageError, match=words):
        load_runner(unconditional)(**inputs)


def test_a_conditional_model_needs_its_class(uint8_onnx: Path) -> None:
    with pytest.raises(UsageError, match="class-conditional"):
        load_runner(uint8_onnx)(z=np.zeros((1, 24)))
    with pytest.raises(UsageError, match=r"c has shape \[1, 2\]"):
        load_runner(uint8_onnx)(z=np.zeros((1, 24)), c=np.zeros((1, 2)))


def test_missing_onnxruntime_names_the_install_line(float_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingCapabilityError, match=r"pip install 'dcp-deploy\[cpu\]'"):
        load_runner(float_onnx)


@pytest.mark.parametrize("magic", [b"ptrt", b"ftrt", b"vtrt"])
def test_an_engine_without_a_gpu_is_refused_with_the_reason(
    magic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "x.onnx").write_bytes(magic + bytes(100))
    with pytest.raises(MissingCapabilityError, match="needs an NVIDIA GPU"):
        load_runner(tmp_path / "x.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing here\.onnx: No such file"):
        load_runner(tmp_path / "nothing here.onnx")


def test_an_empty_file_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").touch()
    with pytest.raises(CorruptFileError, match="is empty"):
        load_runner(tmp_path / "x.onnx")


def test_a_truncated_onnx_file_is_corrupt(float_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(float_onnx.read_bytes()[:5000])
    with pytest.raises(CorruptFileError, match="cannot load"):
        load_runner(tmp_path / "x.onnx")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"GIF89a and more")
    with pytest.raises(UnknownFormatError):
        load_runner(tmp_path / "x.onnx")


def test_a_foreign_onnx_file_is_refused_with_every_difference(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    value = helper.make_tensor_value_info
    inputs = [value("z", kind, [1, 24]), value("noise", kind, ["batch", 24])]
    graph = helper.make_graph(
        [helper.make_node("Add", ["z", "noise"], ["image"])], "g", inputs, [value("image", kind, ["batch", 24])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "x.onnx")
    with pytest.raises(InputError) as caught:
        load_runner(tmp_path / "x.onnx")
    for words in ("'psi' is missing", "'noise' is not known", "output 'image' is tensor(float)"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "words"), [("tensorflow", "Choose one of: auto, torch"), ("onnxruntime", "Export it to ONNX first")]
)
def test_a_wrong_backend_for_a_generator_is_refused(backend: str, words: str, unconditional: Generator) -> None:
    with pytest.raises(UsageError, match=words):
        load_runner(unconditional, backend=backend)  # type: ignore[arg-type]


def test_torch_cannot_run_onnx(float_onnx: Path) -> None:
    with pytest.raises(UsageError, match="cannot run the ONNX file"):
        load_runner(float_onnx, backend="torch")


def test_cuda_needs_the_gpu_runtime(float_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingCapabilityError, match=r"needs a GPU and onnxruntime-gpu[\s\S]*dcp-deploy\[gpu\]"):
        load_runner(float_onnx, backend="onnxruntime-cuda")


def test_a_cuda_provider_that_does_not_start_is_an_error(float_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    started = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: started(path, options))
    with pytest.raises(MissingCapabilityError, match="could not start its CUDA provider"):
        load_runner(float_onnx, backend="onnxruntime-cuda")


@pytest.mark.gpu
def test_onnxruntime_gives_the_same_images_on_a_gpu(unconditional: Generator, float_onnx: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the onnxruntime here is the one for CPUs")
    z = latents_of(SEEDS, 24)
    images = load_runner(float_onnx, backend="onnxruntime-cuda")(z=z, psi=0.7)
    assert np.abs(images - load_runner(unconditional)(z=z, psi=0.7)).max() < 2e-5  # float32, not TF32


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_torch_computes_on_the_requested_device(backend: str, unconditional: Generator) -> None:
    report = verify(unconditional, load_runner(unconditional, backend=backend, device="cuda"), latents=2)
    assert report.passed
    assert next(unconditional.parameters()).device.type == "cpu"


def test_a_device_is_used_on_a_copy(unconditional: Generator) -> None:
    runner = load_runner(unconditional, device="cpu")
    assert runner.source is not unconditional
    z = latents_of(SEEDS, 24)
    assert np.array_equal(runner(z=z), load_runner(unconditional)(z=z))


def test_unavailable_devices_are_refused(unconditional: Generator) -> None:
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        load_runner(unconditional, device="gpu")
    with pytest.raises(MissingCapabilityError, match=r"device 'cuda:77' cannot be used"):
        load_runner(unconditional, device="cuda:77")


def test_an_onnx_files_metadata_is_read(float_onnx: Path) -> None:
    runner = load_runner(float_onnx)
    assert runner.facts["licence"] == "none needed"
    assert runner.source == float_onnx


def test_an_onnx_file_names_the_batches_it_is_for(float_onnx: Path, tmp_path: Path) -> None:
    assert load_runner(float_onnx).batch is None
    model = onnx.load(float_onnx)
    for words, bounds in (
        ("2,16", (2, 16)),
        ("1,8", (1, 8)),
        ("2", None),
        ("16,2", None),
        ("0,4", None),
        ("many", None),
    ):
        onnx.helper.set_model_props(model, {"batch": words})
        onnx.save(model, tmp_path / "x.onnx")
        if bounds:
            assert load_runner(tmp_path / "x.onnx").batch == bounds
        else:
            with pytest.raises(CorruptFileError, match="is for batches of"):
                load_runner(tmp_path / "x.onnx")


def test_threads_are_set_for_the_call_only(unconditional: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    wanted = before + 1
    during: list[int] = []
    forward = unconditional.forward
    monkeypatch.setattr(
        unconditional, "forward", lambda *a, **kw: (during.append(torch.get_num_threads()), forward(*a, **kw))[1]
    )
    load_runner(unconditional, threads=wanted)(z=latents_of([0], 24))
    assert during == [wanted]
    assert torch.get_num_threads() == before


def test_zero_threads_are_refused(unconditional: Generator) -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        load_runner(unconditional, threads=0)


def test_latents_are_those_of_nvidias_scripts() -> None:
    expected = np.random.RandomState(7).randn(1, 24).astype(np.float32)
    assert np.array_equal(latents_of([3, 7], 24)[1:], expected)


def test_classes_repeat_after_the_last() -> None:
    assert classes_of([0, 4, 5], 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert classes_of([0, 4, 5], 0) is None


def test_inputs_of_different_batches_are_refused(float_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(float_onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="input 'psi' has a batch of batch, another one 2"):
        load_runner(tmp_path / "x.onnx")


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_a_file_with_a_fixed_batch_takes_any_number_of_rows(rows: int, float_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(float_onnx)
    fix_batch(model, 2)
    onnx.save(inlined(model), tmp_path / "two.onnx")
    runner, z = load_runner(tmp_path / "two.onnx"), latents_of(range(rows), 24)
    assert runner.batch == (2, 2)
    assert np.abs(runner(z=z) - load_runner(float_onnx)(z=z)).max() < 1e-5  # other batches, other order of summation
