"""Descriptions of checkpoints, ONNX files and engines, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.checkpoints.checkpoint import NVIDIA_LICENCE
from dcp_deploy.checkpoints.provenance import UNKNOWN_LICENCE
from dcp_deploy.errors import CorruptFileError, InputError, StaleArtifactError, UnknownFormatError
from dcp_deploy.evaluation.inspection import inspect_file
from dcp_deploy.files import sha256_file, write_json
from dcp_deploy.generators import Generator, GeneratorConfig, count_macs, count_parameters

from ..engine_facts import ENGINE

DATA = Path(__file__).parents[1] / "data"
ALWAYS = {"kind", "format", "resolution", "image_size", "widths", "parameters", "macs", "sha256"}


@pytest.fixture
def checkpoint(tiny_generator: Generator, tmp_path: Path) -> Path:
    return save_generator(tiny_generator, tmp_path / "g.safetensors", extra={"source": "test"})


def small_onnx(path: Path, **metadata: str) -> Path:
    """Write a valid ONNX file from z to image with this metadata."""
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 16])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 16])
    graph = helper.make_graph([helper.make_node("Identity", ["z"], ["image"])], "g", [z], [image])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def as_exported(generator: Generator) -> dict[str, str]:
    config = generator.config
    values = {"resolution": config.resolution, "widths": config.widths, "config": config.to_dict()}
    return {"kind": config.kind, **{key: json.dumps(value) for key, value in values.items()}}


def test_a_checkpoint_is_described_in_full(checkpoint: Path, tiny_generator: Generator) -> None:
    facts = inspect_file(checkpoint)
    assert facts.keys() >= ALWAYS
    assert (facts["kind"], facts["format"], facts["resolution"]) == ("stylegan2", "native", 32)
    assert facts["widths"] == list(tiny_generator.widths)
    assert facts["parameters"] == count_parameters(tiny_generator)
    assert facts["macs"] == count_macs(tiny_generator)
    assert facts["sha256"] == sha256_file(checkpoint)
    assert facts["extra"] == {"source": "test"}
    json.dumps(facts, allow_nan=False)


def test_rectangular_networks_name_the_size_of_their_images(tmp_path: Path) -> None:
    network = Generator(GeneratorConfig(8, (3,) * 4, z_dim=16, w_dim=6, mapping_layers=1, base=(4, 2)))
    checkpoint = inspect_file(save_generator(network, tmp_path / "g.safetensors"))
    assert (checkpoint["resolution"], checkpoint["image_size"], checkpoint["base"]) == (8, [8, 4], [4, 2])
    exported = inspect_file(small_onnx(tmp_path / "g.onnx", **as_exported(network)))
    assert exported["image_size"] == [8, 4] and exported["macs"] == count_macs(network)


def test_a_checkpoint_that_begins_like_an_onnx_file_is_recognised(tiny_generator: Generator, tmp_path: Path) -> None:
    # The header length is a multiple of eight. With some padding its first byte is 0x08, as in every ONNX file.
    paths = (
        save_generator(tiny_generator, tmp_path / f"{pad}.safetensors", extra={"pad": "x" * pad})
        for pad in range(0, 257, 8)
    )
    unlucky = next(path for path in paths if path.read_bytes()[:1] == b"\x08")
    assert inspect_file(unlucky)["format"] == "native"


def test_an_exported_file_describes_its_network(tiny_generator: Generator, tmp_path: Path) -> None:
    facts = inspect_file(small_onnx(tmp_path / "g.onnx", **as_exported(tiny_generator)))
    assert (facts["kind"], facts["format"], facts["resolution"]) == ("stylegan2", "onnx", 32)
    assert facts["widths"] == list(tiny_generator.widths)
    assert facts["parameters"] == count_parameters(tiny_generator)
    assert facts["macs"] == count_macs(tiny_generator)
    assert facts["inputs"] == {"z": ["batch", 16]}


def test_unknown_facts_of_a_foreign_onnx_file_are_none(tmp_path: Path) -> None:
    facts = inspect_file(small_onnx(tmp_path / "g.onnx"))
    assert {facts[key] for key in ("kind", "resolution", "image_size", "parameters", "macs")} == {None}


def test_an_engine_is_described_by_its_manifest(tiny_generator: Generator, tmp_path: Path) -> None:
    engine = tmp_path / "g.engine"
    engine.write_bytes(b"vtrt" + bytes(100))
    manifest = {**ENGINE, "kind": "stylegan2", "resolution": 32, "config": tiny_generator.config.to_dict()}
    write_json(tmp_path / "g.json", manifest)
    facts = inspect_file(engine)
    assert (facts["format"], facts["kind"], facts["resolution"]) == ("engine", "stylegan2", 32)
    assert facts["macs"] == count_macs(tiny_generator)
    assert facts["manifest"]["targets"] == ["sm89"]


def test_an_engine_without_its_manifest_is_stale(tmp_path: Path) -> None:
    (tmp_path / "g.engine").write_bytes(b"vtrt" + bytes(100))
    with pytest.raises(StaleArtifactError, match=r"g\.json"):
        inspect_file(tmp_path / "g.engine")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, InputError),
        (b"", CorruptFileError),
        (b"\x80\x03}q\x00.", UnknownFormatError),
        (b"\x08\x07\xff\xff\xff", CorruptFileError),
        ((100).to_bytes(8, "little") + b"{", CorruptFileError),
    ],
    ids=["missing", "empty", "a pickle", "a broken ONNX file", "a cut checkpoint"],
)
def test_other_files_are_refused_with_the_right_error(
    tmp_path: Path, content: bytes | None, error: type[Exception]
) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match="model"):
        inspect_file(path)


@pytest.mark.parametrize(("names", "shown"), [(["a.txt", "b.onnx"], "it holds b.onnx"), ([], "nothing that could")])
def test_an_ordinary_folder_is_called_one(tmp_path: Path, names: list[str], shown: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"is a folder, not a bundle or a run directory; .*{shown}"):
        inspect_file(tmp_path)


@pytest.mark.parametrize("metadata", [{"widths": "[1, 2"}, {"config": '{"resolution": 32}'}, {"config": "7"}])
def test_damaged_metadata_is_a_corrupt_file(tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(CorruptFileError, match="metadata"):
        inspect_file(small_onnx(tmp_path / "g.onnx", **metadata))


@pytest.mark.parametrize(
    ("name", "format_", "kind", "named"),
    [
        ("sg2ada_32_uncond_torch171.pkl", "nvidia", "stylegan2", "torch_utils.persistence._reconstruct_persistent_obj"),
        ("sg3t_32_torch213.pkl", "nvidia", "stylegan3", "dnnlib.util.EasyDict"),
        ("tf_stylegan2_v4_32.pkl", "tensorflow", "stylegan2", "dnnlib.tflib.network.Network"),
        ("ros_training_zip_torch213.pt", "rosinality", "stylegan2", "argparse.Namespace"),
        ("dcp_pruned_torch213.pt", "rosinality", "stylegan2", "torch._utils._rebuild_tensor_v2"),
    ],
)
def test_every_foreign_format_is_described(name: str, format_: str, kind: str, named: str) -> None:
    facts = inspect_file(DATA / "checkpoints" / name)
    assert facts.keys() >= ALWAYS
    assert (facts["format"], facts["kind"], facts["resolution"]) == (format_, kind, 32)
    assert named in facts["globals"]
    assert facts["licence"] == (UNKNOWN_LICENCE if format_ == "rosinality" else NVIDIA_LICENCE)
    assert facts["parameters"] > 0
    json.dumps(facts, allow_nan=False)


def test_external_weights_of_an_onnx_file_must_exist(tmp_path: Path, tiny_generator: Generator) -> None:
    path = small_onnx(tmp_path / "m.onnx", **as_exported(tiny_generator))
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [512], bytes(2048), raw=True))
    onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert inspect_file(path)["resolution"] == tiny_generator.config.resolution
    path.with_name("m.onnx.data").unlink()
    with pytest.raises(CorruptFileError, match="not a valid ONNX file"):
        inspect_file(path)
