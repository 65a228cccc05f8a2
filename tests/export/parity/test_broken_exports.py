"""Wrong exports that load and run: the gate refuses each, and the report names the faulty layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcp_deploy.errors import ParityError
from dcp_deploy.export import FusedGenerator, ParityReport, verify
from dcp_deploy.generators import Generator

from . import breaking
from .breaking import Damage, after, broken, edit, filter_of, gather, shifted, times

FEW = 4  # latents; times three psi, in batches of 1, 3 and 8

# Mistake -> (what is done to the file, where the values part from the reference's).
MISTAKES: dict[str, tuple[Damage, str]] = {
    "flipped convolution": (edit("synthesis.b16.conv0.weight", lambda w: w[:, :, ::-1, ::-1]), "b16.conv0"),
    "filter moved by a pixel": (filter_of("b32.conv0", lambda f: np.roll(f, 1, axis=3)), "b32.conv0"),
    "filter of gain 1": (filter_of("b16.conv0", lambda f: f / 4), "b16.conv0"),
    "dropped noise": (edit("synthesis.b32.conv1.noise", np.zeros_like), "b32.conv1"),
    "no demodulation of one layer": (edit("synthesis.b8.conv1.energy", np.ones_like), "b8.conv1"),
    "constant input lost": (edit("synthesis.const", np.zeros_like), "b4.conv1"),
    "psi ignored": (breaking.psi_ignored, "styles.b4.conv1"),
    "psi applied twice": (breaking.psi_twice, "styles.b4.conv1"),
    "psi of another sample": (breaking.psi_of_the_first_sample, "styles.b4.conv1"),
    "colours of one block swapped": (edit("synthesis.b8.torgb.weight", lambda w: w[::-1]), "b8.torgb"),
    "colours swapped": (after("image", gather(1, [2, 1, 0])), "image"),
    "channels-last memory read as channels-first": (after("image", *breaking.CHANNELS_LAST_READ_AS_FIRST), "image"),
    "two samples swapped": (after("image", breaking.SWAPPED_SAMPLES), "image"),
    "two samples swapped in a layer": (after("synthesis.b16.conv1", breaking.SWAPPED_SAMPLES), "b16.conv1"),
    "float16 overflow": (after("synthesis.b16.conv1", *breaking.OVERFLOWING), "b16.conv1"),
    "features moved by a pixel": (after("synthesis.b16.conv0", shifted(3, 16)), "b16.conv0"),
    "image moved by a pixel": (after("image", shifted(2, 32)), "image"),
    "one colour": (after("image", times(0.0)), "image"),
}

MISTAKES_OF_STYLEGAN3: dict[str, tuple[Damage, str]] = {
    "phases lost": (edit("synthesis.input.phases", np.zeros_like), "input"),
    "turned the other way": (edit("synthesis.input.along_sine", np.negative), "input"),
    "flipped convolution": (edit("synthesis.L0.conv.weight", lambda w: w[:, :, ::-1, ::-1]), "L0"),
    "magnitude of one layer lost": (edit("synthesis.L1.conv.energy", lambda energy: energy * 2), "L1"),
    "up-sampling a sample late": (edit("synthesis.L2.lrelu.up", lambda u: np.roll(u, 1, axis=0)), "L2"),
    "image scale lost": (edit("synthesis.torgb.weight", lambda w: 4 * w), "image"),
}


def failed(report: ParityReport) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def refused(reference: Generator, path: Path, layer: str) -> ParityReport:
    """Return the report after checking that the gate refuses the file and names this layer as the first."""
    report = verify(reference, path, latents=FEW, bisect=True)
    assert report.layers is not None and report.layers.first is not None
    assert report.layers.first.name == layer, report.layers.verdict
    with pytest.raises(ParityError, match=rf"differ.*first layer out of tolerance is {layer} ") as caught:
        report.raise_for_failure()
    assert caught.value.exit_code == 5
    return report


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_export_is_refused_by_name(
    mistake: str, unconditional: Generator, float_onnx: Path, tmp_path: Path
) -> None:
    damage, layer = MISTAKES[mistake]
    report = refused(unconditional, broken(float_onnx, tmp_path / "broken.onnx", damage), layer)
    assert "largest difference" in failed(report)


@pytest.mark.parametrize("mistake", MISTAKES_OF_STYLEGAN3)
def test_a_broken_export_of_stylegan3_is_refused_by_name(
    mistake: str, translating: Generator, translating_onnx: Path, tmp_path: Path
) -> None:
    damage, layer = MISTAKES_OF_STYLEGAN3[mistake]
    report = refused(translating, broken(translating_onnx, tmp_path / "broken.onnx", damage), layer)
    assert "largest difference" in failed(report)


@pytest.mark.parametrize("layer", ["b4.conv1", "b8.torgb", "b32.conv0"])
def test_a_wrong_style_scale_of_one_layer_is_refused_by_name(
    layer: str, unconditional: Generator, float_onnx: Path, tmp_path: Path
) -> None:
    fused = FusedGenerator(unconditional)
    names = ["b4.conv1", "b4.torgb"] + [f"b{r}.{part}" for r in (8, 16, 32) for part in ("conv0", "conv1", "torgb")]
    damage = breaking.style_rows(names.index(layer), fused.styles.widths, 1.1)
    refused(unconditional, broken(float_onnx, tmp_path / "broken.onnx", damage), f"styles.{layer}")


UINT8_MISTAKES: dict[str, tuple[Damage, str]] = {
    "dropped noise": (edit("synthesis.b32.conv1.noise", np.zeros_like), "b32.conv1"),
    "colours swapped": (after("image", gather(3, [2, 1, 0])), "image"),
    "rows read as columns": (after("image", ("Transpose", [], {"perm": [0, 2, 1, 3]})), "image"),
    "image moved by a pixel": (after("image", shifted(2, 32)), "image"),
    "two samples swapped": (after("image", breaking.SWAPPED_SAMPLES), "image"),
}


@pytest.mark.parametrize("mistake", UINT8_MISTAKES)
def test_a_broken_uint8_export_is_refused_by_name(
    mistake: str, conditional: Generator, uint8_onnx: Path, tmp_path: Path
) -> None:
    damage, layer = UINT8_MISTAKES[mistake]
    report = refused(conditional, broken(uint8_onnx, tmp_path / "broken.onnx", damage), layer)
    assert {"largest 8-bit difference", "share of 8-bit values that differ"} & failed(report)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("mistake", ["flipped convolution", "psi ignored", "colours swapped", "two samples swapped",
                                     "float16 overflow", "image moved by a pixel", "one colour"])  # fmt: skip
def test_the_limits_of_rounded_exports_still_refuse_mistakes(
    mistake: str, precision: str, unconditional: Generator, float_onnx: Path, tmp_path: Path
) -> None:
    path = broken(float_onnx, tmp_path / "broken.onnx", MISTAKES[mistake][0])
    report = verify(unconditional, path, latents=FEW, precision=precision)
    assert {"PSNR of the worst image", "SSIM of the least alike image", "mean difference"} & failed(report)


def test_an_overflow_is_counted_as_values_that_are_not_finite(
    unconditional: Generator, float_onnx: Path, tmp_path: Path
) -> None:
    path = broken(float_onnx, tmp_path / "broken.onnx", MISTAKES["float16 overflow"][0])
    report = refused(unconditional, path, "b16.conv1")
    assert "values of b are finite" in failed(report)
    assert "of its values are not finite" in report.layers.verdict


def test_one_colour_is_said(unconditional: Generator, float_onnx: Path, tmp_path: Path) -> None:
    report = refused(unconditional, broken(float_onnx, tmp_path / "x.onnx", MISTAKES["one colour"][0]), "image")
    assert {"images of b have several colours", "images of b change with the latent"} <= failed(report)
    detail = next(check.detail for check in report.checks if check.name == "images of b have several colours")
    assert "the original" not in detail  # which is correct
