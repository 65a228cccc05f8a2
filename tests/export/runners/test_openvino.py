"""OpenVINO gives the same images as ONNX Runtime, for every form of a file, and clear errors."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from dcp_deploy.errors import CorruptFileError, InputError, MissingCapabilityError, UsageError
from dcp_deploy.export import classes_of, export_onnx, latents_of, load_form, load_runner, tolerance_for, verify
from dcp_deploy.export.graph import file
from dcp_deploy.export.onnx.precision import measure_ranges
from dcp_deploy.export.onnx.quantization import quantize
from dcp_deploy.export.parity.layer_values import layer_values
from dcp_deploy.export.runners.openvino import _computed_in
from dcp_deploy.generators import Generator

from ..conftest import integer_kernels, random_generator

pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

SEEDS = range(3)


def small_generator(*widths: int) -> Generator:
    """Return a generator whose images do not leave [-1, 1]. Exporting it takes a few seconds."""
    generator = random_generator(widths)
    for _, torgb in generator.synthesis.torgbs():
        torgb.weight.data.mul_(0.2)
    return generator


@pytest.mark.parametrize("name", ["float_onnx", "uint8_onnx", "translating_onnx", "rotating_onnx"])
def test_files_of_both_networks_pass_the_gate_of_float32(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    runner = load_runner(path, backend="openvino")
    assert runner.backend == "openvino"
    assert verify(load_runner(path), runner, latents=4).passed


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_files_of_other_precisions_pass_their_gate(precision: str, tmp_path: Path) -> None:
    generator = small_generator(12, 12, 8, 8)
    path = export_onnx(generator, tmp_path / "x.onnx", image="float", precision=precision)  # type: ignore[arg-type]
    runners = load_runner(generator), load_runner(path, backend="openvino")
    assert runners[1].facts["precision"].startswith(precision)
    report = verify(*runners, latents=4, tolerance=tolerance_for(precision))
    assert report.passed, report


def test_the_synthesis_form_with_external_weights_gives_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MOST_INSIDE", 1000)
    path = export_onnx(random_generator((6, 5, 4, 3)), tmp_path / "x.onnx", inputs="ws", noise="input", image="float")
    theirs, ours = load_form(path), load_form(path, backend="openvino")
    arrays = {"ws": np.random.default_rng(0).standard_normal((2, 4, 16)).astype(np.float32)}
    arrays |= ours.noise(seed=1, batch=2)
    assert ours.inputs == theirs.inputs
    assert np.abs(ours(arrays) - theirs(arrays)).max() < 1e-5  # float32, another order of summation


def test_a_row_is_the_same_in_every_batch(uint8_onnx: Path) -> None:
    runner = load_runner(uint8_onnx, backend="openvino", threads=1)
    z, c = latents_of(SEEDS, 24), classes_of(SEEDS, 3)
    together = runner(z=z, psi=0.7, c=c)
    assert c is not None
    alone = np.concatenate([runner(z=z[i : i + 1], psi=0.7, c=c[i : i + 1]) for i in SEEDS])
    assert np.abs(together.astype(int) - alone).max() <= 1  # truncation turns a rounding difference into a step
    assert np.array_equal(runner(z=z, psi=0.7, c=c), together)


def test_threads_that_call_at_once_get_their_own_images(float_onnx: Path) -> None:
    runner, z = load_runner(float_onnx, backend="openvino"), latents_of(range(8), 24)
    alone = [runner(z=z[i : i + 1]) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: runner(z=z[i : i + 1]), range(8)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_sums_of_integer_convolutions_are_not_rounded_again(tmp_path: Path) -> None:
    generator = small_generator(*[16] * 6)
    exact = export_onnx(generator, tmp_path / "exact.onnx", image="float")
    model, ranges = onnx.load(exact), measure_ranges(generator, latents=2)
    kernels = integer_kernels(generator, ranges)
    onnx.save(quantize(model, ranges, kernels, kernels), tmp_path / "int8.onnx")
    z = latents_of(SEEDS, 12)
    reference = load_runner(exact)(z=z)
    errors = {
        backend: np.square(load_runner(tmp_path / "int8.onnx", backend=backend)(z=z) - reference).mean()  # type: ignore[arg-type]
        for backend in ("onnxruntime", "openvino")
    }
    assert 0 < errors["openvino"] < 0.9 * errors["onnxruntime"]  # one to two decibels


@pytest.mark.parametrize(
    ("precision", "has", "expected"),
    [("bf16", ["FP32", "BF16"], "bf16"), ("int8", ["FP32", "BF16"], "bf16"), ("int8", ["FP32", "INT8"], "f32"),
     ("bf16", ["FP32"], "f32"), ("fp16", ["FP32", "BF16"], "f32"), (None, ["FP32", "BF16"], "f32")],
)  # fmt: skip
def test_what_is_not_int8_is_in_bfloat16_where_the_processor_has_it(precision, has, expected) -> None:
    core = SimpleNamespace(get_property=lambda device, name: has if name == "OPTIMIZATION_CAPABILITIES" else None)
    assert _computed_in(core, precision) == expected


def test_its_layers_cannot_be_inspected(float_onnx: Path) -> None:
    with pytest.raises(UsageError, match="does not show its layers"):
        layer_values(load_runner(float_onnx, backend="openvino"), latents_of([0], 24), np.ones(1, np.float32), None)


def test_a_batch_that_does_not_fit_is_named(float_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(float_onnx)
    last = next(node for node in model.graph.node if "image" in node.output)
    last.output[0] = "one"
    model.graph.node.append(onnx.helper.make_node("Add", ["one", "five"], ["image"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((5, 1, 1, 1), np.float32), "five"))
    onnx.save(model, tmp_path / "x.onnx")
    runner = load_runner(tmp_path / "x.onnx", backend="openvino")
    with pytest.raises(InputError, match=r"openvino cannot run .*x\.onnx on a batch of 2: "):
        runner(z=latents_of(range(2), 24))


def test_a_truncated_file_is_corrupt(float_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(float_onnx.read_bytes()[:5000])
    with pytest.raises(CorruptFileError, match=r"openvino cannot load .*x\.onnx"):
        load_runner(tmp_path / "x.onnx", backend="openvino")


def test_a_missing_openvino_names_the_install_line(float_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingCapabilityError, match="openvino, which is not installed") as caught:
        load_runner(float_onnx, backend="openvino")
    assert "dcp-deploy[openvino]" in str(caught.value.remedy)


def test_signal_handlers_run_after_two_sessions_were_released(float_onnx: Path) -> None:
    """Run in a process of its own, which used to end with a segmentation fault (see the module's docstring)."""
    script = """
import signal, sys
from pathlib import Path
from dcp_deploy.export import latents_of, load_runner
first, second = (load_runner(Path(sys.argv[1]), backend="openvino") for _ in range(2))
for runner in (first, second):
    runner(latents_of([0], 24), 1.0)
del runner, first
del second
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script, float_onnx], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
