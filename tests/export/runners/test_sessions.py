"""How long ONNX Runtime's idle threads spin."""

from __future__ import annotations

import onnxruntime
import pytest

from dcp_deploy.export.runners.sessions import SPIN_MICROSECONDS, _spin_briefly

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
