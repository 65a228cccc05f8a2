"""The README's picture is drawn from the grids of a run."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.benchmarks.experiments.demo_picture import first_row, main
from dcp_deploy.errors import InputError


def test_the_picture_has_a_labelled_row_each_for_teacher_student_and_difference(tmp_path):
    (tmp_path / "run" / "grids").mkdir(parents=True)
    for model, level in (("teacher", 200), ("student", 120)):
        grid = np.full((32, 128, 3), level, dtype=np.uint8)
        Image.fromarray(grid).save(tmp_path / "run" / "grids" / f"{model}.png")
    assert first_row(tmp_path / "run" / "grids" / "teacher.png").shape == (16, 128, 3)
    main([str(tmp_path / "run"), "--docs", str(tmp_path)])
    with Image.open(tmp_path / "images" / "demo.png") as picture:
        middle = np.asarray(picture.convert("L"))[:, 4 * picture.width // 7]
        left = np.asarray(picture.convert("L"))[:, : picture.width // 12]
    assert {200, 120, 160} <= set(middle.tolist())  # teacher, student, twice their difference
    assert left.min() < 100  # words


def test_a_run_without_grids_names_the_command(tmp_path):
    with pytest.raises(InputError) as caught:
        main([str(tmp_path), "--docs", str(tmp_path)])
    assert "dcp-deploy build --dataset demo" in caught.value.remedy
