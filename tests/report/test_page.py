"""The page is complete, self-contained, the same each time, and safe with hostile files."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from dcp_deploy.errors import CorruptFileError, InputError
from dcp_deploy.report import write_report
from dcp_deploy.report.run_directory import READABLE

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>&{{ 7*7 }}$\\frac{"
VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and that every one of them is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.script = [], [], "", ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        elif self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def of_class(self, name):
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


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
        "22 November 2026, 19:05 UTC",
        "2026-11-22T19:05:11+00:00",
        "9.84",
        "dcp-deploy build --dataset demo --ratio 0.7",
        "tensorrt-rtx",
        "AMD EPYC",
        "packages.torch",
        "hat beanie",
        "hat: top hat",
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


def test_the_page_needs_no_network_and_no_other_file(finished_run):
    text = report_of(finished_run)
    page = Page(text)
    assert page.all("script") == [{}] and page.all("link") == page.all("iframe") == []
    sources = [image["src"] for image in page.all("img")] + [source["srcset"] for source in page.all("source")]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]+", "", text).replace(page.script, ""))
    assert not re.search(r"fetch|XMLHttp|import|https?:|eval|innerHTML", page.script)
    for source in sources:
        if source.startswith("data:image/svg"):
            svg = base64.b64decode(source.partition(",")[2]).decode()
            assert not re.search(r"<script|<image|href=\"(?!#)", svg)


def test_the_policy_of_the_page_forbids_loading_anything(finished_run):
    page = Page(report_of(finished_run))
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    own = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{own}'"


def test_images_of_one_seed_stand_below_each_other_with_seed_and_psi(finished_run):
    page = Page(report_of(finished_run))
    images = [image for image in page.all("img") if image["src"].startswith("data:image/png")]
    assert [image["data-model"] for image in images] == 2 * ["teacher", "student", "difference", "pruned"]
    assert images[1]["alt"] == "Student, seeds 0 to 7"
    assert "images of one seed, at ψ 1." in page.text
    assert all(f"seed {seed}" in page.text for seed in range(16))


def test_images_can_be_enlarged_without_a_script(finished_run):
    page = Page(report_of(finished_run))
    boxes = [box for box in page.all("input") if box["type"] == "checkbox"]
    assert len(boxes) == len(page.of_class("seeds")) == 2


def test_the_slider_offers_every_seed_and_is_hidden_until_its_script_runs(finished_run):
    page = Page(report_of(finished_run))
    (box,) = page.of_class("compare")
    assert "hidden" in box and box["data-columns"] == "8"
    assert len(page.all("option")) == 16


def test_a_run_without_a_teachers_images_has_no_slider(run_without_charts):
    (run_without_charts.path / "grids" / "teacher.png").unlink()
    assert Page(page_of(run_without_charts)).of_class("compare") == []


def test_every_entry_of_the_contents_leads_somewhere(finished_run):
    page = Page(report_of(finished_run))
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    inside = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert len(inside) > 9 and set(inside) <= targets


def test_links_lead_to_the_files_of_the_run(finished_run):
    links = {unquote(a["href"]) for a in Page(report_of(finished_run)).all("a") if not a["href"].startswith("#")}
    assert {"student.onnx", "bench.json", "grids/student.png"} <= links
    assert all((finished_run.path / link).is_file() for link in links)
    assert links == {
        path.relative_to(finished_run.path).as_posix() for glob in READABLE for path in finished_run.path.glob(glob)
    }


def test_cells_of_stacked_rows_are_named(finished_run):
    headings = {cell.get("data-heading") for cell in Page(report_of(finished_run)).all("td")}
    assert {"student", "change", "teacher", "pruned", "p99"} <= headings


def test_a_trait_that_is_too_rare_has_another_colour(run_without_charts):
    metrics = run_without_charts.read("metrics.json")
    metrics["models"]["student"]["rare"] = {"hat=top_hat": 0.2}
    run_without_charts.write("metrics.json", metrics)
    page = Page(page_of(run_without_charts))
    assert next(bar["class"] for bar in page.of_class("bar")) == "bar student bad"
    assert "Too rare in its images: hat: top hat." in page.text


def test_requirements_come_first(run_without_charts):
    assert "No requirements set" in Page(page_of(run_without_charts)).text
    requirement = {"requirement": "fid<2", "metric": "fid", "value": 9.84, "limit": 2.0, "passed": False}
    words = "fid 9.84, required below 2"
    run_without_charts.write("gates.json", {"passed": False, "requirements": [{**requirement, "text": words}]})
    page = Page(page_of(run_without_charts))
    assert [gate["class"].split() for gate in page.of_class("gate")] == [["gate", "bad"]]
    assert page.text.index("1 of 1 requirements NOT met") < page.text.index(words) < page.text.index("mode coverage")


def test_raw_facts_are_folded_and_the_changed_settings_are_not(finished_run):
    text = report_of(finished_run)
    page = Page(text)
    assert not any("open" in details for details in page.all("details"))
    assert "Settings that differ from the defaults" in page.text
    outside = Page(re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)).text
    assert "align" in outside and "AMD EPYC" not in outside and "sm120" not in outside


def test_nothing_that_was_not_set_is_called_not_measured(finished_run):
    assert "not measured" not in Page(report_of(finished_run)).text
    assert "not set" in Page(report_of(finished_run)).text


def test_the_same_files_give_the_same_bytes(finished_run):
    before = report_of(finished_run)
    assert page_of(finished_run) == before


def test_charts_have_a_light_and_a_dark_variant(finished_run):
    page = Page(report_of(finished_run))
    charts = [image for image in page.all("img") if image["src"].startswith("data:image/svg")]
    assert len(charts) == 5  # latency, widths, scores, losses, quality
    assert len(page.all("source")) == 3 * len(charts)  # narrow dark, narrow light, wide dark
    assert all(image["alt"] for image in charts)


def test_a_run_that_measured_nothing_says_so_everywhere(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 1}')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("not measured") >= 12
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
    assert page.all("script") == [{}] and HOSTILE not in page.script
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
    assert any(card["class"].split() == ["card", "bad"] for card in page.of_class("card"))
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
