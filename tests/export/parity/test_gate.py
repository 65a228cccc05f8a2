from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from dcp_deploy.errors import InputError, ParityError, UsageError
from dcp_deploy.export import ParityReport, Runner, Tolerance, load_runner, tolerance_for, verify
from dcp_deploy.export.parity.image_stream import ImageStream
from dcp_deploy.export.parity.pictures import CAPTION, GAP, shortened
from dcp_deploy.generators import Generator

from ..conftest import random_generator
from .breaking import broken, edit

FEW = 6  # latents; times three psi


def failed(report: ParityReport) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def redraw(runner: Runner, change: Callable[[np.ndarray], np.ndarray]) -> Runner:
    """Return the same runner with changed images."""
    return dataclasses.replace(runner, name="changed", draw=lambda z, psi, c: change(runner.draw(z, psi, c)))


def set_nan(values: np.ndarray) -> np.ndarray:
    values.flat[0] = np.nan
    return values


def test_an_export_passes(unconditional: Generator, float_onnx: Path) -> None:
    report = verify(unconditional, float_onnx, latents=FEW)
    assert report.passed, failed(report)
    assert report.images == FEW * 3
    assert 0 < report.max_abs < 2e-5  # two orders of summation in float32
    assert report.psnr_db > 100
    assert report.least_ssim > 0.99999
    assert (report.precision, report.tolerance, report.layers) == ("fp32", Tolerance(), None)
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


def test_identical_artefacts_have_no_distance(unconditional: Generator) -> None:
    report = verify(unconditional, unconditional, latents=2)
    assert report.passed
    assert (report.max_abs, report.max_steps, report.psnr_db, report.ssim) == (0.0, 0, None, pytest.approx(1.0))
    assert (report.p999_abs, report.p999_steps) == (0.0, 0)


def test_nan_is_counted_and_no_distance_is_invented(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = broken(float_onnx, tmp_path / "nan.onnx", edit("synthesis.b8.conv0.weight", set_nan))
    report = verify(unconditional, path, latents=2)
    assert "values of b are finite" in failed(report)
    assert report.max_abs is None
    json.dumps(report.to_dict(), allow_nan=False)


def test_nan_of_a_float_side_is_seen_beside_a_uint8_side(conditional: Generator, uint8_onnx: Path) -> None:
    sick = redraw(load_runner(conditional), lambda images: np.where(images > 0.5, np.float32(np.nan), images))
    report = verify(sick, uint8_onnx, latents=2)
    assert "values of a are finite" in failed(report)


def test_one_image_for_all_latents_fails(unconditional: Generator) -> None:
    stuck = redraw(load_runner(unconditional), lambda images: np.tile(np.linspace(-1, 1, 32), (len(images), 3, 32, 1)))
    assert failed(verify(stuck, stuck, latents=2)) == {
        "images of a change with the latent",
        "images of b change with the latent",
    }


def test_no_check_passes_beside_words_that_say_the_opposite(unconditional: Generator) -> None:
    report = verify(unconditional, unconditional, latents=2)
    details = {check.name: check.detail for check in report.checks}
    assert details["images of b change with the latent"] == "yes, at every psi"
    assert details["images of b have several colours"] == "yes, all 6"
    assert details["shapes agree"] == "yes"
    assert all(check.detail for check in report.checks)
    assert (
        report.verdict.startswith("passed: ")
        and "within the tolerance of fp32 (6 images, psi 0.5, 0.7, 1)" in report.verdict
    )


def test_progress_counts_pairs_of_images(unconditional: Generator) -> None:
    calls: list[tuple[int, int]] = []
    verify(unconditional, unconditional, latents=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls) and calls[-1] == (9, 9)


def test_psi_zero_may_draw_the_mean_only(unconditional: Generator) -> None:
    assert verify(unconditional, unconditional, latents=2, psis=(0.0, 1.0)).passed


def test_a_fault_of_the_original_is_not_blamed_on_the_export(unconditional: Generator, float_onnx: Path) -> None:
    def grey(images: np.ndarray) -> np.ndarray:
        return np.broadcast_to(images[:, :, :1, :1], images.shape).copy()

    report = verify(*(redraw(load_runner(artefact), grey) for artefact in (unconditional, float_onnx)), latents=2)
    details = {check.name: check.detail for check in report.checks}
    assert "the original: 6 images too; the network is like that" in details["images of b have several colours"]
    assert "the original" not in details["images of a have several colours"]


def test_flat_images_fail(unconditional: Generator) -> None:
    grey = redraw(load_runner(unconditional), lambda images: images[:, :, :1, :1].repeat(32, 2).repeat(32, 3))
    assert failed(verify(grey, grey, latents=2)) == {
        "images of a have several colours",
        "images of b have several colours",
    }


def test_images_in_the_wrong_range_fail(unconditional: Generator) -> None:
    large = redraw(load_runner(unconditional), lambda images: images * 127.5 + 128)
    assert failed(verify(large, large, latents=2)) == {"values of a are within range", "values of b are within range"}


def test_a_wrong_shape_fails(unconditional: Generator) -> None:
    wrong = redraw(load_runner(unconditional), lambda images: images[:, :, :16])
    report = verify(unconditional, wrong, latents=2)
    assert failed(report) == {"shapes agree"}
    assert report.worst is None
    with pytest.raises(ParityError, match="returned"):
        report.raise_for_failure()


def test_unlike_models_fail_without_drawing(unconditional: Generator) -> None:
    report = verify(unconditional, random_generator((4, 3, 5, 2)), latents=2)
    assert failed(report) == {"shapes agree"}
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
    listed = report.worst_list
    assert len(listed) == 8 and (listed[0].seed, listed[0].psi) == (13, 0.7)
    assert listed[0].max_abs == report.max_abs and listed[0].ssim == pytest.approx(report.least_ssim)
    assert listed[1].max_abs == 0.0
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


def test_batch_sizes_are_those_that_both_artefacts_take(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    few, many = (dataclasses.replace(runner, batch=bounds) for bounds in ((2, 5), (1, 64)))
    assert verify(few, many, latents=4).batches == (2, 3, 5)
    assert verify(runner, dataclasses.replace(runner, batch=(4, 4)), latents=3).batches == (4,)  # 9 pairs: 4, 4, 4
    with pytest.raises(UsageError, match="no batch fits both artefacts: they take 2 to 5 and 8 to 9"):
        verify(few, dataclasses.replace(runner, batch=(8, 9)), latents=4)


def test_the_tolerance_is_that_of_the_coarser_precision_declared(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    half = dataclasses.replace(runner, facts={"precision": "fp16+fp32"})  # as in the manifest of an engine
    for pair in ((runner, half), (half, runner)):
        report = verify(*pair, latents=2)
        assert (report.precision, report.tolerance) == ("fp16", tolerance_for("fp16"))
    byte = dataclasses.replace(runner, facts={"precision": "int8+fp32"})
    assert verify(byte, half, latents=2).precision == "int8"
    assert verify(runner, half, latents=2, precision="fp32").tolerance == Tolerance()
    with pytest.raises(InputError, match=r"an unknown precision 'fp8'"):
        verify(runner, dataclasses.replace(runner, facts={"precision": "fp8"}), latents=2)


def test_nan_passes_in_no_precision(unconditional: Generator) -> None:
    runner = load_runner(unconditional)
    sick = redraw(runner, lambda images: np.where(images == images.max(), np.float32(np.nan), images))
    for precision in ("fp32", "fp16", "bf16", "int8"):
        report = verify(runner, sick, latents=2, precision=precision)
        by_precision = {"largest difference"} if precision == "fp32" else {
            "mean difference", "PSNR of the worst image", "SSIM of the least alike image"
        }  # fmt: skip
        assert {"values of b are finite"} | by_precision <= failed(report)
        json.dumps(report.to_dict(), allow_nan=False)


def test_memory_does_not_grow_with_the_number_of_images(unconditional: Generator) -> None:
    stream = ImageStream(*(load_runner(unconditional) for _ in range(2)))
    sizes = []
    for start in range(0, 60, 20):
        stream.compare([(seed, 0.7) for seed in range(start, start + 20)])
        sizes.append(len(pickle.dumps(vars(stream.distances))))
    assert len(set(sizes[1:])) == 1


def test_a_tolerance_of_ones_own_is_used_and_recorded(unconditional: Generator) -> None:
    darker = redraw(load_runner(unconditional), lambda images: images - np.float32(0.01))
    assert not verify(unconditional, darker, latents=2).passed
    loose = verify(unconditional, darker, latents=2, tolerance=Tolerance(max_abs=0.02, max_steps=3, differing=1.0))
    assert loose.passed
    assert loose.precision is None
    recorded = {name: value for name, value in loose.to_dict()["tolerance"].items() if value is not None}
    assert recorded == {"max_abs": 0.02, "max_steps": 3, "differing": 1.0, "layer": Tolerance().layer}


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
    assert report.p999_abs == pytest.approx(offset, abs=1e-6)
    assert report.least_psnr_db == pytest.approx(report.psnr_db, abs=1e-3)
    assert report.max_steps == report.p999_steps == 7  # 0.05 * 127.5 = 6.4, truncated at either end
    assert report.mean_steps == pytest.approx(offset * 127.5, abs=0.1)


def test_the_report_is_json(unconditional: Generator, float_onnx: Path) -> None:
    document = json.loads(json.dumps(verify(unconditional, float_onnx, latents=2).to_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["seeds"] == [0, 1]
    assert document["b"] == {"name": "float.onnx", "backend": "onnxruntime", "image": "float"}
    assert set(document["worst"]) == {"seed", "psi"}
    assert {"name", "value", "limit", "passed", "detail"} <= set(document["checks"][0])


def test_the_worst_sample_becomes_a_picture(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    path = broken(float_onnx, tmp_path / "x.onnx", edit("synthesis.b32.conv1.noise", np.zeros_like))
    report = verify(unconditional, path, latents=2)
    picture = np.asarray(Image.open(report.save_worst(tmp_path / "worst.png")))
    assert picture.shape == (256 + CAPTION, 3 * 256 + 2 * GAP, 3)
    a, b, difference = (picture[CAPTION:, start : start + 256] for start in range(0, 3 * 256, 256 + GAP))
    assert np.array_equal(a[::8, ::8], np.clip(report.worst_images[0] * 127.5 + 128, 0, 255).astype(np.uint8))
    assert not np.array_equal(a, b)
    assert difference.max() == 255  # amplified: a human sees even one step


def captions_of(report: ParityReport, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Return the words above the images of the worst sample."""
    words: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", lambda self, place, text, *rest: words.append(text))
    assert report.save_worst(folder / "worst.png") is not None
    return words


def test_the_picture_names_the_files_the_seed_and_a_difference_of_zero(
    unconditional: Generator, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = verify(float_onnx, unconditional, latents=2)
    seed, psi = report.worst
    found = captions_of(report, monkeypatch, tmp_path)
    assert found[0] == f"a: float.onnx\nseed {seed}, psi {psi:g}" and found[1] == f"b: {report.b['name']}"
    same = captions_of(verify(float_onnx, float_onnx, latents=2), monkeypatch, tmp_path)
    assert same[1:] == ["b: float.onnx, onnxruntime", "no difference"]


@pytest.mark.parametrize("name", ["a_very_long_name_" * 9, "\udcff.onnx", "two\nlines"])
def test_a_name_of_any_length_and_encoding_fits_above_its_image(name: str) -> None:
    shown = shortened(name, 100, ImageFont.load_default())
    assert 0 < ImageFont.load_default().getlength(shown) <= 100
    assert ("..." in shown) == (len(name) > 100)


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


def test_both_artefacts_get_the_same_class(conditional: Generator) -> None:
    runner = load_runner(conditional)
    other = dataclasses.replace(runner, draw=lambda z, psi, c: runner.draw(z, psi, np.roll(c, 1, axis=1)))
    assert verify(runner, runner, latents=3).passed
    assert not verify(runner, other, latents=3).passed
    assert torch.is_inference_mode_enabled() is False
