"""The plot of a benchmark."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.errors import UsageError
from dcp_deploy.report.bench_plot import Point, growth, save_plot, shown_name

MEDIANS = {"teacher, torch eager": 60.0, "model, torch eager": 20.0, "model, ONNX Runtime": 6.0}


def document(batches):
    rng, rows = np.random.default_rng(0), []
    for batch in batches:
        for model, middle in MEDIANS.items():
            name = f"{model}, batch {batch}" if len(batches) > 1 else model
            samples = (middle * batch**0.8 * rng.lognormal(0, 0.05, 200)).tolist()
            p50 = float(np.median(samples))
            interval = {"value": p50, "low": p50 * 0.97, "high": p50 * 1.04, "confidence": 0.95}
            row = {"name": name, "batch": batch, "p50_ms": p50, "samples_ms": samples}
            rows.append({**row, "intervals": {"p50": interval}})
    return {"rows": rows}


def texts(path):
    root = ElementTree.fromstring(path.read_text())
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_one_batch_shows_the_distribution_only(tmp_path):
    save_plot(tmp_path / "b.svg", document([1]))
    assert "model, ONNX Runtime" in texts(tmp_path / "b.svg")
    assert "images per call" not in texts(tmp_path / "b.svg")


def test_several_batches_show_the_growth_too_and_the_file_is_the_same_each_time(tmp_path):
    for name in ("a.svg", "b.svg"):
        save_plot(tmp_path / name, document([1, 8]))
    assert {"images per call", "1", "8"} <= set(texts(tmp_path / "a.svg"))
    assert not any("$" in text for text in texts(tmp_path / "a.svg"))  # plain numbers, not markup for powers
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("model, ONNX Runtime", "s.onnx, ONNX Runtime"),
        ("model, ONNX Runtime, batch 8", "s.onnx, ONNX Runtime, batch 8"),
        ("model, ONNX Runtime, s.onnx", "s.onnx, ONNX Runtime"),
        ("teacher, torch eager", "teacher, torch eager"),
        ("modelling, torch eager", "modelling, torch eager"),
    ],
)
def test_a_plot_names_the_file_instead_of_a_model(name, shown):
    assert shown_name({"name": name, "labels": {"file": "s.onnx"}}) == shown
    assert shown_name({"name": name}) == name  # runs of older versions


def test_the_plot_shows_the_files_name(tmp_path):
    run = document([1])
    rows = [{**row, "labels": {"file": "student.onnx"}} for row in run["rows"]]
    save_plot(tmp_path / "b.svg", {"rows": rows})
    assert {"student.onnx, ONNX Runtime", "teacher, torch eager"} <= set(texts(tmp_path / "b.svg"))


def test_a_png_file_is_written(tmp_path):
    save_plot(tmp_path / "b.PNG", document([1]))
    with Image.open(tmp_path / "b.PNG") as image:
        assert image.format == "PNG" and image.width > 1000


def test_other_file_endings_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"b\.pdf"):
        save_plot(tmp_path / "b.pdf", document([1]))
    assert not list(tmp_path.iterdir())


def test_points_are_sorted_by_batch_and_named_without_it():
    lines = growth(document([8, 1])["rows"])
    assert list(lines) == ["teacher, torch eager", "model, torch eager", "model, ONNX Runtime"]
    assert [point.batch for point in lines["model, ONNX Runtime"]] == [1, 8]


def test_a_median_without_an_interval_is_a_point():
    rows = [{"name": "a", "batch": batch, "p50_ms": 2.0, "intervals": {"p50": None}} for batch in (1, 2)]
    assert growth(rows) == {"a": [Point(1, 2.0, 2.0, 2.0), Point(2, 2.0, 2.0, 2.0)]}
