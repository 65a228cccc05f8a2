"""Tables and the numbers in them."""

from __future__ import annotations

import pytest

from dcp_deploy.report import tables, text
from dcp_deploy.report.run_directory import read_run_directory


def row(table, name):
    return next(row for row in table.rows if row[0] == name)


def test_gains_and_losses_of_the_student(run_folder):
    table = tables.comparison_table(read_run_directory(run_folder.path))
    assert table.headings == ("", "student", "change", "teacher", "pruned")
    assert row(table, "parameters") == ("parameters", "1.00 M", "6.78× fewer", "6.81 M", "1.00 M")
    assert row(table, "ONNX file") == ("ONNX file", "4.09 kB", "6.70× smaller", "27.40 kB", "as the student")
    assert row(table, "FID (lower is better)")[1:] == ("9.84", "+3.53 (worse)", "6.31", "148.20")
    assert row(table, "mode coverage (higher is better)")[2] == "-0.023 (worse)"


def test_every_row_has_a_cell_for_every_heading(run_folder):
    run = read_run_directory(run_folder.path)
    for make in (
        tables.comparison_table,
        tables.latency_table,
        tables.modes_table,
        tables.latents_table,
        tables.edits_table,
        tables.parity_table,
        tables.checks_table,
        tables.widths_table,
        tables.stages_table,
    ):
        table = make(run)
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.headings)}


def test_more_coverage_is_better_and_more_frequency_error_is_not(run_folder):
    metrics = run_folder.read("metrics.json")
    metrics["models"]["student"] |= {"coverage": 0.9, "frequency_error": 0.5, "density": 0.93}
    run_folder.write("metrics.json", metrics)
    table = tables.comparison_table(read_run_directory(run_folder.path))
    changes = {row[0].partition(" (")[0]: row[2] for row in table.rows}
    assert (changes["coverage"], changes["coverage"].tone) == ("+0.030 (better)", "good")
    assert changes["frequency error of factors"].endswith("(much worse)")
    assert changes["frequency error of factors"].tone == "bad"
    assert changes["density"] == "+0.000 (same)"


def test_no_speedup_is_shown_of_an_unstable_run(run_folder):
    run_folder.change("bench.json", unstable_because=["other processes took 2 of 2 cores"])
    run = read_run_directory(run_folder.path)
    cell = row(tables.comparison_table(run), "median latency, ONNX Runtime")[2]
    assert (cell, cell.tone) == ("unstable, measure again", "warn")
    assert "speedup, unstable" in tables.latency_table(run).headings


def test_modes_come_from_the_rarest_on_and_missing_ones_are_marked(run_folder):
    found = tables.modes_table(read_run_directory(run_folder.path))
    assert [row[0] for row in found.rows] == ["hat: top hat", "skin: 0 to 0.5", "hat: none"]
    assert [row[1].tone for row in found.rows] == ["bad", "good", "warn"]
    assert found.rows[0] == ("hat: top hat", "0.02 (lost)", "5.0\u00a0%", "0.1\u00a0%", "4.8\u00a0%")


def test_a_model_without_figures_is_not_measured_rather_than_zero(run_folder):
    metrics = run_folder.read("metrics.json")
    del metrics["models"]["teacher"]
    run_folder.write("metrics.json", metrics)
    table = tables.comparison_table(read_run_directory(run_folder.path))
    assert row(table, "recall (higher is better)")[2:4] == (None, None)


def test_failed_checks_come_first(run_folder):
    parity = run_folder.read("parity.json")
    parity["pairs"]["teacher"]["checks"][2]["passed"] = False
    run_folder.write("parity.json", parity)
    table = tables.checks_table(read_run_directory(run_folder.path))
    assert table.rows[0][0] == "teacher"
    assert [row[-1] for row in table.rows].count("FAILED") == 1


def test_the_parity_table_shows_the_quantile_and_the_least_ssim(run_folder):
    table = tables.parity_table(read_run_directory(run_folder.path))
    cells = dict(zip(table.headings, row(table, "student"), strict=True))
    assert (cells["99.9 %"], cells["least SSIM"]) == ("0.0042", "0.9999")


def test_a_limit_shows_its_direction(run_folder):
    parity = run_folder.read("parity.json")
    check = {"name": "PSNR", "value": 40.0, "limit": 50.0, "bound": "at least", "passed": False, "detail": ""}
    parity["pairs"]["student"]["checks"].append(check)
    run_folder.write("parity.json", parity)
    rows = tables.checks_table(read_run_directory(run_folder.path)).rows
    assert rows[0][3] == "at least 50" and rows[1][3].startswith("at most ")


def test_the_first_bad_layer_of_a_failed_pair_is_named(run_folder):
    parity = run_folder.read("parity.json")
    parity["pairs"]["student"] |= {"passed": False, "layers": {"first": "b8.conv1", "verdict": "b8.conv1 is bad"}}
    run_folder.write("parity.json", parity)
    notes = tables.parity_table(read_run_directory(run_folder.path)).notes
    assert "student: b8.conv1 is bad." in notes
    assert not any(note.startswith("teacher") for note in notes)


def test_the_report_stage_itself_is_not_listed(run_folder):
    table = tables.stages_table(read_run_directory(run_folder.path))
    names = [row[0] for row in table.rows]
    assert "report" not in names
    assert row(table, "teacher") == ("teacher", "reused", "0.40 s", "the same teacher")
    assert row(table, "total")[2] == "8 min 09 s"


def test_a_stage_that_simply_ran_needs_no_reason(run_folder):
    run = run_folder.read("run.json")
    run["stages"]["score"]["reason"] = "ran because it has not run yet"
    run["stages"]["prune"]["reason"] = "ran because ratio changed"
    run_folder.write("run.json", run)
    table = tables.stages_table(read_run_directory(run_folder.path))
    assert row(table, "score")[-1] == ""
    assert row(table, "prune")[-1] == "ran because ratio changed"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.amount(30_034_338), "30.03 M"),
        (text.amount(45_124_673_536), "45.12 G"),
        (text.amount(999), "999"),
        (text.size(4_090_000), "4.09 MB"),
        (text.size(12), "12 B"),
        (text.amount(625_340, 3_130_000), "0.63 M"),
        (text.amount(4_090, 3_130_000), "0.0041 M"),
        (text.size(2_690, 13_660_000), "0.0027 MB"),
        (text.share(0.2454), "24.5\u00a0%"),
        (text.date("2026-11-29T19:49:01+00:00"), "29 November 2026, 19:49 UTC"),
        (text.date("2026-11-29T19:49:01+02:00"), "29 November 2026, 17:49 UTC"),
        (text.date("2026-11-29T19:49:01"), "29 November 2026, 19:49"),
        (text.date("<b>yesterday"), "<b>yesterday"),
        (text.largest([None, 2, 1]), 2),
        (text.milliseconds(541.3), "541 ms"),
        (text.milliseconds(56.24), "56.2 ms"),
        (text.milliseconds(0.4312), "0.431 ms"),
        (text.seconds(0.42), "0.42 s"),
        (text.seconds(59.7), "1 min 00 s"),
        (text.seconds(3840), "1 h 04 min"),
        (text.times(5.389), "5.39×"),
        (text.times(10.94), "10.9×"),
        (text.ratio(1, 0), None),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert shown == expected


def test_missing_numbers_stay_missing():
    assert [f(None) for f in (text.amount, text.size, text.milliseconds, text.seconds, text.times, text.short)] == [
        None
    ] * 6


# ---- latents ----


def test_each_figure_of_latents_stands_beside_what_it_compares_with(run_folder):
    table = tables.latents_table(read_run_directory(run_folder.path))
    assert row(table, "edits, correlation (higher is better)")[1:] == ("0.985", "1 in the teacher")
    assert row(table, "mixed codes, L1 (lower is better)")[1:] == ("0.0773", "0.0648 for unmixed")
    inverted = row(table, "inverted images, mean squared error (lower is better)")
    assert inverted[1:] == ("0.00714", "0.00962 before the search; 0 in the teacher")
    assert "16 latents moved by 2 standard deviations" in table.notes[0]


def test_the_least_alike_edits_come_first_and_those_without_figures_last(run_folder):
    table = tables.edits_table(read_run_directory(run_folder.path))
    assert [line[0] for line in table.rows] == ["hair hue", "beard", "hat"]
    assert table.rows[-1][1:] == ("no change", "no change")


def test_a_student_that_was_not_inverted_has_the_reason(run_folder):
    latents = run_folder.read("metrics.json")["latents"]
    without = {"perceptual": None, "inversion": None, "not_inverted": "it is too large"}
    bare = {name: {"l1": 0.1, "perceptual": None} for name in ("own", "teacher_w", "mixed")}
    run_folder.change("metrics.json", latents={**latents, **without, **bare})
    table = tables.latents_table(read_run_directory(run_folder.path))
    assert table.rows[-1][1:] == (None, "it is too large")
    assert len(table.rows) == 5  # no perceptual distances


def test_runs_of_older_versions_have_no_latents(run_folder):
    run_folder.change("metrics.json", latents=None)
    run = read_run_directory(run_folder.path)
    assert not tables.latents_table(run).rows and not tables.edits_table(run).rows
