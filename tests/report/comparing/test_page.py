"""The comparison as a table, a picture and a page."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser

from dcp_deploy.gates import parse_requirements
from dcp_deploy.report.comparing import compare
from dcp_deploy.report.comparing.chart import front_chart
from dcp_deploy.report.comparing.page import write_page
from dcp_deploy.report.comparing.table import figures_table
from dcp_deploy.report.judgement import Toned

from .conftest import MakeRun


def test_the_table_has_a_row_for_each_figure_and_a_column_for_each_run(make_run: MakeRun) -> None:
    comparison = compare([make_run("a", fid=7.0, ratio=0.5).path, make_run("b", fid=60.0, ratio=0.9).path])
    table = figures_table(comparison)
    assert table.headings == ("", "a (recommended)", "b", "teacher")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["ratio"] == ("0.5", "0.9", "")
    assert rows["FID (lower is better)"] == ("7.00", "60.00", "6.31")
    assert [cell.tone for cell in rows["FID (lower is better)"] if isinstance(cell, Toned)] == ["warn", "bad"]
    assert rows["dominated by"] == ("none", "a", "")
    assert rows["requirements"] == ("none set", "none set", "")


def test_an_unstable_run_shows_no_speedup(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    b.change("bench.json", unstable_because=["too few rounds"])
    table = figures_table(compare([a.path, b.path]))
    (speedups,) = (row for row in table.rows if row[0] == "speedup")
    assert re.fullmatch(r"\d+\.\d\d× \[.+\]|\d+\.\d× \[.+\]", str(speedups[1]))
    assert speedups[2] == "unstable, measure again"
    (latencies,) = (row for row in table.rows if row[0] == "median latency")
    assert [cell.tone for cell in latencies if isinstance(cell, Toned)] == ["warn"]
    assert "b: unstable, measure again (too few rounds)." in table.notes


def test_what_a_run_misses_stands_below_the_table(make_run: MakeRun) -> None:
    paths = [make_run("a", fid=7.0).path, make_run("b", fid=9.0).path]
    table = figures_table(compare(paths, requirements=parse_requirements(["fid<8"], ["fid"])))
    (cells,) = (row[1:3] for row in table.rows if row[0] == "requirements")
    assert cells == ("met", "1 of 1 missed")
    assert "b misses: fid 9, required below 8, missed by 1." in table.notes


def test_the_picture_names_every_run_and_its_cost(make_run: MakeRun) -> None:
    comparison = compare([make_run("a", fid=7.0).path, make_run("b", fid=9.0, slower=0.5).path])
    chart = front_chart(comparison)
    assert chart is not None
    assert chart.alt.startswith("FID over milliseconds per image: b 9 at ")


def test_a_single_point_is_not_drawn(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    (b.path / "metrics.json").unlink()
    assert front_chart(compare([a.path, b.path])) is None


class Page(HTMLParser):
    """Collects links, images and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag == "img":
            self.images.append(values["alt"] or "")


def test_the_page_is_one_file_with_the_recommendation_images_and_links_to_the_reports(make_run: MakeRun) -> None:
    a, b = make_run("a & <b>", fid=7.0), make_run("b")
    (a.path / "report.html").write_text("report")
    target = a.path.parent / "pages" / "compare.html"
    write_page(target, compare([a.path, b.path]))
    text = target.read_text(encoding="utf-8")
    page = Page(text)
    assert "Recommended: a &amp; &lt;b&gt;" in text and "<script" not in text and 'src="http' not in text
    assert "../a%20%26%20%3Cb%3E/report.html" in page.links
    assert "Teacher, seeds 0 to 7" in page.images and "b, seeds 8 to 15" in page.images


def test_names_with_control_characters_and_of_any_length_make_a_page(make_run: MakeRun) -> None:
    a, b = make_run("a", fid=7.0).path, make_run("n" * 200, fid=8.0).path
    (a / "report.html").write_text("report")
    target = a.parent / "compare.html"
    write_page(target, compare([a.rename(a.with_name("a\u202eb\x1b[31m,$x^2$")), b]))
    text = target.read_text(encoding="utf-8")
    assert "a\\u202eb\\x1b[31m,$x^2$" in text
    assert not any(character in text for character in "\u202e\x1b")
    assert "%24x%5E2%24/report.html" in "".join(Page(text).links)


def test_a_run_whose_images_cannot_stand_beside_the_others_is_named(make_run: MakeRun) -> None:
    a, b, c = make_run("a"), make_run("b"), make_run("c")
    a.path.joinpath("grids", "student.png").unlink()
    c.change("metrics.json", grids={"seeds": [1, 2], "psi": 0.5, "columns": 2})
    write_page(b.path / "page.html", compare([a.path, b.path, c.path]))
    text = (b.path / "page.html").read_text(encoding="utf-8")
    assert "Without images of the same seeds, ψ and size: a, c." in text
    assert "b, seeds 0 to 7" in Page(text).images


def test_what_the_picture_does_not_show_is_not_explained(make_run: MakeRun) -> None:
    a, b = make_run("a", fid=60.0), make_run("b", fid=70.0, teacher="1" * 64)
    write_page(a.path / "page.html", compare([a.path, b.path]))
    text = (a.path / "page.html").read_text(encoding="utf-8")
    assert "The line joins the Pareto front" in text
    assert not any(words in text for words in ("The ring", "The dashed line", "compares a student with its teacher"))


def test_a_run_that_was_not_weighed_is_not_on_the_front(make_run: MakeRun) -> None:
    a, b, c = make_run("a", fid=7.0), make_run("b", fid=9.0), make_run("c", fid=1.0)
    c.change("run.json", status="failed")
    table = figures_table(compare([a.path, b.path, c.path]))
    (row,) = (row[1:4] for row in table.rows if row[0] == "dominated by")
    assert row == ("none", "a", "not weighed")


def test_the_names_of_equal_runs_stand_side_by_side_and_macs_have_a_prefix(make_run: MakeRun) -> None:
    a, b = make_run("first"), make_run("second")
    b.change("bench.json", environment={"cpu": "another"})
    chart = front_chart(compare([a.path, b.path]))
    assert chart is not None
    svg = b64decode(chart.light.partition(",")[2]).decode()
    assert "first, second" in svg and "200.00 M" in svg and "e+08" not in svg
