from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.errors import CorruptFileError, InputError, MissingCapabilityError, StaleArtifactError, UsageError
from dcp_deploy.export import Engine, build_engine, check_engine, read_manifest, tensorrt
from dcp_deploy.export.runners import sniff
from dcp_deploy.export.tensorrt import PRODUCTS, RTX_TARGETS, parse_targets
from dcp_deploy.files import sha256_file, write_json


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers on a machine with a GPU."""
    monkeypatch.setattr(tensorrt, "_gpu", lambda: None)


@pytest.fixture(scope="module")
def engine(uint8_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    return build_engine(
        uint8_onnx, tmp_path_factory.mktemp("engine") / "x.engine", target="sm89, RTX 5090", batch=(1, 4, 16)
    )


@pytest.fixture
def copy(engine: Engine, tmp_path: Path) -> Path:
    """The engine and its manifest, to be spoiled."""
    for suffix in (".engine", ".json"):
        (tmp_path / "x").with_suffix(suffix).write_bytes(engine.path.with_suffix(suffix).read_bytes())
    return tmp_path / "x.engine"


def test_an_engine_is_built_for_two_targets_without_a_gpu(engine: Engine, uint8_onnx: Path) -> None:
    assert sniff(engine.path) == "engine"
    manifest = engine.manifest
    assert manifest["targets"] == ["sm89", "sm120"]
    assert manifest["flavour"] == "tensorrt-rtx"
    assert manifest["onnx_sha256"] == sha256_file(uint8_onnx)
    assert manifest["engine_sha256"] == sha256_file(engine.path)
    assert manifest["size_bytes"] == engine.path.stat().st_size
    assert manifest["profile"]["c"] == {"min": [1, 3], "opt": [4, 3], "max": [16, 3]}
    assert manifest["profile"]["psi"] == {"min": [1], "opt": [4], "max": [16]}
    assert (manifest["precision"], manifest["resolution"]) == ("fp32", 32)


def test_the_manifest_is_read_back(engine: Engine) -> None:
    assert read_manifest(engine.path) == engine.manifest


def test_the_rebuild_command_names_the_same_build(engine: Engine, uint8_onnx: Path) -> None:
    command = engine.manifest["rebuild"]
    assert command.startswith(f"dcp-deploy engine {uint8_onnx} --target sm89,sm120 --flavour tensorrt-rtx")


def test_the_float_form_builds_too(float_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    built = build_engine(float_onnx, tmp_path / "float.engine", target="L4")
    assert built.manifest["targets"] == ["sm89"]
    assert check_engine(built.path, float_onnx) == built.manifest


@pytest.mark.parametrize("name", ["translating_onnx", "rotating_onnx"])
def test_stylegan3_builds_for_every_generation_at_once(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    built = build_engine(request.getfixturevalue(name), tmp_path / "x.engine", target="sm80,sm86,sm89,sm120")
    assert (built.manifest["kind"], built.manifest["precision"]) == ("stylegan3", "fp32")
    assert built.path.stat().st_size > 10_000


def test_a_fresh_engine_fits(engine: Engine, uint8_onnx: Path) -> None:
    assert check_engine(engine.path, uint8_onnx) == engine.manifest


def test_another_onnx_file_is_stale(engine: Engine, float_onnx: Path) -> None:
    with pytest.raises(StaleArtifactError, match="onnx_sha256") as caught:
        check_engine(engine.path, float_onnx)
    assert caught.value.remedy == f"rebuild it: {engine.manifest['rebuild']}"
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
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "sm90")
    with pytest.raises(StaleArtifactError, match="targets is sm89,sm120 in its manifest, but sm90 here"):
        check_engine(engine.path)


def test_one_of_its_gpus_fits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "sm120")
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


def test_missing_files_are_named(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.engine"):
        check_engine(tmp_path / "gone.engine")
    with pytest.raises(InputError, match=r"gone\.onnx"):
        check_engine(engine.path, tmp_path / "gone.onnx")
    with pytest.raises(InputError, match=r"gone\.onnx"):
        build_engine(tmp_path / "gone.onnx", tmp_path / "x.engine", target="sm89")


# ---- targets ----


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("sm89", ("sm89",)),
        ("SM120,sm89", ("sm120", "sm89")),
        ("RTX 4090", ("sm89",)),
        ("NVIDIA GeForce RTX 4090", ("sm89",)),
        ("rtx4090, L4", ("sm89",)),
        ("Tesla T4,a10", ("sm75", "sm86")),
        ("H100", ("sm90",)),
    ],
)
def test_targets_are_read(target: str, expected: tuple[str, ...]) -> None:
    assert parse_targets(target) == expected


@given(st.lists(st.sampled_from([name for names in PRODUCTS.values() for name in names]), min_size=1, max_size=5))
def test_every_product_name_reads_as_its_capability(names: list[str]) -> None:
    found = parse_targets(", ".join(names))
    assert len(set(found)) == len(found)
    assert set(found) == {sm for sm, products in PRODUCTS.items() if set(products) & set(names)}


@pytest.mark.parametrize("target", ["", "sm70", "RTX 9999", "sm89,", "4090"])
def test_an_unknown_target_lists_those_known(target: str) -> None:
    with pytest.raises(UsageError, match=r"sm89 \(L4, .*RTX 4090") as caught:
        parse_targets(target)
    assert caught.value.exit_code == 2


def test_auto_without_a_gpu_asks_for_a_name() -> None:
    with pytest.raises(UsageError, match="no GPU"):
        parse_targets("auto")


def test_auto_is_the_gpu_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "sm86")
    assert parse_targets("auto") == ("sm86",)


def test_the_installed_rtx_knows_our_targets() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    assert {sm.upper() for sm in RTX_TARGETS} == set(rtx.ComputeCapability.__members__) - {"NONE", "CURRENT"}
    assert set(RTX_TARGETS) <= set(PRODUCTS)


# ---- what cannot be done here ----


def test_rtx_does_not_serve_hopper(float_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingCapabilityError, match="does not serve sm90") as caught:
        build_engine(float_onnx, tmp_path / "x.engine", target="sm89,H100", flavour="tensorrt-rtx")
    assert "tensorrt" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_tensorrt_builds_on_the_target_only(float_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingCapabilityError, match="sm90; this machine has none") as caught:
        build_engine(float_onnx, tmp_path / "x.engine", target="H100")
    assert "dcp-deploy engine float.onnx --flavour tensorrt --target sm90" in caught.value.remedy


@pytest.mark.parametrize(
    ("flavour", "module", "extra"), [("tensorrt-rtx", "tensorrt_rtx", "rtx"), ("tensorrt", "tensorrt", "gpu")]
)
def test_a_missing_package_names_the_install_line(
    flavour: str, module: str, extra: str, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "sm89")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingCapabilityError, match=rf"pip install 'dcp-deploy\[{extra}\]'"):
        build_engine(float_onnx, tmp_path / "x.engine", flavour=flavour)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_unknown_flavour_and_batch_are_refused(float_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flavour is 'trt'"):
        build_engine(float_onnx, tmp_path / "x.engine", target="sm89", flavour="trt")  # type: ignore[arg-type]
    for batch in ((0, 1, 2), (4, 2, 8), (1, 8, 4)):
        with pytest.raises(UsageError, match="batch is"):
            build_engine(float_onnx, tmp_path / "x.engine", target="sm89", batch=batch)


def test_what_tensorrt_says_is_in_the_error(float_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    model = onnx.load(float_onnx)
    model.graph.node[0].op_type = "PaintFace"
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="PaintFace"):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", target="sm89")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_a_target_that_the_builder_refuses_is_explained(float_onnx: Path, tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    if not rtx.__version__.startswith("1.7."):
        pytest.skip("known of TensorRT for RTX 1.7 only: no float32 matrix product on Turing")
    with pytest.raises(MissingCapabilityError, match="Turing") as caught:
        build_engine(float_onnx, tmp_path / "x.engine", target="T4")
    assert "leave sm75 out" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_onnx_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(CorruptFileError):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", target="sm89")


def test_the_room_imports_without_optional_packages() -> None:
    absent = ["onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "polygraphy", "PIL"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import dcp_deploy.export"
    subprocess.run([sys.executable, "-c", code], check=True)
