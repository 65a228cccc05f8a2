from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dcp_deploy.errors import UsageError
from dcp_deploy.export import export_onnx, latents_of, load_runner, verify
from dcp_deploy.export.onnx.exporter import weights_sha256
from dcp_deploy.generators import Generator, GeneratorConfig

from ..conftest import GOLDEN, random_generator


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def draw(path: Path, **inputs: np.ndarray) -> np.ndarray:
    """Run it with onnxruntime alone, as a user would."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["image"], {name: value.astype(np.float32) for name, value in inputs.items()})[0]


def test_float_file_returns_the_golden_images(float_onnx: Path) -> None:
    data = np.load(GOLDEN / "sg2ada_32.npz")
    image = draw(float_onnx, z=data["z"], psi=np.full(len(data["z"]), 0.7))
    assert np.abs(image - data["img_const_psi0.7"]).max() < 2e-5  # tolerance of the golden data itself


def test_uint8_file_returns_the_golden_images(uint8_onnx: Path) -> None:
    data = np.load(GOLDEN / "sg2ada_32_cond_clamp.npz")
    image = draw(uint8_onnx, z=data["z"], psi=np.ones(len(data["z"])), c=data["c"])
    assert image.dtype == np.uint8
    steps = np.abs(image.astype(int) - data["img_const_uint8"].transpose(0, 2, 3, 1))
    # 2e-5 of rounding moves 127.5 * 2e-5 = 0.26 % of the truncated values at most, by one step.
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.0026


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_batch_is_dynamic(batch: int, float_onnx: Path) -> None:
    z = np.random.default_rng(0).standard_normal((batch, 24))
    together = draw(float_onnx, z=z, psi=np.linspace(0, 1, batch))
    assert together.shape == (batch, 3, 32, 32)
    last = draw(float_onnx, z=z[-1:], psi=np.linspace(0, 1, batch)[-1:])
    assert np.abs(together[-1] - last[0]).max() < 1e-5  # other batch, other order of summation


def test_interface_is_named_and_typed(float_onnx: Path, uint8_onnx: Path) -> None:
    def interface(path: Path) -> dict[str, list[str | int]]:
        graph = onnx.load(path).graph
        tensors = {value.name: value.type.tensor_type for value in [*graph.input, *graph.output]}
        return {
            name: [onnx.TensorProto.DataType.Name(t.elem_type), *(d.dim_param or d.dim_value for d in t.shape.dim)]
            for name, t in tensors.items()
        }

    assert interface(float_onnx) == {
        "z": ["FLOAT", "batch", 24],
        "psi": ["FLOAT", "batch"],
        "image": ["FLOAT", "batch", 3, 32, 32],
    }
    assert interface(uint8_onnx) == {
        "z": ["FLOAT", "batch", 24],
        "psi": ["FLOAT", "batch"],
        "c": ["FLOAT", "batch", 3],
        "image": ["UINT8", "batch", 32, 32, 3],
    }


def test_nodes_and_weights_are_named_after_modules(float_onnx: Path) -> None:
    graph = onnx.load(float_onnx).graph
    names = [node.name for node in graph.node]
    assert {"synthesis.b4.conv1/Conv", "synthesis.b32.conv0/ConvTranspose", "mapping.fc0/Gemm"} <= set(names)
    assert len(names) == len(set(names))
    weights = {"synthesis.const", "synthesis.b32.conv1.weight", "synthesis.b8.conv0.noise"}
    assert weights <= {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize("name", ["float_onnx", "uint8_onnx", "translating_onnx", "rotating_onnx"])
def test_the_file_defines_each_of_our_operators(name: str, request: pytest.FixtureRequest) -> None:
    model = onnx.load(request.getfixturevalue(name))
    ours = {node.op_type for node in model.graph.node if node.domain == "dcp_deploy"}
    assert {node.domain for node in model.graph.node} == {"", "dcp_deploy"}
    assert {function.name for function in model.functions} == ours
    assert {node.domain for function in model.functions for node in function.node} == {""}


def test_stylegan3_takes_a_batch_of_any_size(translating: Generator, translating_onnx: Path) -> None:
    z = np.random.default_rng(0).standard_normal((4, 12))
    expected = translating(torch.from_numpy(z).float(), psi=0.7).numpy()
    for batch in (1, 4):
        image = draw(translating_onnx, z=z[:batch], psi=np.full(batch, 0.7))
        assert np.abs(image - expected[:batch]).max() < 1e-5  # other order of summation


def test_stylegan3_with_classes_and_radial_filters_returns_uint8(rotating: Generator, rotating_onnx: Path) -> None:
    z = np.random.default_rng(0).standard_normal((3, 12))
    expected = rotating(torch.from_numpy(z).float(), torch.eye(3)).permute(0, 2, 3, 1).numpy()
    image = draw(rotating_onnx, z=z, psi=np.ones(3), c=np.eye(3))
    steps = np.abs(image.astype(int) - np.clip(expected * 127.5 + 128, 0, 255).astype(np.uint8))
    # Truncation makes a step of a rounding of 1e-5 in 127.5 * 1e-5 = 0.13 % of the values at most.
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.0013


def test_stylegan3_is_named_after_its_layers(translating_onnx: Path) -> None:
    graph = onnx.load(translating_onnx).graph
    names = {node.name for node in graph.node}
    assert {
        "synthesis.input/Conv",
        "synthesis.L2.conv/Conv",
        "synthesis.L2.lrelu/MatMul",
        "synthesis.torgb/ToRGB",
    } <= names
    weights = {"synthesis.L2.conv.weight", "synthesis.L2.lrelu.up", "synthesis.input.phases", "synthesis.torgb.weight"}
    assert weights <= {tensor.name for tensor in graph.initializer}


def test_metadata_describe_a_stylegan3(translating_onnx: Path, translating: Generator) -> None:
    recorded = metadata(translating_onnx)
    assert GeneratorConfig.from_dict(json.loads(recorded["config"])) == translating.config
    assert (recorded["kind"], recorded["widths"]) == ("stylegan3", "[6, 5, 8, 7, 5]")
    assert (recorded["image"], recorded["noise"]) == ("float", "none")
    assert "upsample" not in recorded  # which StyleGAN3 does not have


def test_convolution_weights_are_constants(uint8_onnx: Path) -> None:
    graph = onnx.load(uint8_onnx).graph
    constants = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(convolutions) == 7  # modulated 3x3: those of 4 to 32 px
    assert all(node.input[1] in constants for node in convolutions)


def test_metadata_describe_a_stylegan2(float_onnx: Path, unconditional: Generator) -> None:
    recorded = metadata(float_onnx)
    assert GeneratorConfig.from_dict(json.loads(recorded["config"])) == unconditional.config
    assert recorded["weights_sha256"] == weights_sha256(unconditional)
    assert recorded["licence"] == "none needed"
    assert (recorded["image"], recorded["noise"], recorded["upsample"]) == ("float", "const", "transposed")
    assert set(json.loads(recorded["storage"]).values()) == {"float32"}
    assert recorded["tool"].startswith("dcp-deploy ")
    assert (recorded["onnx"], recorded["torch"]) == (onnx.__version__, torch.__version__)
    assert (recorded["inputs"], recorded["psi_range"], recorded["opset"]) == ("z", "0.0,1.3", "17")
    assert (recorded["ir_version"], onnx.load(float_onnx).ir_version) == ("8", 8)
    assert recorded["runs_in"] == "ONNX Runtime 1.13 and Triton 23.04, or later"
    assert "batch" not in recorded  # any


def test_polygraphys_lint_finds_nothing(float_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_graphsurgeon", reason="lint needs onnx-graphsurgeon")
    report = tmp_path / "lint.json"
    lint = [sys.executable, "-c", "from polygraphy.tools import main; main()", "check", "lint", str(float_onnx)]
    done = subprocess.run([*lint, "-o", str(report)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["lint_entries"] == []


def test_the_file_holds_no_traces_of_this_machine(float_onnx: Path) -> None:
    content = float_onnx.read_bytes()
    for trace in (str(Path(__file__).parents[3]), "site-packages", "stack_trace", "fused/", "stylegan2.py"):
        assert trace.encode() not in content


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return random_generator((4, 3, 5, 2))


@pytest.fixture(scope="module")
def tiny_onnx(tiny: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 px, without noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of the exporter must not reach the user
        return export_onnx(tiny, tmp_path_factory.mktemp("tiny") / "first.onnx", image="float", noise="none")


def test_same_generator_same_bytes(tiny_onnx: Path, tmp_path: Path) -> None:
    again = export_onnx(random_generator((4, 3, 5, 2)), tmp_path / "second.onnx", image="float", noise="none")
    assert again.read_bytes() == tiny_onnx.read_bytes()


def test_noise_none_leaves_the_noise_out(tiny: Generator, tiny_onnx: Path) -> None:
    z = np.random.default_rng(0).standard_normal((2, 12))
    expected = tiny(torch.from_numpy(z).float(), noise="none").numpy()
    # Relative: with few channels of random weights the magnitude is above 1.
    assert np.abs(draw(tiny_onnx, z=z, psi=np.ones(2)) - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert metadata(tiny_onnx)["noise"] == "none"


def test_a_failed_export_leaves_nothing(tmp_path: Path, unconditional: Generator) -> None:
    with pytest.raises(UsageError, match="jpeg"):
        export_onnx(unconditional, tmp_path / "x.onnx", image="jpeg")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_weights_sha256_sees_every_weight_and_the_config() -> None:
    generator = random_generator((4, 3, 5, 2))
    before = weights_sha256(generator)
    assert weights_sha256(random_generator((4, 3, 5, 2))) == before
    assert weights_sha256(random_generator((4, 3, 5, 2), conv_clamp=4.0)) != before
    generator.synthesis.get_parameter("b8.conv1.noise_strength").data += 1e-3
    assert weights_sha256(generator) != before


def test_opset_and_ir_version_can_be_chosen(tiny: Generator, float_onnx: Path, tmp_path: Path) -> None:
    newer = export_onnx(tiny, tmp_path / "newer.onnx", image="float", opset=21, ir=10)
    oldest = export_onnx(tiny, tmp_path / "oldest.onnx", image="float", opset=17, ir=8)
    model = onnx.load(newer)
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    assert {entry.version for function in model.functions for entry in function.opset_import} == {21}
    assert metadata(newer)["runs_in"] == "ONNX Runtime 1.18 and Triton 24.05, or later"
    inputs = {"z": np.random.default_rng(0).standard_normal((3, 12)), "psi": np.ones(3)}
    assert np.array_equal(draw(newer, **inputs), draw(oldest, **inputs))


def test_a_fixed_batch_fixes_every_shape_and_needs_no_functions(tiny: Generator, tmp_path: Path) -> None:
    path = export_onnx(tiny, tmp_path / "one.onnx", image="float", batch=1)
    model = onnx.load(path)
    assert not model.functions and metadata(path)["batch"] == "1,1"
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)] == [
        1, 1, 1,
    ]  # fmt: skip
    assert "Shape" not in {node.op_type for node in model.graph.node}
    runner, whole = load_runner(path), load_runner(export_onnx(tiny, tmp_path / "any.onnx", image="float"))
    z = latents_of(range(3), 12)
    assert runner.batch == (1, 1)
    assert np.array_equal(runner(z=z), np.concatenate([whole(z=row[None]) for row in z]))
    assert verify(tiny, path, latents=4).passed


@pytest.mark.parametrize("batch", [0, -1, (4, 4), (0, 2)])
def test_an_impossible_batch_is_refused(batch: int | tuple[int, int], tiny: Generator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch is"):
        export_onnx(tiny, tmp_path / "x.onnx", batch=batch)
