from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from dcp_deploy.errors import CorruptFileError, InputError, MissingCapabilityError, UsageError
from dcp_deploy.export import Engine, EngineOptions, build_engine, check_engine, read_manifest
from dcp_deploy.export.kinds import sniff
from dcp_deploy.export.tensorrt import plugins, targets
from dcp_deploy.files import sha256_file
from dcp_deploy.generators import Generator


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests independent of this machine's GPU."""
    monkeypatch.setattr(targets, "present_gpu", lambda: None)


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
    options = "--target sm89,sm120 --flavour tensorrt-rtx --batch 1,4,16"
    assert command == f"dcp-deploy engine {uint8_onnx} {options} --out {engine.path}"


def test_the_float_form_builds_too(float_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    built = build_engine(float_onnx, tmp_path / "float.engine", target="L4")
    assert built.manifest["targets"] == ["sm89"]
    assert check_engine(built.path, float_onnx) == built.manifest


def test_weights_in_a_file_beside_the_model_are_found(external_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    built = build_engine(external_onnx, tmp_path / "x.engine", target="sm89")
    assert check_engine(built.path, external_onnx)["precision"] == "fp32"
    assert built.path.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["translating_onnx", "rotating_onnx"])
def test_stylegan3_builds_for_every_generation_at_once(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    built = build_engine(request.getfixturevalue(name), tmp_path / "x.engine", target="sm80,sm86,sm89,sm120")
    assert (built.manifest["kind"], built.manifest["precision"]) == ("stylegan3", "fp32")
    assert built.path.stat().st_size > 10_000


def test_rtx_does_not_serve_hopper(float_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingCapabilityError, match="does not serve sm90") as caught:
        build_engine(float_onnx, tmp_path / "x.engine", target="sm89,H100", flavour="tensorrt-rtx")
    assert "tensorrt" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_tensorrt_builds_on_the_target_only(float_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingCapabilityError, match="sm90; this machine has none") as caught:
        build_engine(float_onnx, tmp_path / "x.engine", target="H100")
    engine = f"dcp-deploy engine {float_onnx} --target sm90 --flavour tensorrt --batch 1,8,64"
    assert f"pip install 'dcp-deploy[gpu]' && {engine} --out {tmp_path / 'x.engine'}" in caught.value.remedy


@pytest.mark.parametrize(
    ("flavour", "module", "extra"), [("tensorrt-rtx", "tensorrt_rtx", "rtx"), ("tensorrt", "tensorrt", "gpu")]
)
def test_a_missing_package_names_the_install_line(
    flavour: str, module: str, extra: str, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "present_gpu", lambda: "sm89")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingCapabilityError, match=rf"pip install 'dcp-deploy\[{extra}\]'"):
        build_engine(float_onnx, tmp_path / "x.engine", flavour=flavour)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx"):
        build_engine(tmp_path / "gone.onnx", tmp_path / "x.engine", target="sm89")


def test_unknown_flavour_and_batch_are_refused(float_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flavour is 'trt'"):
        build_engine(float_onnx, tmp_path / "x.engine", target="sm89", flavour="trt")  # type: ignore[arg-type]
    for batch in ((0, 1, 2), (4, 2, 8), (1, 8, 4)):
        with pytest.raises(UsageError, match="batch is"):
            build_engine(float_onnx, tmp_path / "x.engine", target="sm89", batch=batch)


def test_the_error_contains_tensorrts_message(float_onnx: Path, tmp_path: Path) -> None:
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
    assert "Leave sm75 out" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_onnx_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(CorruptFileError):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", target="sm89")


def test_the_room_imports_without_optional_packages() -> None:
    absent = ["onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "polygraphy", "PIL"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import dcp_deploy.export"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- options ----


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(version_compatible=True),
        EngineOptions(hardware_compatible=True),
        EngineOptions(timing_cache="times"),
    ],
)
def test_rtx_refuses_the_options_it_does_not_have(options: EngineOptions, float_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    with pytest.raises(UsageError, match=f"nothing like {options.flags()[0]}"):
        build_engine(float_onnx, tmp_path / "x.engine", target="sm89", options=options)


def test_rtx_refits_only_where_a_driver_is(float_onnx: Path, tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    if torch.cuda.is_available() or not rtx.__version__.startswith("1.7."):
        pytest.skip("known of TensorRT for RTX 1.7 on a machine without a GPU")
    with pytest.raises(MissingCapabilityError, match="cannot build") as caught:
        build_engine(float_onnx, tmp_path / "x.engine", target="sm89", options=EngineOptions(refit=True))
    assert "Build it on a machine with an NVIDIA GPU" in caught.value.remedy


def test_the_options_are_flags_of_the_command() -> None:
    every = EngineOptions(True, True, True, "my times", plugins=False)
    named = ["--version-compatible", "--hardware-compatible", "--refit", "--timing-cache", "my times", "--no-plugins"]
    assert (every.flags(), EngineOptions().flags()) == (named, [])


def test_the_options_reach_tensorrt(
    tensorrt_bindings: Path, float_onnx: Path, unconditional: Generator, tmp_path: Path
) -> None:
    pytest.importorskip("polygraphy", reason="polygraphy, of the extra 'gpu', is not installed")
    try:
        plugins.nvrtc_version()
    except MissingCapabilityError as error:
        pytest.skip(error.message)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tensorrt_build.py")), str(float_onnx), str(tmp_path / "times")],
        env={**os.environ, "PYTHONPATH": str(tensorrt_bindings)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, every = json.loads(done.stdout.splitlines()[-1])
    assert plain["flags"] == ["TF32"]
    z_dim = unconditional.config.z_dim
    assert plain["profile"] == {"z": [[1, z_dim], [2, z_dim], [4, z_dim]], "psi": [[1], [2], [4]]}
    assert (plain["level"], plain["strongly_typed"], plain["timing_cache"]) == ("NONE", True, False)
    assert every["flags"] == ["REFIT", "TF32", "VERSION_COMPATIBLE"]
    assert (every["level"], every["timing_cache"]) == ("AMPERE_PLUS", True)
    assert plain["recorded"] == ["TF32"]
    assert (plain["plugins"]["ptx"], every["plugins"]["ptx"]) == ("compute_90", "compute_80")
    assert plain["plugins"]["namespace"] == "dcp_deploy"
    assert every["recorded"] == ["REFIT", "TF32", "VERSION_COMPATIBLE"]
