"""Real builds of TensorRT for RTX engines: every precision, both up-sampling methods, and refused targets.

test_engine.py builds the float32 teacher.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.export import build_engine, export_onnx
from dcp_deploy.export.tensorrt import targets

from ..conftest import random_generator

WIDTHS = {"teacher": (8, 8, 8, 8), "student": (3, 3, 3, 3)}  # 8 px: every kind of layer; transposed and polyphase
WEIGHTS = {"fp32": "fp32", "fp16": "fp16+fp32", "bf16": "bf16+fp32", "int8": "fp32+int8"}
CASES = [("teacher", "fp16"), ("teacher", "bf16"), ("student", "fp32"), ("student", "bf16"), ("student", "int8")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return (ONNX file, precision)."""
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    model, precision = request.param
    generator = random_generator(WIDTHS[model], mapping_layers=1, conv_clamp=256.0)
    path = tmp_path_factory.mktemp("precision") / f"{model}-{precision}.onnx"
    upsample = "polyphase" if model == "student" else "transposed"
    return export_onnx(generator, path, precision=precision, upsample=upsample), precision  # type: ignore[arg-type]


def test_every_precision_builds_for_three_generations_in_one_file(exported: tuple[Path, str], tmp_path: Path) -> None:
    onnx, precision = exported
    manifest = build_engine(onnx, tmp_path / "x.engine", target="A100, RTX 4090, RTX 5090").manifest
    assert manifest["targets"] == ["sm80", "sm89", "sm120"]
    assert manifest["precision"] == WEIGHTS[precision]
    assert manifest["size_bytes"] > 100_000


def test_turing_is_refused_in_every_precision(
    exported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx, precision = exported
    if not targets.import_flavour("tensorrt-rtx").__version__.startswith("1.7."):
        pytest.skip("known of TensorRT for RTX 1.7 only")
    reason = "datatypes: b16" if precision == "bf16" else "FP32 GEMM is not supported"
    with pytest.raises(MissingCapabilityError, match=reason) as caught:
        build_engine(onnx, tmp_path / "x.engine", target="T4")
    assert "Leave sm75 out" in caught.value.remedy
