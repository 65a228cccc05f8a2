"""Running engines with a stand-in for TensorRT's libraries; its classes have the names of the real bindings."""

from __future__ import annotations

import ast
import ctypes
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dcp_deploy.errors import InputError, MissingCapabilityError, StaleArtifactError, UsageError
from dcp_deploy.export import load_runner
from dcp_deploy.export.runners import engine as module
from dcp_deploy.export.runners.engine import EngineSession, runner_of
from dcp_deploy.export.tensorrt import manifest
from dcp_deploy.files import sha256_file, write_json
from dcp_deploy.generators import GeneratorConfig

from ...engine_facts import ENGINE

PROFILE = {"z": {"min": [2, 4], "opt": [2, 4], "max": [5, 4]}, "psi": {"min": [2], "opt": [2], "max": [5]}}


class FakeContext:
    """Writes images whose every value is sum(z) * psi to the addresses that it was given."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.batches: list[int] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return PROFILE[name]["min"][0] <= shape[0] <= PROFILE[name]["max"][0]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shapes["z"][0], 3, 2, 2)

    def execute_async_v3(self, stream: int) -> bool:
        batch = self.shapes["z"][0]
        self.batches.append(batch)
        z, psi, image = (self.read(name, batch * size) for name, size in (("z", 4), ("psi", 1), ("image", 12)))
        image.reshape(batch, 12)[:] = (z.reshape(batch, 4).sum(1) * psi)[:, None]
        return True

    def read(self, name: str, count: int) -> Any:
        return np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (count,))


class FakeEngine:
    num_io_tensors = 3

    def __init__(self) -> None:
        self.context = FakeContext()

    def create_execution_context(self) -> FakeContext:
        return self.context

    def get_tensor_name(self, index: int) -> str:
        return ("z", "psi", "image")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name == "image" else "in"

    def get_tensor_dtype(self, name: str) -> str:
        return "float"


class FakeRuntime:
    def __init__(self, logger: object) -> None:
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        return FakeEngine() if plan == b"\0trt plan" else None


def fake_tensorrt() -> ModuleType:
    fake = ModuleType("tensorrt_rtx")
    fake.__dict__.update(
        __version__="1.7",
        Logger=type("Logger", (), {"ERROR": 0, "__init__": lambda self, severity: None}),
        Runtime=FakeRuntime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        DataType=SimpleNamespace(FLOAT="float", HALF="half", UINT8="uint8"),
    )
    return fake


class FakeStream:
    cuda_stream = 0

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class FakeGraph:
    """Repeats the context's last run."""

    replays = 0

    def replay(self) -> None:
        FakeGraph.replays += 1
        FakeGraph.context.execute_async_v3(0)

    context: FakeContext


@contextmanager
def nothing(*args: object, **kwargs: object) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace torch.cuda's streams and graphs, so that the tests are the same with and without a GPU."""
    for name, fake in {
        "Stream": FakeStream,
        "current_stream": lambda device: FakeStream(),
        "stream": nothing,
        "CUDAGraph": FakeGraph,
        "graph": nothing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def session(**options: bool) -> EngineSession:
    return EngineSession(fake_tensorrt(), b"\0trt plan", torch.device("cpu"), **options)


def expected(z: Any, psi: Any) -> Any:
    return np.broadcast_to((z.sum(1) * psi)[:, None, None, None], (len(z), 3, 2, 2))


@pytest.mark.parametrize(("batch", "parts"), [(1, [2]), (2, [2]), (5, [5]), (11, [5, 5, 2])])
def test_any_batch_is_run_within_the_profile(batch: int, parts: list[int]) -> None:
    opened = session()
    runner = runner_of("x.engine", {"profile": PROFILE, "resolution": 2, "precision": "fp16+fp32"}, opened)
    z, psi = np.random.default_rng(0).normal(size=(batch, 4)), np.linspace(0.2, 1.0, batch)
    images = runner(z, psi)
    np.testing.assert_allclose(images, expected(z, psi), rtol=1e-5)  # sums of four in float32
    assert opened.context.batches == parts
    assert (runner.z_dim, runner.c_dim, runner.image_size, runner.image) == (4, 0, (2, 2), "float")
    assert (runner.batch, runner.facts["precision"]) == ((2, 5), "fp16+fp32")


def test_an_engine_of_codes_is_refused_with_the_call_that_takes_it() -> None:
    with pytest.raises(UsageError, match="takes ws, not z") as caught:
        runner_of("x.engine", {"profile": {"ws": PROFILE["z"]}}, session())
    assert "load_synthesis" in caught.value.remedy


def test_the_size_of_the_images_is_that_of_the_config() -> None:
    config = GeneratorConfig(8, (3,) * 4, base=(4, 2)).to_dict()
    runner = runner_of("x.engine", {"profile": PROFILE, "config": config, "precision": "fp32"}, session())
    assert runner.image_size == (8, 4)


def test_a_batch_that_the_engine_refuses_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"does not take z of shape \[6, 4\]"):
        session().run({"z": torch.zeros(6, 4), "psi": torch.zeros(6)})


def test_a_graph_is_recorded_once_for_each_batch_size() -> None:
    opened = session(cuda_graph=True)
    FakeGraph.context, FakeGraph.replays = opened.context, 0
    for batch in (2, 2, 3, 2):
        z, psi = torch.randn(batch, 4), torch.rand(batch)
        image = opened.run({"z": z, "psi": psi})
        np.testing.assert_allclose(image.numpy(), expected(z.numpy(), psi.numpy()), rtol=1e-5)
    assert FakeGraph.replays == 4
    assert opened.context.batches == [2, 2, 2, 2, 3, 3, 3, 2, 2, 2]  # first call, recording, replay; then replays


def test_version_compatible_engines_may_contain_their_runtime() -> None:
    assert session(host_code=True).runtime.engine_host_code_allowed
    assert not session().runtime.engine_host_code_allowed


@pytest.fixture
def engine_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that TensorRT refuses to load, on a machine that claims to have its GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(manifest.targets, "present_gpu", lambda: "sm89")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt())
    path = tmp_path / "x.engine"
    path.write_bytes(b"\0trt of another version")
    facts = {"engine_sha256": sha256_file(path), "rebuild": "dcp-deploy engine x.onnx", "profile": PROFILE}
    write_json(path.with_suffix(".json"), {**ENGINE, **facts, "resolution": 2})
    return path


def test_an_engine_that_does_not_load_is_stale(engine_file: Path) -> None:
    with pytest.raises(StaleArtifactError, match="cannot load") as caught:
        load_runner(engine_file)
    assert caught.value.remedy == "Rebuild it: dcp-deploy engine x.onnx"


def test_an_engine_for_another_gpu_is_stale(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest.targets, "present_gpu", lambda: "sm90")
    with pytest.raises(StaleArtifactError, match="targets is sm89 in its manifest, but sm90 here"):
        load_runner(engine_file)


def test_other_backends_do_not_run_engines(engine_file: Path) -> None:
    with pytest.raises(UsageError, match="'onnxruntime' cannot run the TensorRT engine"):
        load_runner(engine_file, backend="onnxruntime")


def test_an_engine_needs_a_gpu(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingCapabilityError, match="needs an NVIDIA GPU"):
        load_runner(engine_file)


# ---- the names of the real bindings ----

OWNERS = {"runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext"}


def used_names() -> dict[str, set[str]]:
    """Return the names of TensorRT that the module uses, by class: ``self.context.x`` is one of IExecutionContext."""
    used: dict[str, set[str]] = {owner: set() for owner in (*OWNERS.values(), "package")}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if isinstance(owner, ast.Attribute) and owner.attr in OWNERS:
                used[OWNERS[owner.attr]].add(node.attr)
            elif isinstance(owner, ast.Name) and owner.id == "trt":
                used["package"].add(node.attr)
    return used


def test_the_names_are_those_of_tensorrt_for_rtx() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    for owner, names in used_names().items():
        assert names, owner
        assert names <= set(dir(rtx if owner == "package" else getattr(rtx, owner))), owner


def test_the_names_are_those_of_tensorrt(tensorrt_bindings: Path) -> None:
    code = "import json, tensorrt as t; print(json.dumps({n: dir(getattr(t, n, t)) for n in %r}))"
    done = subprocess.run(
        [sys.executable, "-c", code % list(used_names())],
        env={**os.environ, "PYTHONPATH": str(tensorrt_bindings)},
        capture_output=True,
        text=True,
        check=True,
    )
    existing = json.loads(done.stdout.splitlines()[-1])
    for owner, names in used_names().items():
        assert names <= set(existing[owner]), owner
