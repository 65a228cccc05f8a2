from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from dcp_deploy.errors import CorruptFileError, InputError, StaleArtifactError
from dcp_deploy.export import Engine, build_engine, check_engine, read_manifest
from dcp_deploy.export.tensorrt.manifest import EngineManifest, external_files, image_size, onnx_sha256, targets
from dcp_deploy.files import sha256_file, write_json


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests independent of this machine's GPU."""
    monkeypatch.setattr(targets, "present_gpu", lambda: None)


def test_a_fresh_engine_fits(engine: Engine, uint8_onnx: Path) -> None:
    assert check_engine(engine.path, uint8_onnx) == engine.manifest


def test_another_onnx_file_is_stale(engine: Engine, float_onnx: Path) -> None:
    with pytest.raises(StaleArtifactError, match="onnx_sha256") as caught:
        check_engine(engine.path, float_onnx)
    assert caught.value.remedy == f"Rebuild it: {engine.manifest['rebuild']}"
    assert caught.value.exit_code == 6


def test_a_changed_engine_is_stale(copy: Path) -> None:
    with copy.open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(StaleArtifactError, match="engine_sha256"):
        check_engine(copy)


def test_another_version_is_stale(copy: Path) -> None:
    manifest = copy.with_suffix(".json")
    write_json(manifest, {**json.loads(manifest.read_text()), "flavour_version": "1.0.0"})
    with pytest.raises(StaleArtifactError, match=r"flavour_version is 1\.0\.0"):
        check_engine(copy)


def test_another_gpu_is_stale(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "present_gpu", lambda: "sm90")
    with pytest.raises(StaleArtifactError, match="targets is sm89,sm120 in its manifest, but sm90 here"):
        check_engine(engine.path)


def test_one_of_its_gpus_fits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "present_gpu", lambda: "sm120")
    check_engine(engine.path)


def test_an_engine_alone_is_stale(copy: Path) -> None:
    copy.with_suffix(".json").unlink()
    with pytest.raises(StaleArtifactError, match="no manifest"):
        check_engine(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"onnx": "x"}', '"text"', "null"])
def test_a_damaged_manifest_is_corrupt(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CorruptFileError):
        read_manifest(tmp_path / "x.engine")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2), ("targets", None), ("targets", []), ("targets", ["89"]), ("targets", "sm89"),
        ("flavour", "onnx"), ("flavour_version", 1.7), ("engine_sha256", "0"), ("size_bytes", -1),
        ("rebuild", None), ("options", []), ("build_flags", "TF32"), ("resolution", "32"), ("resolution", 0),
        ("widths", "8,8"), ("config", {"kind": "stylegan2"}), ("config", {"resolution": 10**400}), ("config", "x"),
        ("profile", {}), ("profile", {"z": None}), ("profile", {"z": {"min": [1, 12], "opt": [4, 12]}}),
        ("profile", {"z": {"min": [1], "opt": [4], "max": [16]}}),
        ("profile", {"z": {"min": [4, 12], "opt": [1, 12], "max": [16, 12]}}), ("build_seconds", float("inf")),
    ],
)  # fmt: skip
def test_a_manifest_with_a_value_of_another_kind_is_corrupt_and_names_it(copy: Path, field: str, value: object) -> None:
    file = copy.with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(CorruptFileError, match=field) as caught:
        check_engine(copy)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("field", EngineManifest.model_fields)
def test_a_manifest_without_a_field_is_corrupt_and_names_it(copy: Path, field: str) -> None:
    file, name = copy.with_suffix(".json"), "schema" if field == "schema_version" else field
    facts = json.loads(file.read_text())
    del facts[name]
    write_json(file, facts)
    with pytest.raises(CorruptFileError, match=name):
        read_manifest(copy)


def test_an_engine_of_tensorrt_has_one_target(copy: Path) -> None:
    file = copy.with_suffix(".json")
    write_json(file, {**json.loads(file.read_text()), "flavour": "tensorrt"})
    with pytest.raises(CorruptFileError, match="targets: an engine of TensorRT has one, not 2"):
        read_manifest(copy)


@pytest.mark.parametrize("text", ['{"schema": 1, "schema": 1}', "[" * 5000, " " * 1_000_001, '"\\ud800"'])
def test_hostile_json_is_corrupt(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CorruptFileError):
        read_manifest(tmp_path / "x.engine")


@pytest.mark.parametrize(("key", "value"), [("config", "{"), ("widths", '"8"'), ("resolution", "[" * 9999)])
def test_foreign_metadata_is_named_before_anything_is_built(
    uint8_onnx: Path, tmp_path: Path, key: str, value: str
) -> None:
    model = onnx.load(uint8_onnx)
    next(entry for entry in model.metadata_props if entry.key == key).value = value
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"the metadata of .*x\.onnx"):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", target="sm89")


def test_an_engine_without_sizes_of_images_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="how large its images are"):
        image_size({"config": None, "resolution": None})


def test_missing_files_are_named(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.engine"):
        check_engine(tmp_path / "gone.engine")
    with pytest.raises(InputError, match=r"gone\.onnx"):
        check_engine(engine.path, tmp_path / "gone.onnx")


def test_an_engine_for_all_from_ampere_on_fits_a_newer_gpu(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = copy.with_suffix(".json")
    facts = {**json.loads(file.read_text()), "options": {"hardware_compatible": True}}
    write_json(file, facts)
    monkeypatch.setattr(targets, "present_gpu", lambda: "sm100")
    assert check_engine(copy) == facts
    monkeypatch.setattr(targets, "present_gpu", lambda: "sm75")
    with pytest.raises(StaleArtifactError, match="targets"):
        check_engine(copy)


def test_a_version_compatible_engine_fits_its_major_version(copy: Path) -> None:
    file = copy.with_suffix(".json")
    facts = json.loads(file.read_text())
    major = facts["flavour_version"].split(".")[0]
    write_json(file, {**facts, "options": {"version_compatible": True}, "flavour_version": f"{major}.0.1"})
    check_engine(copy)
    write_json(file, {**facts, "options": {"version_compatible": True}, "flavour_version": "99.0.1"})
    with pytest.raises(StaleArtifactError, match="flavour_version"):
        check_engine(copy)


def test_weights_beside_the_file_count_as_part_of_it(external_onnx: Path) -> None:
    (weights,) = external_files(external_onnx)
    before = onnx_sha256(external_onnx)
    with weights.open("r+b") as stream:
        stream.write(b"\1\2\3\4")
    assert onnx_sha256(external_onnx) != before


def test_a_file_with_its_weights_inside_has_its_own_hash(float_onnx: Path) -> None:
    assert (external_files(float_onnx), onnx_sha256(float_onnx)) == ([], sha256_file(float_onnx))


def test_weights_elsewhere_or_gone_are_refused(external_onnx: Path) -> None:
    external_files(external_onnx)[0].unlink()
    with pytest.raises(InputError, match=r"external\.data, which is not a file beside it"):
        onnx_sha256(external_onnx)
    model = onnx.load(external_onnx, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../secrets"
    onnx.save(model, external_onnx)
    with pytest.raises(InputError, match="secrets"):
        onnx_sha256(external_onnx)
