"""Every backend of a benchmark computes with the same number of CPU threads, read back from the runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.benchmarks import open_matrix, plan_matrix
from dcp_deploy.benchmarks.candidates.loading import open_candidate
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.devices import VARIABLE
from dcp_deploy.export.runners import openvino as openvino_runner
from dcp_deploy.export.runners import sessions
from dcp_deploy.generators import Generator

ON_CPU = ("torch", "torch-compile", "onnxruntime", "onnxruntime-winograd", "openvino", "openvino-winograd")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The threads that each runtime reports, by the runtime's name, filled while candidates are opened and called."""
    found: dict[str, list[int]] = {"torch": [], "onnxruntime": [], "openvino": [], "operators": []}
    of_torch, of_onnx, of_openvino = Generator.forward, sessions.onnx_session, openvino_runner._core

    def forward(generator: Generator, *args: Any, **settings: Any) -> Any:
        found["torch"].append(torch.get_num_threads())
        return of_torch(generator, *args, **settings)

    def session(path: Path, model: bytes | None, backend: str, threads: int | None) -> Any:
        opened = of_onnx(path, model, backend, threads)
        found["onnxruntime"].append(opened.get_session_options().intra_op_num_threads)
        found["operators"] += [] if model is None else operator_threads(model)
        return opened

    class Core:
        """OpenVINO's Core, which reports what it compiled for."""

        def __init__(self, core: Any) -> None:
            self.core = core

        def __getattr__(self, name: str) -> Any:
            return getattr(self.core, name)

        def read_model(self, graph: bytes) -> Any:
            found["operators"] += operator_threads(graph)
            return self.core.read_model(graph)

        def compile_model(self, *args: Any) -> Any:
            compiled = self.core.compile_model(*args)
            found["openvino"].append(int(compiled.get_property("INFERENCE_NUM_THREADS")))
            return compiled

    monkeypatch.setattr(Generator, "forward", forward)
    monkeypatch.setattr(Generator, "compile", lambda generator, dynamic: None)  # compiling takes minutes
    monkeypatch.setattr(sessions, "onnx_session", session)
    monkeypatch.setattr(openvino_runner, "_core", lambda package: Core(of_openvino(package)))
    return found


def operator_threads(graph: bytes) -> list[int]:
    """The threads of our operators in a graph."""
    import onnx

    nodes = onnx.load_from_string(graph).graph.node
    return [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "threads"]


@pytest.mark.parametrize(("given", "stated", "expected"), [(2, "1", 2), (None, "1", 1), (None, "2", 2)])
def test_all_backends_compute_with_one_number_of_threads(
    small_generator: Generator,
    exported: Path,
    used: dict[str, list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: int | None,
    stated: str,
    expected: int,
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv(VARIABLE, stated)
    save_generator(small_generator, tmp_path / "student.safetensors")
    files = {"student": [tmp_path / "student.safetensors", exported]}
    specs, _ = plan_matrix(files, backends=",".join(ON_CPU), threads=given)
    opened, skipped = open_matrix(specs, open_candidate, tolerant=True)
    used["torch"].clear()  # the work of a candidate is counted by a call, before any is timed
    for candidate in opened.values():
        candidate()
    assert not skipped and len(opened) == len(ON_CPU)
    assert {name: set(numbers) for name, numbers in used.items()} == {name: {expected} for name in used}
    assert {candidate.labels()["threads"] for candidate in opened.values()} == {expected}
