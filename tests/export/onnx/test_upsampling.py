"""Choosing the up-sampling method by measuring."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.export import FusedSynthesis, export_onnx
from dcp_deploy.export.fused.stylegan2 import FusedConv, Upsample
from dcp_deploy.export.onnx.upsampling import ROUNDS, choice, choose_methods, in_turns, layer_model
from dcp_deploy.generators import Generator

from ..conftest import random_generator, random_stylegan3


@pytest.fixture(scope="module")
def generator() -> Generator:
    return random_generator((6, 5, 4, 3, 4, 3), conv_clamp=0.7)


def test_every_layer_gets_the_faster_method(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = choose_methods(generator, batch=2)
    assert list(chosen) == ["b8.conv0", "b16.conv0"]
    for entry in chosen.values():
        times = {"transposed": entry.transposed_ms, "polyphase": entry.polyphase_ms}
        assert min(times.values()) > 0
        assert times[entry.form] == min(times.values())
        assert entry.backend == f"onnxruntime {onnxruntime.__version__} on the CPU, batch 2"


@pytest.mark.gpu
def test_torch_is_measured_where_there_is_a_gpu(generator: Generator) -> None:
    chosen = choose_methods(generator)
    assert list(chosen) == ["b8.conv0", "b16.conv0"]
    for entry in chosen.values():
        assert torch.cuda.get_device_name() in entry.backend
        assert 0 < min(entry.transposed_ms, entry.polyphase_ms) < 1000


def test_stylegan3_has_nothing_to_choose() -> None:
    assert choose_methods(random_stylegan3((4, 3, 5, 2, 3))) == {}


@pytest.mark.parametrize(("seconds", "method"), [((1e-3, 2e-3), "transposed"), ((3e-3, 1e-3), "polyphase")])
def test_the_faster_method_is_chosen_with_a_reason(seconds: tuple[float, float], method: str) -> None:
    chosen = choice(*seconds, "somewhere")
    assert (chosen.form, chosen.transposed_ms, chosen.polyphase_ms) == (method, seconds[0] * 1e3, seconds[1] * 1e3)
    assert f"{max(seconds) / min(seconds):.2f} times as fast" in chosen.reason


def test_both_are_run_in_turns_and_the_first_round_does_not_count() -> None:
    ran: list[str] = []

    def timer(name: str, times: list[float]) -> Callable[[], float]:
        def run() -> float:
            ran.append(name)
            return times.pop(0)

        return run

    slow_start = [timer("a", [9.0, *[0.1, 0.3, 0.2] * 3]), timer("b", [9.0, *[0.01] * ROUNDS])]
    assert in_turns(slow_start) == [0.2, 0.01]
    assert ran == ["a", "b"] * (1 + ROUNDS)


def test_slow_runs_are_repeated_three_times_only() -> None:
    ran: list[float] = []
    assert in_turns([lambda: ran.append(5.0) or 5.0]) == [5.0]  # type: ignore[func-returns-value]
    assert len(ran) == 1 + 3


@pytest.mark.parametrize("noise", ["const", "none"])
def test_the_timed_models_are_the_layer_and_both_methods_are_the_same_function(
    noise: str, generator: Generator
) -> None:
    random = np.random.default_rng(0)
    feeds = {
        "input": random.standard_normal((2, 5, 4, 4)).astype(np.float32),
        "scale": random.random((2, 4)).astype(np.float32),
        "next_scale": random.random((2, 4)).astype(np.float32),
    }
    images = []
    method: Upsample
    for method in ("transposed", "polyphase"):
        network = FusedSynthesis(generator, upsample=method, noise=noise)  # type: ignore[arg-type]
        conv = network.get_submodule("synthesis.b8.conv0")
        assert isinstance(conv, FusedConv)
        model = layer_model(conv, (4, 4))
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        images.append(session.run(["image"], feeds)[0])
    assert images[0].shape == (2, 4, 8, 8) and images[0].std() > 0.01
    assert np.abs(images[0] - images[1]).max() < 1e-5  # float32 below 1, two orders of summation


def test_without_gpu_and_onnxruntime_the_error_names_the_remedy(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingCapabilityError, match="has neither"):
        choose_methods(generator)


def test_the_file_records_the_measurement_and_its_choice_gives_the_same_graph(tmp_path: Path) -> None:
    generator = random_generator((4, 3, 5, 2))
    measured = onnx.load(export_onnx(generator, tmp_path / "auto.onnx", upsample="auto"))
    recorded = json.loads({entry.key: entry.value for entry in measured.metadata_props}["upsample"])
    assert list(recorded) == ["b8.conv0"]
    assert set(recorded["b8.conv0"]) == {"form", "transposed_ms", "polyphase_ms", "backend", "reason"}
    method = recorded["b8.conv0"]["form"]
    again = onnx.load(export_onnx(generator, tmp_path / "again.onnx", upsample={"b8.conv0": method}))
    assert again.graph == measured.graph
