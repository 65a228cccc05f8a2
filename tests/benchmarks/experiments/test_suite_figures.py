"""Tables and figure of the suite, from a document of a simulated run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from dcp_deploy.benchmarks.candidates.candidate import Candidate
from dcp_deploy.benchmarks.experiments import suite_figures
from dcp_deploy.benchmarks.experiments.pages import insert, markers
from dcp_deploy.benchmarks.latency import benchmark
from dcp_deploy.benchmarks.machine.roofline import Ceiling, Work
from dcp_deploy.errors import InputError
from dcp_deploy.files import write_json

BEGIN, END = markers("suite")
TIMES = {  # seconds of a call, and its operations
    ("teacher", "torch"): (0.4, 1000),
    ("teacher", "onnxruntime"): (0.2, 1000),
    ("student 0.7 by 1", "onnxruntime"): (0.05, 100),
    ("student 0.7 by 16", "onnxruntime"): (0.04, 120),
    ("student 0.7 by 16", "openvino"): (0.02, 120),
}


class Clock:
    """A clock that only calls advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The document of one network, measured by a simulated clock."""
    clock = Clock()
    candidates = {
        f"{model}, {backend}": Candidate(
            lambda seconds=seconds: clock.spend(seconds), model, backend, work=Work(operations, 1, 1)
        )
        for (model, backend), (seconds, operations) in TIMES.items()
    }
    ceilings = [
        Ceiling("product", "cpu", "compute", "fp32", lambda: clock.spend(0.01), 100.0),
        Ceiling("copy", "cpu", "memory", "", lambda: clock.spend(0.01), 1e9),
    ]
    report = benchmark(
        candidates, baseline="teacher, torch", ceilings=ceilings, warmup_calls=1, warmup_seconds=0.0, min_rounds=20,
        min_seconds=0.0, clock=lambda: clock.now, sleep=clock.spend,
    )  # fmt: skip
    write_json(tmp_path / "stylegan2-256.json", report.to_dict())
    return tmp_path


def docs_in(folder: Path) -> Path:
    (folder / "docs" / "images").mkdir(parents=True)
    (folder / "docs" / "benchmarks.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    return folder / "docs"


def test_tables_and_figure_are_written_from_the_document(folder):
    docs = docs_in(folder)
    suite_figures.main([str(folder), "--docs", str(docs)])
    text = (docs / "benchmarks.md").read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert "| student 0.7 by 16 | OpenVINO | fp32 | 20 |" in text
    assert "| 20.0x |" in text  # 0.4 s over 0.02 s
    # The gain of alignment is at equal operations: 0.05 s for 100 of them against 0.04 s for 120. The document has no
    # ragged student in OpenVINO.
    assert "| 0.7 | 16 | 0 M | 1.50 [1.50, 1.50] | not measured |" in text
    with Image.open(docs / "images" / "latency.png") as picture:
        assert picture.width > 300


def test_a_pair_has_its_latencies_last_and_no_table_of_alignments(folder):
    shutil.copy(folder / "stylegan2-256.json", folder / "stylegan2-256-pair.json")
    shutil.copy(folder / "stylegan2-256.json", folder / "stylegan2-1024.json")
    found = suite_figures.load_suite(folder)
    assert list(found) == ["stylegan2-256", "stylegan2-1024", "stylegan2-256-pair"]
    whole, pair = suite_figures.report(found).split("### stylegan2-256-pair")
    assert "gain at equal MACs" in whole and "gain at equal MACs" not in pair
    assert "| student 0.7 by 16 | OpenVINO | fp32 |" in pair


def test_a_folder_without_documents_names_the_command(tmp_path):
    with pytest.raises(InputError, match="holds no document") as caught:
        suite_figures.load_suite(tmp_path)
    assert "experiments.suite" in caught.value.remedy


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(InputError, match="no place for the tables"):
        insert("no markers", "suite", "tables")


def test_networks_have_names_for_people():
    assert suite_figures.network_title("stylegan2-256") == "StyleGAN2, 256 px"
    assert suite_figures.network_title("stylegan3-64-quick") == "StyleGAN3, 64 px, quick"
