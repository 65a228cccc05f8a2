"""The synthesis form, and noise as an input: exported files and their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dcp_deploy.errors import InputError, UsageError
from dcp_deploy.export import export_onnx, load_form, load_runner
from dcp_deploy.export.fused.generator import noise_shapes
from dcp_deploy.export.graph import file
from dcp_deploy.export.runners.forms import FormRunner
from dcp_deploy.generators import Generator

from ..conftest import random_generator

TOLERANCE = 1e-5  # of the image's magnitude where that is above 1: float32, another order of summation


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator((6, 5, 4, 3), c_dim=2)


@pytest.fixture(scope="module")
def synthesis_onnx(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ws and noise in, float out, batches of 1 to 8, weights beside the file."""
    path = tmp_path_factory.mktemp("forms") / "synthesis.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "MOST_INSIDE", 1000)
        return export_onnx(generator, path, inputs="ws", noise="input", image="float", batch=(1, 8))


@pytest.fixture(scope="module")
def form(synthesis_onnx: Path) -> FormRunner:
    return load_form(synthesis_onnx)


def ws_of(generator: Generator, batch: int) -> np.ndarray:
    """Return different ws for every slot."""
    shape = (batch, generator.config.num_ws, generator.config.w_dim)
    return np.random.default_rng(batch).standard_normal(shape).astype(np.float32)


def test_a_form_names_its_inputs_and_output(form: FormRunner) -> None:
    noise = {f"noise.{layer}": (1, size, size) for layer, size in (("b4.conv1", 4), ("b8.conv0", 8), ("b8.conv1", 8))}
    assert form.inputs == {"ws": (4, 16), **noise}
    assert (form.image_size, form.image, form.backend) == ((8, 8), "float", "onnxruntime")
    assert (form.facts["inputs"], form.facts["noise"], form.facts["batch"]) == ("ws", "input", "1,8")
    assert "psi_range" not in form.facts


def test_large_weights_are_stored_in_a_second_file(synthesis_onnx: Path) -> None:
    assert synthesis_onnx.with_name("synthesis.onnx.data").stat().st_size >= 1024  # smaller ones stay in the ONNX file


@pytest.mark.parametrize("batch", [1, 3])
def test_ws_and_noise_give_the_images_of_the_readable_synthesis(
    batch: int, generator: Generator, form: FormRunner
) -> None:
    ws, noise = ws_of(generator, batch), form.noise(seed=1, batch=batch)
    images = form({"ws": ws, **noise})
    state = {key: value.clone() for key, value in generator.state_dict().items()}
    try:
        for row in range(batch):
            for layer in noise_shapes(generator.config):
                stored = generator.synthesis.get_buffer(f"{layer}.noise_const")
                stored.copy_(torch.from_numpy(noise[f"noise.{layer}"][row, 0]))
            expected = generator.synthesis(torch.from_numpy(ws[row : row + 1])).numpy()[0]
            assert np.abs(images[row] - expected).max() < TOLERANCE * max(1.0, np.abs(expected).max())
    finally:
        generator.load_state_dict(state)


def test_noise_depends_only_on_its_seed(form: FormRunner) -> None:
    first, again, other = (form.noise(seed=seed, batch=2) for seed in (1, 1, 2))
    for name, values in first.items():
        assert values.shape == (2, *form.inputs[name]) and values.dtype == np.float32
        assert np.array_equal(values, again[name]) and not np.array_equal(values, other[name])


def test_a_batch_of_zero_gives_an_empty_array(generator: Generator, form: FormRunner) -> None:
    assert form({"ws": ws_of(generator, 0), **form.noise(seed=0, batch=0)}).shape == (0, 3, 8, 8)


def test_wrong_inputs_are_refused(generator: Generator, form: FormRunner) -> None:
    ws, noise = ws_of(generator, 2), form.noise(seed=0, batch=2)
    with pytest.raises(UsageError, match=r"takes ws, noise\.b4\.conv1") as caught:
        form({"ws": ws, "z": ws})
    assert "Missing or unknown: noise.b4.conv1, noise.b8.conv0, noise.b8.conv1, z" in str(caught.value.remedy)
    with pytest.raises(UsageError, match=r"ws has shape \[2, 3, 16\], expected \[2, 4, 16\]"):
        form({"ws": ws[:, :3], **noise})
    with pytest.raises(UsageError, match=r"noise\.b8\.conv1 has shape \[1, 1, 8, 8\]"):
        form({"ws": ws, **noise, "noise.b8.conv1": noise["noise.b8.conv1"][:1]})


def test_a_file_that_takes_z_can_be_loaded_as_a_form(float_onnx: Path) -> None:
    form, runner = load_form(float_onnx), load_runner(float_onnx)
    z = np.ones((2, 24), np.float32)
    assert np.array_equal(form({"z": z, "psi": np.full(2, 0.7, np.float32)}), runner(z=z, psi=0.7))
    assert form.noise(seed=0, batch=2) == {}


def test_load_runner_refuses_the_synthesis_form_with_a_remedy(synthesis_onnx: Path) -> None:
    with pytest.raises(UsageError, match=r"takes ws, noise\.b4\.conv1") as caught:
        load_runner(synthesis_onnx)
    assert "load_synthesis, load_form" in caught.value.remedy and "--inputs z" in caught.value.remedy


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("neither")
    with pytest.raises(InputError, match="not an ONNX file"):
        load_form(tmp_path / "x.txt")
    helper, kind = onnx.helper, onnx.TensorProto.INT64
    values = [helper.make_tensor_value_info(name, kind, ["batch", 2]) for name in ("ids", "image")]
    graph = helper.make_graph([helper.make_node("Identity", ["ids"], ["image"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "x.onnx")
    with pytest.raises(InputError, match="input 'ids' is tensor"):
        load_form(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": "w"}, "inputs is 'w'"),
        ({"batch": (0, 4)}, "batch is 0 to 4"),
        ({"batch": (4, 4)}, "batch is 4 to 4"),
    ],
)
def test_impossible_options_are_refused(
    options: dict[str, object], words: str, generator: Generator, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        export_onnx(generator, tmp_path / "x.onnx", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
