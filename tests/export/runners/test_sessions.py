"""How long ONNX Runtime's idle threads spin, and what is said of a file that it does not load."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from dcp_deploy.errors import InputError, MissingCapabilityError
from dcp_deploy.export import load_runner
from dcp_deploy.export.runners.sessions import SPIN_MICROSECONDS, _spin_briefly, onnx_session

SPINNING, DURATION = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"


@pytest.mark.parametrize("version", ["1.32.0", "1.33.0", "2.0.1", "1.34.0.dev20270101"])
def test_idle_threads_spin_for_a_bounded_time(version: str) -> None:
    options = onnxruntime.SessionOptions()
    _spin_briefly(options, version)
    assert options.get_session_config_entry(SPINNING) == "1"
    assert options.get_session_config_entry(DURATION) == str(SPIN_MICROSECONDS)


@pytest.mark.parametrize("version", ["1.20.0", "1.31.9"])
def test_they_do_not_spin_if_the_bound_may_be_ignored(version: str) -> None:
    options = onnxruntime.SessionOptions()
    _spin_briefly(options, version)
    assert options.get_session_config_entry(SPINNING) == "0"


def test_a_file_that_is_too_new_gets_a_sentence_and_a_remedy(float_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(float_onnx)
    model.ir_version = 99
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(MissingCapabilityError, match=r"The file has IR version 99, and this ONNX Runtime") as caught:
        load_runner(tmp_path / "new.onnx")
    assert "dcp-deploy export --ir 8 --opset 17" in caught.value.remedy


def test_a_bfloat16_file_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 22]> g (bfloat16[1, 2, 4, 4] x, bfloat16[2, 2, 3, 3] w)
        => (bfloat16[1, 2, 2, 2] image) { image = Conv (x, w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "old.onnx")
    with pytest.raises(InputError, match="it lacks convolutions in bfloat16") as caught:
        onnx_session(tmp_path / "old.onnx", None, "onnxruntime", 1)
    assert caught.value.remedy.startswith("Export it again")
