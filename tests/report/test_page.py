"""The page is complete, self-contained, the same each time, and safe with hostile files."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from dcp_deploy.errors import CorruptFileError, InputError
from dcp_deploy.report import write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>&{{ 7*7 }}$\\frac{"
VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and that every one of them is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder):
    return write_report(folder.path).read_text(encoding="utf-8")


def report_of(folder):
    return (folder.path / "report.html").read_text(encoding="utf-8")


def test_the_report_lies_in_the_run_directory_and_nothing_else_is_left(run_without_charts):
    before = {path.name for path in run_without_charts.path.iterdir()}
    assert write_report(run_without_charts.path) == run_without_charts.path / "report.html"
    assert {path.name for path in run_without_charts.path.iterdir()} - before == {"report.html"}


def test_the_page_is_well_formed_and_shows_the_figures_of_the_files(finished_run):
    page = Page(report_of(finished_run))
    fastest = finished_run.read("bench.json")["rows"][3]
    for text in (
        f"{fastest['speedup']['value']:.2f}×",
        "10.5×",  # MACs
        "6.81 M → 1.00 M",
        "9.84",
        "dcp-deploy build --dataset demo --ratio 0.7",
        "tensorrt-rtx",
        "AMD EPYC",
        "packages.torch",
        "hat beanie",
        "82.4 dB",
        "b16.conv1",
        "4 min 51 s",
        "27.40 kB",
    ):
        assert text in page.text, text


def test_the_page_says_what_the_real_images_were(run_without_charts):
    assert "Real images" not in page_of(run_without_charts)
    run_without_charts.change("run.json", images={"real": "--data", "path": "/data/ffhq.zip", "images": 70_000})
    text = Page(page_of(run_without_charts)).text
    assert "Real images" in text and "/data/ffhq.zip" in text


def test_the_page_needs_no_network_no_script_and_no_other_file(finished_run):
    text = report_of(finished_run)
    page = Page(text)
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    sources = [image["src"] for image in page.all("img")] + [source["srcset"] for source in page.all("source")]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]+", "", text))
    for source in sources:
        if source.startswith("data:image/svg"):
            svg = base64.b64decode(source.partition(",")[2]).decode()
            assert not re.search(r"<script|<image|href=\"(?!#)", svg)


def test_the_policy_of_the_page_forbids_loading_anything(finished_run):
    policy = next(m["content"] for m in Page(report_of(finished_run)).all("meta") if "http-equiv" in m)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_grids_are_embedded_unchanged_and_in_order(finished_run):
    page = Page(report_of(finished_run))
    images = [image for image in page.all("img") if image["src"].startswith("data:image/png")]
    assert [image["alt"] for image in images] == [
        "Samples: Teacher",
        "Samples: Pruned, before distillation",
        "Samples: Student",
    ]
    png = (finished_run.path / "grids" / "teacher.png").read_bytes()
    assert base64.b64decode(images[0]["src"].partition(",")[2]) == png
    assert (images[0]["width"], images[0]["height"]) == ("512", "128")


def test_the_same_files_give_the_same_bytes(finished_run):
    before = report_of(finished_run)
    assert page_of(finished_run) == before


def test_charts_have_a_light_and_a_dark_variant(finished_run):
    page = Page(report_of(finished_run))
    charts = [image for image in page.all("img") if image["src"].startswith("data:image/svg")]
    assert len(charts) == len(page.all("source")) == 6  # latency, FID against it, widths, scores, losses, quality
    assert all(image["alt"] for image in charts)


def test_a_run_that_measured_nothing_says_so_everywhere(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 1}')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("not measured") >= 15
    assert "None built" in page.text
    assert re.search(r"\b(None|null|nan|undefined)\b(?! built)", page.text) is None


@pytest.mark.parametrize("name", ["metrics.json", "parity.json", "bench.json"])
def test_the_reason_why_something_was_not_measured_is_given(run_without_charts, name):
    run_without_charts.write(name, {"schema": 1, "measured": False, "reason": "no images of wombats"})
    assert "no images of wombats" in Page(page_of(run_without_charts)).text


def test_hostile_text_is_shown_as_text(run_without_charts):
    run = run_without_charts.read("run.json")
    run["command"] = run["tool"]["version"] = run["config"]["dataset"] = run["config"][HOSTILE] = HOSTILE
    run["environment"]["cpu"] = run["status"] = run["started"] = run["stages"]["score"]["reason"] = HOSTILE
    run["stages"][HOSTILE] = {"status": HOSTILE}
    run_without_charts.write("run.json", run)
    bench = run_without_charts.read("bench.json")
    bench["rows"][3]["name"] = bench["notes"][0] = bench["rows"][0]["stability"]["verdict"] = HOSTILE
    run_without_charts.write("bench.json", bench)
    metrics = run_without_charts.read("metrics.json")
    metrics["models"]["student"]["rare"][HOSTILE] = 1.0
    metrics["models"]["student"]["features"] = HOSTILE
    run_without_charts.write("metrics.json", metrics)
    run_without_charts.write("engines/student.json", {HOSTILE: HOSTILE, "a\x00b\x1b": "\x07"})
    page = Page(page_of(run_without_charts))
    assert page.all("script") == []
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count(HOSTILE) >= 12


def test_a_failed_gate_cannot_be_overlooked(run_without_charts):
    parity = run_without_charts.read("parity.json")
    parity["passed"] = parity["pairs"]["student"]["passed"] = parity["pairs"]["student"]["checks"][1]["passed"] = False
    run_without_charts.write("parity.json", parity)
    text = page_of(run_without_charts)
    page = Page(text)
    assert "does NOT generate the same images" in page.text
    assert '<div class="card bad">' in text
    assert any("open" in details for details in page.all("details"))  # the failed checks are in view


@pytest.mark.parametrize(("status", "words"), [("failed", "This build failed"), ("interrupted", "was interrupted")])
def test_a_build_that_did_not_finish_says_so(run_without_charts, status, words):
    run_without_charts.change("run.json", status=status)
    assert words in Page(page_of(run_without_charts)).text


def test_a_skipped_engine_gives_its_reason(run_without_charts):
    (run_without_charts.path / "engines" / "student.json").unlink()
    run = run_without_charts.read("run.json")
    run["stages"]["engine"] = {"status": "skipped", "reason": "tensorrt-rtx is not installed"}
    run_without_charts.write("run.json", run)
    assert "None built: tensorrt-rtx is not installed" in Page(page_of(run_without_charts)).text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no run\.json"):
        write_report(tmp_path)


def test_a_malformed_file_leaves_the_old_report(run_without_charts):
    write_report(run_without_charts.path).write_text("old")
    (run_without_charts.path / "bench.json").write_text("{")
    with pytest.raises(CorruptFileError):
        write_report(run_without_charts.path)
    assert (run_without_charts.path / "report.html").read_text() == "old"
