"""Tables and figure of the experiment, from made-up cells with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dcp_deploy.benchmarks.experiments import quality_report
from dcp_deploy.benchmarks.experiments.pages import markers
from dcp_deploy.benchmarks.experiments.quality_report import ends, load_cells, main, reached, report
from dcp_deploy.errors import InputError
from dcp_deploy.export.runners.picture_files import save_picture


def cell(score: str, refine: str, seed: int, fids: tuple[float, ...], ratio: float = 0.7) -> dict[str, Any]:
    rest = {"recall": 0.5, "coverage": 0.5, "mode_coverage": 0.5, "rare_recall": 0.5, "l1_to_teacher": 0.1}
    return {
        "cell": {"ratio": ratio, "score": score, "refine": refine, "seed": seed},
        "settings": {"steps": 100, "samples": 500, "score_latents": 5, "recipe": {"batch": 8, "gan": 0.0}},
        "curve": [{"step": 50 * place, "fid": fid, **rest} for place, fid in enumerate(fids)],
        "environment": {"gpu": None, "cpu": "a processor", "packages": {"torch": "2"}, "python": "3"},
    }


CELLS = [
    cell("diversity", "none", 0, (40.0, 20.0, 10.0)),
    cell("diversity", "none", 1, (40.0, 20.0, 12.0)),
    cell("diversity", "reconstruct", 0, (30.0, 8.0, 6.0)),
    cell("random", "none", 0, (50.0, 30.0, 20.0)),
    cell("random", "none", 1, (50.0, 30.0, 24.0)),
]


def write(directory: Path, cells: list[dict[str, Any]]) -> Path:
    (directory / "cells").mkdir(parents=True)
    for number, document in enumerate(cells):
        (directory / "cells" / f"{number}.json").write_text(json.dumps(document))
    (directory / "teacher.json").write_text(json.dumps({"figures": {"fid": 0.7, "recall": 0.87}}))
    return directory


def test_means_and_spreads_are_over_seeds() -> None:
    text = report(CELLS, {"fid": 0.7})
    assert "| diversity | none | 11.00 ± 1.41 |" in text
    assert "| diversity | reconstruct | 6.00 |" in text  # one seed has no spread
    assert "| *teacher* |  | 0.700 |" in text


def test_scores_are_compared_seed_by_seed() -> None:
    assert "| random | none | -11.00 ± 1.41 | 0.000 ± 0.000 |" in report(CELLS, {})


def test_combinations_are_compared_with_the_default_seed_by_seed() -> None:
    default = [cell("change", "reconstruct", seed, (9.0, 8.0, 4.0 + seed)) for seed in (0, 1)]
    text = report([*CELLS, *default], {})
    assert "| random | none | 17.50 ± 2.12 | 0.000 ± 0.000 |" in text  # 20 - 4 and 24 - 5
    assert "| change | reconstruct |" not in text.split("less the default")[1].split("Steps until")[0]


def test_scores_by_changes_are_reported_with_latents_of_their_own() -> None:
    assert "scores from 5 latents. Measured on" in report(CELLS, {})
    newer = [{**found, "settings": {**found["settings"], "change_latents": 9}} for found in CELLS]
    assert "scores from 5 latents (change and hybrid from 9). Measured on" in report(newer, {})


def test_seeds_that_were_tuned_on_can_be_left_out(tmp_path: Path) -> None:
    assert {found["cell"]["seed"] for found in load_cells(write(tmp_path, CELLS), [1])} == {1}


def test_the_steps_to_the_final_fid_of_plain_dcp_are_interpolated() -> None:
    assert reached(CELLS[0]["curve"], 15.0) == 75.0
    assert reached(CELLS[0]["curve"], 45.0) == 0.0
    assert reached(CELLS[0]["curve"], 9.0) == float("inf")
    text = report(CELLS, {})
    assert "FID is 11.00" in text
    assert "| diversity | reconstruct | 0.432 | 1 of 1 seeds |" in text  # (30 - 11) / (30 - 8) of the first half
    assert "| random | none | - | 0 of 2 seeds |" in text


def test_the_picture_shows_the_fid_after_training() -> None:
    assert ends(CELLS)[0.7]["diversity", "none"] == pytest.approx((11.0, 1.41), abs=0.01)
    assert ends(CELLS)[0.7]["diversity", "reconstruct"] == (6.0, 0.0)  # one seed has no spread


def test_panels_with_other_scores_have_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(quality_report, "save_figure", lambda figure, path: drawn.append(figure))
    quality_report.draw(ends([*CELLS, cell("random", "none", 0, (9.0, 8.0, 7.0), ratio=0.85)]), tmp_path / "f.png")
    first, second = drawn[0].axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["diversity", "random"]
    heights = {axis: [line[0].get_ydata()[-1] for line in axis.containers] for axis in (first, second)}
    assert heights[second] == [pytest.approx(1.0, abs=0.2)]  # the row of random channels


def test_page_and_pictures_are_written(tmp_path: Path) -> None:
    directory = write(tmp_path / "run", [*CELLS, cell("random", "svs", 0, (9.0, 8.0, 7.0), ratio=0.85)])
    page = tmp_path / "docs" / "quality.md"
    page.parent.mkdir()
    begin, end = markers("experiment")
    page.write_text(f"Words.\n\n{begin}\nold\n{end}\n\nThe end.\n")
    assert main([str(directory), "--docs", str(tmp_path / "docs")]) == 0
    text = page.read_text()
    assert text.startswith(f"Words.\n\n{begin}\n\n6 students")
    assert text.endswith(f"{end}\n\nThe end.\n") and "old" not in text
    assert "### 85% of the channels removed" in text
    with Image.open(tmp_path / "docs" / "images" / "quality.png") as image:
        assert image.width > 1000  # two panels
    with Image.open(tmp_path / "docs" / "images" / "quality-curves.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("gan", "topic", "figure"),
    [(0.0, "experiment", "photographs"), (1.0, "experiment with a discriminator", "photographs-discriminator")],
)
def test_another_teacher_has_a_page_of_its_own_with_the_figures_that_were_measured(
    tmp_path: Path, gan: float, topic: str, figure: str
) -> None:
    cells = [cell("diversity", "none", 0, (40.0, 20.0, 10.0)), cell("random", "none", 0, (50.0, 30.0, 20.0))]
    for one in cells:
        one["settings"] |= {"teacher": "0" * 64, "features": "efficientnet-lite0 1280"}
        one["settings"]["recipe"]["gan"] = gan
        del one["curve"][1]  # measured before and after training only
        for entry in one["curve"]:
            del entry["mode_coverage"], entry["rare_recall"]
    page = tmp_path / "docs" / "photo-teacher.md"
    page.parent.mkdir()
    page.write_text("\n".join(markers(topic)))
    directory = write(tmp_path / "run", cells)
    for name in ("teacher", "0.7-diversity-none-0", "0.7-random-none-0"):
        save_picture(np.zeros((8, 80, 3), np.uint8), directory / "pictures" / f"{name}.png")
    assert main([str(directory), "--docs", str(tmp_path / "docs")]) == 0
    text = page.read_text()
    assert "The FID is FD-EfficientNet." in text and "mode coverage" not in text
    assert "| random | none | -10.00 | 0.000 |" in text
    assert (tmp_path / "docs" / "images" / f"{figure}.png").is_file()
    assert (tmp_path / "docs" / "images" / f"{figure}-students.png").is_file()
    assert not (tmp_path / "docs" / "images" / f"{figure}-curves.png").exists()


def test_cells_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    other = cell("random", "none", 2, (1.0, 1.0, 1.0))
    other["settings"]["steps"] = 200
    with pytest.raises(InputError, match="other settings"):
        load_cells(write(tmp_path / "run", [*CELLS, other]))


def test_speeds_need_a_measurement_between_start_and_end() -> None:
    assert "Steps until the FID is" in report(CELLS, {})
    ends_only = [{**one, "curve": [one["curve"][0], one["curve"][-1]]} for one in CELLS]
    assert "Steps until" not in report(ends_only, {})


def test_no_cells_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cells"):
        load_cells(tmp_path)
