from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from dcp_deploy.errors import ParityError, UsageError
from dcp_deploy.export import ParityReport, Runner, Tolerance, load_runner, verify
from dcp_deploy.generators import Generator

from .conftest import random_generator

FEW = 6  # latents; times three psi


def failed(report: ParityReport) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def redraw(runner: Runner, change: Callable[[np.ndarray], np.ndarray]) -> Runner:
    """The same runner with its images changed."""
    return dataclasses.replace(runner, name="changed", draw=lambda z, psi, c: change(runner.draw(z, psi, c)))


def broken(source: Path, target: Path, damage: Callable[[onnx.ModelProto], None]) -> Path:
    """An exported file with one mistake in it."""
    model = onnx.load(source)
    damage(model)
    onnx.save(model, target)
    return target


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(changed, name))

    return damage


def ignore_psi(model: onnx.ModelProto) -> None:
    """Every sample takes the psi of the first: right for batches of one psi only."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    node = next(node for node in model.graph.node if node.name == "styles/Unsqueeze")
    node.input[0] = "first psi"
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["psi", "first"], ["first psi"]))


def set_nan(values: np.ndarray) -> np.ndarray:
    values.flat[0] = np.nan
    return values


def shift_filter(model: onnx.ModelProto) -> None:
    """The FIR of the up-sampling layers, which lies in the body of their operator, a sample late."""
    body = next(function for function in model.functions if function.name.startswith("FirEpilogue"))
    taps = next(node for node in body.node if node.output[0] == "tap").attribute[0].t
    taps.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(taps), 1, axis=3)))


MISTAKES = {
    "flipped convolution": edit("synthesis.b16.conv0.weight", lambda w: w[:, :, ::-1, ::-1]),
    "shifted low-pass filter": shift_filter,
    "dropped noise": edit("synthesis.b32.conv1.noise", np.zeros_like),
    "no demodulation of one layer": edit("synthesis.b8.conv1.energy", np.ones_like),
    "psi of another sample": ignore_psi,
    "swapped colours": edit("synthesis.b32.torgb.weight", lambda w: w[::-1]),
    "NaN in a weight": edit("synthesis.b8.conv0.weight", set_nan),
    "constant input lost": edit("synthesis.const", np.zeros_like),
}

MISTAKES_OF_STYLEGAN3 = {
    "phases lost": edit("synthesis.input.phases", np.zeros_like),
    "turned the other way": edit("synthesis.input.along_sine", np.negative),
    "flipped convolution": edit("synthesis.L0.conv.weight", lambda w: w[:, :, ::-1, ::-1]),
    "magnitude of one layer lost": edit("synthesis.L1.conv.energy", lambda energy: energy * 2),
    "up-sampling a sample late": edit("synthesis.L2.lrelu.up", lambda u: np.roll(u, 1, axis=0)),
    "image scale lost": edit("synthesis.torgb.weight", lambda w: 4 * w),
}


def test_an_export_passes(unconditional: Generator, float_onnx: Path) -> None:
    report = verify(unconditional, float_onnx, latents=FEW)
    assert report.passed, failed(report)
    assert report.images == FEW * 3
    assert 0 < report.max_abs < 2e-5  # two orders of summation in float32
    assert report.psnr_db > 100
    report.raise_for_failure()


def test_a_uint8_export_passes_against_float(conditional: Generator, uint8_onnx: Path) -> None:
    report = verify(conditional, uint8_onnx, latents=FEW)
    assert report.passed, failed(report)
    assert report.max_steps <= 1


def test_an_export_of_stylegan3_passes(translating: Generator, translating_onnx: Path) -> None:
    report = verify(translating, translating_onnx, latents=FEW)
    assert report.passed, failed(report)
    assert 0 < report.max_abs < 2e-5  # two orders of summation in float32


def test_a_uint8_export_of_stylegan3_with_radial_filters_passes(rotating: Generator, rotating_onnx: Path) -> None:
    report = verify(rotating, rotating_onnx, latents=FEW)
    assert report.passed, failed(report)
    assert report.max_steps <= 1


@pytest.mark.parametrize("mistake", MISTAKES_OF_STYLEGAN3)
def test_a_broken_export_of_stylegan3_fails(
    mistake: str, translating: Generator, translating_onnx: Path, tmp_path: Path
) -> None:
    path = broken(translating_onnx, tmp_path / "broken.onnx", MISTAKES_OF_STYLEGAN3[mistake])
    assert "largest difference" in failed(verify(translating, path, latents=2))


def test_identical_sides_have_no_distance(unconditional: Generator) -> None:
    report = verify(unconditional, unconditional, latents=2)
    assert report.passed
    assert (report.max_abs, report.max_steps, report.psnr_db) == (0.0, 0, None)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_export_fails(mistake: str, unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = broken(float_onnx, tmp_path / "broken.onnx", MISTAKES[mistake])
    report = verify(unconditional, path, latents=FEW)
    assert not report.passed
    assert "largest difference" in failed(report)
    with pytest.raises(ParityError, match=r"differ") as caught:
        report.raise_for_failure()
    assert caught.value.exit_code == 5


def test_a_broken_uint8_export_fails(conditional: Generator, uint8_onnx: Path, tmp_path: Path) -> None:
    path = broken(uint8_onnx, tmp_path / "broken.onnx", MISTAKES["dropped noise"])
    assert {"largest 8-bit difference", "share of 8-bit values that differ"} & failed(
        verify(conditional, path, latents=FEW)
    )


def test_nan_is_counted_and_no_distance_is_invented(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = broken(float_onnx, tmp_path / "nan.onnx", MISTAKES["NaN in a weight"])
    report = verify(unconditional, path, latents=2)
    assert "values of b not finite" in failed(report)
    assert report.max_abs is None
    json.dumps(report.to_dict(), allow_nan=False)


def test_nan_of_a_float_side_is_seen_beside_a_uint8_side(conditional: Generator, uint8_onnx: Path) -> None:
    sick = redraw(load_runner(conditional), lambda images: np.where(images > 0.5, np.float32(np.nan), images))
    report = verify(sick, uint8_onnx, latents=2)
    assert "values of a not finite" in failed(report)


def test_one_image_for_all_latents_fails(unconditional: Generator) -> None:
    stuck = redraw(load_runner(unconditional), lambda images: np.tile(np.linspace(-1, 1, 32), (len(images), 3, 32, 1)))
    assert failed(verify(stuck, stuck, latents=2)) == {"psi at which a is constant", "psi at which b is constant"}


def test_psi_zero_may_draw_the_mean_only(unconditional: Generator) -> None:
    assert verify(unconditional, unconditional, latents=2, psis=(0.0, 1.0)).passed


def test_flat_images_fail(unconditional: Generator) -> None:
    grey = redraw(load_runner(unconditional), lambda images: images[:, :, :1, :1].repeat(32, 2).repeat(32, 3))
    assert failed(verify(grey, grey, latents=2)) == {"images of a of one colour", "images of b of one colour"}


def test_images_in_the_wrong_range_fail(unconditional: Generator) -> None:
    large = redraw(load_runner(unconditional), lambda images: images * 127.5 + 128)
    assert failed(verify(large, large, latents=2)) == {"values of a out of range", "values of b out of range"}


def test_a_wrong_shape_fails(unconditional: Generator) -> None:
    wrong = redraw(load_runner(unconditional), lambda images: images[:, :, :16])
    report = verify(unconditional, wrong, latents=2)
    assert failed(report) == {"unlike shapes"}
    assert report.worst is None
    with pytest.raises(ParityError, match="drew"):
        report.raise_for_failure()


def test_unlike_models_fail_without_drawing(unconditional: Generator) -> None:
    report = verify(unconditional, random_generator((4, 3, 5, 2)), latents=2)
    assert failed(report) == {"unlike shapes"}
    assert report.images == 0


def test_the_worst_sample_is_found_again(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    calls: list[tuple[float, float]] = []

    def spoil(z: np.ndarray, psi: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        images = runner.draw(z, psi, c)
        chosen = np.isclose(z[:, 0], np.random.RandomState(13).randn(24)[0]) & np.isclose(psi, 0.7)
        calls.extend(zip(z[:, 0], psi, strict=True))
        images[chosen] = -images[chosen]
        return images

    report = verify(runner, dataclasses.replace(runner, draw=spoil), latents=5, seed=10)
    assert report.worst == (13, 0.7)
    assert len(calls) == 15
    with pytest.raises(ParityError, match=r"worst: seed 13, psi 0\.7"):
        report.raise_for_failure()


def test_batches_change_size_and_mix_psi(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    seen: list[int] = []
    mixed: list[int] = []

    def watch(z: np.ndarray, psi: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        seen.append(len(z))
        mixed.append(len(np.unique(psi)))
        return runner.draw(z, psi, c)

    verify(runner, dataclasses.replace(runner, draw=watch), latents=7)
    assert seen == [1, 3, 8, 1, 3, 5]
    assert mixed == [1, 3, 3, 1, 3, 3]


def test_a_tolerance_of_ones_own_is_used_and_recorded(unconditional: Generator) -> None:
    darker = redraw(load_runner(unconditional), lambda images: images - np.float32(0.01))
    assert not verify(unconditional, darker, latents=2).passed
    loose = verify(unconditional, darker, latents=2, tolerance=Tolerance(max_abs=0.02, max_steps=3, differing=1.0))
    assert loose.passed
    assert loose.to_dict()["tolerance"] == {"max_abs": 0.02, "max_steps": 3, "differing": 1.0}


def test_distances_are_those_of_the_clamped_images(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    beyond = redraw(runner, lambda images: np.where(np.abs(images) > 1, 2 * images, images))
    report = verify(runner, beyond, latents=2, psis=(1.0,))
    assert report.max_abs == 0.0


def test_figures_follow_their_definitions(unconditional: Generator) -> None:
    offset = 0.05
    low = redraw(load_runner(unconditional), lambda images: np.clip(images, -0.9, 0.9).astype(np.float32))
    high = redraw(low, lambda images: images + np.float32(offset))
    report = verify(low, high, latents=2)
    assert report.max_abs == pytest.approx(offset, abs=1e-6)
    assert report.mean_abs == pytest.approx(offset, abs=1e-6)
    assert report.psnr_db == pytest.approx(10 * np.log10(4 / offset**2), abs=1e-3)
    assert report.max_steps == 7  # 0.05 * 127.5 = 6.4, truncated at either end
    assert report.mean_steps == pytest.approx(offset * 127.5, abs=0.1)


def test_the_report_is_json(unconditional: Generator, float_onnx: Path) -> None:
    document = json.loads(json.dumps(verify(unconditional, float_onnx, latents=2).to_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["seeds"] == [0, 1]
    assert document["b"] == {"name": "float.onnx", "backend": "onnxruntime", "image": "float"}
    assert set(document["worst"]) == {"seed", "psi"}
    assert {"name", "value", "limit", "passed", "detail"} <= set(document["checks"][0])


def test_the_worst_sample_becomes_a_picture(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = broken(float_onnx, tmp_path / "x.onnx", MISTAKES["dropped noise"])
    report = verify(unconditional, path, latents=2)
    picture = np.asarray(Image.open(report.save_worst(tmp_path / "worst.png")))
    assert picture.shape == (256 + 20, 3 * 256, 3)
    a, b, difference = np.split(picture[20:], 3, axis=1)
    assert np.array_equal(a[::8, ::8], np.clip(report.worst_images[0] * 127.5 + 128, 0, 255).astype(np.uint8))
    assert not np.array_equal(a, b)
    assert difference.max() == 255  # amplified: a human sees even one step


def test_no_picture_when_nothing_was_drawn(unconditional: Generator, tmp_path: Path) -> None:
    report = verify(unconditional, random_generator((4, 3, 5, 2)), latents=2)
    assert report.save_worst(tmp_path / "worst.png") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings", [{"latents": 1}, {"psis": ()}, {"batches": ()}, {"batches": (0,)}, {"seed": -1}, {"seed": 2**32 - 1}]
)
def test_settings_that_compare_nothing_are_refused(settings: dict[str, object], unconditional: Generator) -> None:
    with pytest.raises(UsageError, match="compare nothing"):
        verify(unconditional, unconditional, **{"latents": 2, **settings})  # type: ignore[arg-type]


def test_both_sides_get_the_same_class(conditional: Generator) -> None:
    runner = load_runner(conditional)
    other = dataclasses.replace(runner, draw=lambda z, psi, c: runner.draw(z, psi, np.roll(c, 1, axis=1)))
    assert verify(runner, runner, latents=3).passed
    assert not verify(runner, other, latents=3).passed
    assert torch.is_inference_mode_enabled() is False
