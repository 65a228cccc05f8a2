"""Which runtimes open which files."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest

from dcp_deploy.export.graph.releases import RELEASES, oldest_release, release_of, runtime_words, shortfall, too_new


def identity(ir: int, opset: int) -> bytes:
    text = f'<ir_version: {ir}, opset_import: ["": {opset}]> g (float[1] x) => (float[1] y) {{ y = Identity (x) }}'
    content: bytes = onnx.parser.parse_model(text).SerializeToString()
    return content


def test_a_newer_release_accepts_all_that_an_older_one_does() -> None:
    limits = [(one.ir, one.opset) for one in RELEASES]
    assert limits == sorted(limits) and len(set(limits)) == len(limits)
    servers = [one.triton for one in RELEASES]
    documented = [server for server in servers if server is not None]
    assert documented == sorted(documented) and servers[: len(documented)] == documented


def test_the_oldest_release_for_a_file_is_found() -> None:
    assert runtime_words(8, 17) == "ONNX Runtime 1.13 and Triton 23.04, or later"
    assert runtime_words(10, 18) == "ONNX Runtime 1.18 and Triton 24.05, or later"
    assert runtime_words(14, 28) == "ONNX Runtime 1.32 or later"
    assert oldest_release(99, 17) is None and "newer than" in runtime_words(99, 17)


@pytest.mark.parametrize(
    ("version", "known"), [("1.13.1", "1.13"), ("1.19.2", "1.18"), ("1.31.1", "1.26"), ("1.33.0", "1.32")]
)
def test_a_version_has_the_limits_of_the_last_release_before_it(version: str, known: str) -> None:
    release = release_of(version)
    assert release is not None and release.onnxruntime == known


def test_a_version_before_the_table_is_unknown() -> None:
    assert release_of("1.9.0") is None and shortfall("1.9.0", 8, 17) is None


def test_a_runtime_that_is_too_old_for_a_file_is_named_with_the_remedy() -> None:
    assert shortfall("1.17.3", 8, 17) is None
    problem = shortfall("1.17.3", 10, 18)
    assert problem is not None
    assert (
        "onnxruntime 1.17.3 reads at most 9 and 20" in problem[0] and "Install onnxruntime 1.18 or later" in problem[1]
    )


def test_what_onnxruntime_says_of_a_newer_ir_version_becomes_a_sentence() -> None:
    with pytest.raises(Exception, match="Unsupported model IR version") as caught:
        onnxruntime.InferenceSession(identity(99, 17), providers=["CPUExecutionProvider"])
    meaning = too_new(str(caught.value))
    assert meaning is not None
    assert meaning[0].startswith("The file has IR version 99, and this ONNX Runtime reads up to ")
    assert "--ir 8" in meaning[1]


def test_what_onnxruntime_says_of_a_newer_opset_becomes_a_sentence() -> None:
    with pytest.raises(Exception, match="is under development") as caught:
        onnxruntime.InferenceSession(identity(8, 99), providers=["CPUExecutionProvider"])
    meaning = too_new(str(caught.value))
    assert meaning is not None and meaning[0].startswith("The file has opset 99, and this ONNX Runtime knows up to ")


def test_other_errors_are_left_alone() -> None:
    assert too_new("protobuf parsing failed") is None
