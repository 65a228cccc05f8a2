from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.errors import CorruptFileError, UsageError
from dcp_deploy.export import classes_of, latents_of, load_runner, verify
from dcp_deploy.export.bundle.golden import read_golden_images, write_golden


def test_golden_images_are_those_of_the_exported_file(uint8_onnx: Path, tmp_path: Path) -> None:
    runner = load_runner(uint8_onnx)
    document = write_golden(runner, tmp_path)
    assert len(document["images"]) == 8
    entry = document["images"][5]
    image = runner(
        z=latents_of([entry["seed"]], runner.z_dim), psi=entry["psi"], c=classes_of([entry["seed"]], runner.c_dim)
    )
    assert np.abs(np.asarray(Image.open(tmp_path / entry["file"])).astype(int) - image[0]).max() <= 1


def test_float_images_are_converted_by_the_formula_of_the_uint8_output(
    float_onnx: Path, unconditional: object, tmp_path: Path
) -> None:
    write_golden(load_runner(float_onnx), tmp_path)
    golden, kept = read_golden_images(tmp_path)
    verify(golden, load_runner(unconditional), **kept).raise_for_failure()  # type: ignore[arg-type]


def test_golden_images_of_older_bundles_are_read(uint8_onnx: Path, tmp_path: Path) -> None:
    document = write_golden(load_runner(uint8_onnx), tmp_path)
    del document["image_size"]
    (tmp_path / "golden.json").write_text(json.dumps({**document, "resolution": 32}))
    assert read_golden_images(tmp_path)[0].image_size == (32, 32)


def test_other_latents_than_the_kept_ones_are_refused(uint8_onnx: Path, tmp_path: Path) -> None:
    runner = load_runner(uint8_onnx)
    write_golden(runner, tmp_path, seeds=2, psis=(0.5,))
    golden, _ = read_golden_images(tmp_path)
    for seed, psi in ((2, 0.5), (0, 0.6)):
        with pytest.raises(UsageError, match="only 2 golden seeds"):
            golden(z=latents_of([seed], golden.z_dim), psi=psi, c=classes_of([seed], golden.c_dim))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "seed0_psi0.7.png").unlink(),
        lambda folder: (folder / "seed0_psi0.7.png").write_bytes(b"no picture"),
        lambda folder: Image.new("L", (32, 32)).save(folder / "seed0_psi0.7.png"),
        lambda folder: (folder / "golden.json").write_text("{}"),
        lambda folder: (folder / "golden.json").write_text(json.dumps({"images": 5})),
        lambda folder: (folder / "golden.json").unlink(),
    ],
)
def test_damaged_golden_images_are_refused(uint8_onnx: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write_golden(load_runner(uint8_onnx), tmp_path)
    damage(tmp_path)
    with pytest.raises(CorruptFileError, match="no valid golden images"):
        read_golden_images(tmp_path)
