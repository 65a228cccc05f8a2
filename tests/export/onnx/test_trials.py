from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dcp_deploy.export import Tolerance, export_onnx, verify
from dcp_deploy.export.onnx.trials import Trials, Verdict, leave_out
from dcp_deploy.export.runners.runner import Runner

from ..conftest import random_generator

PSIS = (0.5, 1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    network = random_generator((8, 8, 8, 8, 8, 8))
    return onnx.load(export_onnx(network, tmp_path_factory.mktemp("onnx") / "exact.onnx", image="float"))


@pytest.fixture
def trials(model: onnx.ModelProto, tmp_path: Path) -> Trials:
    return Trials(model, tmp_path, latents=6, psis=PSIS, seed=0)


def shifted(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """Return the model with all weights of one layer changed by this share."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    (weight,) = (tensor for tensor in result.graph.initializer if tensor.name == "synthesis.b8.conv1.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1 + by), weight.name))
    return result


def counted_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the batch size of every call of a runner."""
    sizes: list[int] = []
    call = Runner.__call__

    def counting(self: Runner, z: np.ndarray, psi: np.ndarray | float = 1.0, c: np.ndarray | None = None) -> np.ndarray:
        sizes.append(len(z))
        return call(self, z, psi, c)

    monkeypatch.setattr(Runner, "__call__", counting)
    return sizes


def test_verdict_and_psnr_are_those_of_the_gate(trials: Trials, model: onnx.ModelProto, tmp_path: Path) -> None:
    changed = shifted(model, 0.01)
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(changed, tmp_path / "b.onnx")
    report = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", latents=6, psis=PSIS)
    assert report.mean_abs is not None and report.psnr_db is not None
    for share in (0.999, 1.001):  # a limit on the mean is only decided by all images
        limits = Tolerance(None, None, None, mean_abs=report.mean_abs * share)
        verdict = trials.judge(changed, limits)
        assert verdict.passed == (share > 1)
    assert verdict.psnr_db == pytest.approx(report.psnr_db, abs=1e-3)


def test_identical_images_pass_without_a_psnr(trials: Trials, model: onnx.ModelProto) -> None:
    assert trials.judge(model, Tolerance()) == Verdict(True, None)


def test_a_bad_trial_ends_with_the_first_image(
    trials: Trials, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = counted_images(monkeypatch)
    assert not trials.judge(shifted(model, 1.0), Tolerance(None, None, None, psnr_db=60.0)).passed
    assert sizes == [1, 1]  # of each file


def test_the_image_that_broke_a_limit_comes_first_in_the_next_trial(
    trials: Trials, model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = shifted(model, 0.01)
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(changed, tmp_path / "b.onnx")
    images = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", latents=6, psis=(1.0,)).worst_list
    worst, others = images[0].psnr_db, images[1].psnr_db
    assert worst is not None and others is not None and worst < others - 1e-3
    limits = Tolerance(None, None, None, psnr_db=(worst + others) / 2)  # only one image fails
    assert not trials.judge(changed, limits).passed
    sizes = counted_images(monkeypatch)
    assert not trials.judge(changed, limits).passed
    assert sizes == [1, 1]


def test_least_psnr_is_of_the_worst_image_at_the_largest_psi(
    trials: Trials, model: onnx.ModelProto, tmp_path: Path
) -> None:
    changed = shifted(model, 0.01)
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(changed, tmp_path / "b.onnx")
    report = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", latents=6, psis=(1.0,))
    assert trials.least_psnr(changed) == pytest.approx(report.least_psnr_db, abs=1e-3)
    assert trials.least_psnr(changed, 2) > trials.least_psnr(changed) - 1e-9


def test_values_that_are_not_finite_rank_last(trials: Trials, model: onnx.ModelProto) -> None:
    assert trials.least_psnr(shifted(model, np.nan)) == 0.0
    assert not trials.judge(shifted(model, np.nan), Tolerance()).passed


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (set(), ()),
        ({"a"}, ("a",)),
        ({"c"}, ("c",)),
        ({"b", "c"}, ("b", "c")),
        ({"a", "d"}, ("a", "d")),
        ({"a", "b", "c", "d", "e"}, None),
    ],
)
def test_only_the_layers_needed_for_passing_stay_float32(needed: set[str], expected: tuple[str, ...] | None) -> None:
    tried: list[tuple[str, ...]] = []
    counts: list[int] = []

    def compare(left_out: Collection[str]) -> Verdict:
        tried.append(tuple(left_out))
        return Verdict(needed <= set(left_out), None)

    found = leave_out("abcde", compare, progress=lambda done, total: counts.append(done))
    assert (found and found[0]) == expected
    assert counts == list(range(1, len(tried) + 1)) and len(tried) == len(set(tried)) < 10


def test_the_search_can_begin_with_a_layer_left_out() -> None:
    tried: list[tuple[str, ...]] = []

    def compare(left_out: Collection[str]) -> Verdict:
        tried.append(tuple(left_out))
        return Verdict(True, 40.0)

    assert leave_out("abc", compare, least=1) == (("a",), Verdict(True, 40.0))
    assert tried == [("a",)]
