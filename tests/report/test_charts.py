"""Charts are valid SVG, the same each time, leave no global state, and accept unusual numbers."""

from __future__ import annotations

import base64
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from dcp_deploy.pipeline.distilling import DISTANCES, MEASURED
from dcp_deploy.report import charts
from dcp_deploy.report.pictures import loss_picture
from dcp_deploy.report.run_directory import Run, RunDirectory

HOSTILE = "<b>&\"' $x^2$ \\frac{ \x00 \x1b"


def svg(uri):
    return base64.b64decode(uri.partition(",")[2]).decode()


def texts(chart):
    root = ElementTree.fromstring(svg(chart.light))
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_latencies_of_any_number_of_samples_make_a_picture_of_the_same_size():
    rng = np.random.default_rng(0)
    few, many = (charts.latency_chart({"student": list(rng.lognormal(1, 0.1, n))}) for n in (charts.DOTS, 20_000))
    assert abs(len(few.light) - len(many.light)) < 0.1 * len(few.light)


def test_only_measured_samples_are_drawn():
    assert charts.shown_samples([3.0, 1.0, 2.0]).tolist() == [1.0, 2.0, 3.0]
    many = list(np.random.default_rng(0).lognormal(1, 0.1, 5000))
    shown = charts.shown_samples(many)
    assert len(shown) == charts.DOTS and set(shown) <= set(many)
    assert (shown[0], shown[-1]) == (min(many), max(many))


def test_the_median_is_written_beside_its_dots():
    assert "8 ms" in texts(charts.latency_chart({"teacher": [8.0] * 9, "student": [2.0, 4.0, 6.0]}))
    assert "4 ms" in texts(charts.latency_chart({"teacher": [8.0] * 9, "student": [2.0, 4.0, 6.0]}))


@pytest.mark.parametrize("chart", [
    lambda: charts.latency_chart({"teacher, ONNX Runtime, Winograd": [1.0, 2.0], "student": [1.0, 1.5]}),
    lambda: charts.widths_chart([f"b{i}.conv0" for i in range(10)], [512] * 10, [256] * 10),
    lambda: charts.curves_chart([1, 2], {"l1": [1.0, 2.0], "fid": [1.0, 2.0]}, ""),
], ids=["latency", "widths", "curves"])  # fmt: skip
def test_a_phone_gets_a_chart_of_its_own_width_with_the_same_words(chart):
    drawn = chart()
    wide, narrow = (ElementTree.fromstring(svg(uri)) for uri in (drawn.light, drawn.narrow_light))
    assert float(narrow.get("width").removesuffix("pt")) * 96 / 72 <= 340
    words = [
        {"".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")} for root in (wide, narrow)
    ]
    assert {word for word in words[0] if not word.replace(".", "").isdecimal()} <= words[1]


def test_a_chart_is_the_same_each_time_and_carries_no_date():
    first, second = (charts.widths_chart(["a", "b"], [8, 8], [3, 2]) for _ in range(2))
    assert first == second
    assert "<dc:date>" not in svg(first.light)


def test_light_and_dark_differ_in_colours_only():
    chart = charts.widths_chart(["a"], [8], [3])
    assert charts.LIGHT.student in svg(chart.light)
    assert charts.DARK.student in svg(chart.dark)
    assert len(svg(chart.light)) == len(svg(chart.dark))


@pytest.mark.parametrize("chart", [
    lambda: charts.latency_chart({HOSTILE: [1.0, 2.0]}),
    lambda: charts.widths_chart([HOSTILE], [2], [1]),
    lambda: charts.curves_chart([1, 2], {HOSTILE: [1.0, 2.0]}, HOSTILE),
], ids=["latency", "widths", "curves"])  # fmt: skip
def test_hostile_names_stay_text_in_valid_xml(chart):
    shown = "".join(texts(chart()))
    assert "<b>&\"' $x^2$ \\frac{" in shown


def test_characters_missing_from_the_font_raise_no_warning():
    assert "顔" in texts(charts.curves_chart([1, 2], {"顔": [1.0, 2.0]}, ""))  # warnings are errors in the tests


def test_scores_without_spread_or_all_zero_are_drawn():
    layers = [np.zeros(4), np.ones(1), np.array([1e-30, 1.0])]
    shown = texts(charts.scores_chart(["a", "b", "c"], layers, [2, 1, 1]))
    assert {"a", "b", "c"} <= set(shown)


def test_the_cut_is_drawn_at_the_kept_count():
    shown = texts(charts.scores_chart(["a"], [np.arange(1.0, 11.0)], [7]))
    assert {"7", "10"} <= set(shown)


def test_gaps_in_a_curve_are_left_out():
    charts.curves_chart([1, 2, 3], {"fid": [3.0, None, 1.0]}, "")


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, dcp_deploy.report.charts; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_matplotlibs_settings_and_pyplot_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    charts.widths_chart(["a"], [2], [1])
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_scheduled_measurements_are_shown_as_quality_not_as_losses() -> None:
    figures = dict.fromkeys((*DISTANCES, *MEASURED, "l1_to_teacher"), 0.5)
    run = RunDirectory(run=Run(), history=tuple({"step": step, **figures} for step in (1, 2)))
    assert loss_picture(run) is None
