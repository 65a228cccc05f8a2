"""The two files for editing against the readable generator with moved latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dcp_deploy.checkpoints.directions import Direction
from dcp_deploy.export import classes_of, export_onnx, latents_of
from dcp_deploy.export.bundle.triton import Tensor, interface
from dcp_deploy.export.onnx.editing import export_editor, export_mapping, offsets_of
from dcp_deploy.generators import Generator


def unit(width: int, seed: int) -> torch.Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def directions_of(generator: Generator) -> dict[str, Direction]:
    config = generator.config
    return {
        "smile": Direction(unit(config.w_dim, 1), (0, 1), 1.5),
        "age": Direction(unit(config.w_dim, 2), (1, config.num_ws - 1), 0.5),
    }


@dataclass(frozen=True)
class Files:
    mapping: Path
    synthesis: Path
    editor: Path


@pytest.fixture(scope="module")
def files(conditional: Generator, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("editing")
    synthesis = export_onnx(conditional, folder / "synthesis.onnx", inputs="ws", image="float")
    editor = export_editor(synthesis, directions_of(conditional), folder / "editor.onnx")
    return Files(export_mapping(conditional, folder / "mapping.onnx"), synthesis, editor)


def run(file: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def test_the_two_files_generate_the_moved_latents(conditional: Generator, files: Files) -> None:
    config, directions = conditional.config, directions_of(conditional)
    z, psi, c = latents_of(range(3), config.z_dim), np.float32([0.7, 1.0, 0.0]), classes_of(range(3), config.c_dim)
    assert c is not None
    ws = run(files.mapping, {"z": z, "psi": psi, "c": c})
    with torch.inference_mode():
        expected = conditional.mapping(torch.from_numpy(z), torch.from_numpy(c), psi=torch.from_numpy(psi))
        # A few float32 sums of 16 terms in another order.
        assert np.abs(ws - expected.numpy()).max() < 1e-5
        for strengths in ([[0.0, 0.0]] * 3, [[1.0, 0.0], [0.0, -2.0], [0.5, 0.5]]):
            moved = expected
            for column, one in enumerate(directions.values()):
                moved = one.move(moved, torch.tensor(strengths)[:, column])
            image = conditional.synthesis(moved).numpy()
            edited = run(files.editor, {"ws": ws, "strengths": np.float32(strengths)})
            assert np.abs(edited - image).max() < 1e-3 * np.abs(image).max()


def test_zero_strengths_edit_nothing_and_a_strength_moves_only_its_own_row(
    conditional: Generator, files: Files
) -> None:
    ws = np.random.default_rng(0).standard_normal((2, conditional.config.num_ws, conditional.config.w_dim), np.float32)
    still = run(files.editor, {"ws": ws, "strengths": np.zeros((2, 2), np.float32)})
    assert np.array_equal(still, run(files.synthesis, {"ws": ws}))
    moved = run(files.editor, {"ws": ws, "strengths": np.float32([[0, 0], [2, 0]])})
    assert np.array_equal(still[0], moved[0]) and np.abs(still[1] - moved[1]).max() > 0.01


def test_a_server_gets_the_interfaces_of_the_files(conditional: Generator, files: Files) -> None:
    config = conditional.config
    ws = Tensor("ws", "TYPE_FP32", (config.num_ws, config.w_dim))
    image = Tensor("image", "TYPE_FP32", (3, *config.image_size))
    assert interface(files.editor) == ((ws, Tensor("strengths", "TYPE_FP32", (2,))), image)
    inputs, output = interface(files.mapping)
    assert {tensor.name: tensor.dims for tensor in inputs} == {"z": (config.z_dim,), "psi": (), "c": (config.c_dim,)}
    assert output == ws
    assert {prop.key: prop.value for prop in onnx.load(files.editor).metadata_props}["directions"] == "smile, age"


def test_the_mapping_of_an_unconditional_generator_takes_no_class(translating: Generator, tmp_path: Path) -> None:
    config = translating.config
    file = export_mapping(translating, tmp_path / "mapping.onnx")
    z = latents_of(range(2), config.z_dim)
    with torch.inference_mode():
        expected = translating.mapping(torch.from_numpy(z), psi=torch.tensor([0.5, 1.0])).numpy()
    assert np.abs(run(file, {"z": z, "psi": np.float32([0.5, 1.0])}) - expected).max() < 1e-5


def test_strength_one_is_a_standard_deviation_in_the_direction_s_slots_and_nothing_elsewhere() -> None:
    offsets = offsets_of({"smile": Direction(torch.tensor([0.6, 0.8]), (1, 2), 3.0)}, 4)
    assert offsets.shape == (1, 4, 2) and offsets.dtype == np.float32
    assert offsets[0] == pytest.approx(np.array([[0, 0], [1.8, 2.4], [1.8, 2.4], [0, 0]]))


def test_a_direction_with_a_vector_for_each_slot_moves_each_slot_by_its_own() -> None:
    vectors = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    offsets = offsets_of({"pose": Direction(vectors, (1, 2), 3.0)}, 4)
    assert offsets[0].tolist() == [[0, 0], [3, 3], [0, 0], [0, 0]]
