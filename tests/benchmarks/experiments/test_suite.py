"""The standing matrix on a network of four layers."""

from __future__ import annotations

import shutil
import sys
from functools import partial

import pytest
import torch

from dcp_deploy.benchmarks.experiments import suite
from dcp_deploy.files import read_json
from dcp_deploy.kernels.cpu.library import find_compiler


def test_the_matrix_has_every_kind_and_size_at_full_width():
    found = suite.networks(quick=False)
    assert list(found) == ["stylegan2-256", "stylegan2-1024", "stylegan3-256", "stylegan3-1024"]
    assert found["stylegan2-256"].widths[0] == 512 and found["stylegan3-256"].kind == "stylegan3"


def test_students_keep_their_share_in_whole_multiples():
    made = {name: config for name, config, _ in suite.students(suite.networks(quick=False)["stylegan2-256"])}
    assert len(made) == 9
    assert made["student 0.7 by 16"].widths == (*[160] * 10, 80, 80, 32, 32)  # 30 % to the nearest
    assert all(width % 8 == 0 for width in made["student 0.85 by 8"].widths)


@pytest.mark.parametrize(("network", "several"), [("stylegan2-256", 1), ("stylegan2-1024", 0), ("stylegan3-256", 0)])
def test_one_student_of_one_network_comes_in_other_precisions(network, several):
    precisions = [precisions for _, _, precisions in suite.students(suite.networks(quick=False)[network])]
    assert precisions.count(("fp32", "bf16", "int8")) == several
    assert precisions.count(("fp32",)) == 9 - several


@pytest.mark.parametrize("network", suite.networks(quick=True))
def test_images_of_random_weights_are_seldom_out_of_range(network):
    """Otherwise the gate compares black with black and white with white."""
    with torch.no_grad():
        images = suite._network(suite.networks(quick=True)[network])(torch.randn(4, 512))
    assert (images.abs() > 1).float().mean() < 0.15  # a normal distribution with deviation 0.5 has 5 %


def test_a_network_is_measured_once_and_kept_with_its_table(small_generator, exported, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(suite, "networks", lambda quick: {"stylegan2-8": small_generator.config})
    monkeypatch.setattr(suite, "RATIOS", (0.5,))
    monkeypatch.setattr(suite, "ALIGNS", (1,))
    monkeypatch.setattr(suite, "benchmark", partial(suite.benchmark, warmup_seconds=0, pause_seconds=0))

    def copied(generator, path, precision):
        """Copy one file for all networks, because tracing takes most of the time."""
        assert precision == "fp32"
        return shutil.copy(exported, path)

    monkeypatch.setattr(suite, "export_onnx", copied)
    words = ["suite", str(tmp_path), "--quick", "--rounds", "3", "--seconds", "0", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", words)
    suite.main()
    document = read_json(tmp_path / "stylegan2-8-quick.json")
    names = [
        "teacher, torch eager", "teacher, ONNX Runtime", "teacher, ONNX Runtime, Winograd", "teacher, OpenVINO",
        "teacher, OpenVINO, Winograd", "student 0.5 by 1, ONNX Runtime", "student 0.5 by 1, ONNX Runtime, Winograd",
        "student 0.5 by 1, OpenVINO", "student 0.5 by 1, OpenVINO, Winograd",
    ]  # fmt: skip
    assert [row["name"] for row in document["rows"]] == names
    assert all(row["roofline"]["operations"] > 0 for row in document["rows"])
    assert names[-1] in (tmp_path / "stylegan2-8-quick.md").read_text()
    capsys.readouterr()
    suite.main()
    assert capsys.readouterr().out == ""  # the document exists


def test_a_pair_takes_the_files_that_an_earlier_run_kept(small_generator, exported, tmp_path, monkeypatch):
    teacher = small_generator.config
    monkeypatch.setattr(suite, "networks", lambda quick: {"stylegan2-8": teacher})
    monkeypatch.setattr(suite, "BACKENDS", "torch,onnxruntime")
    monkeypatch.setattr(suite, "benchmark", partial(suite.benchmark, warmup_seconds=0, pause_seconds=0))
    made = []

    def copied(generator, path, precision):
        made.append(path.name)
        return shutil.copy(exported, path)

    monkeypatch.setattr(suite, "export_onnx", copied)
    words = ["suite", str(tmp_path), "--pair", "--files", str(tmp_path / "kept"), "--rounds", "2", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):
        suite.main()
        (tmp_path / "stylegan2-8-pair.json").rename(tmp_path / "first.json")
    models = [row["labels"]["model"] for row in read_json(tmp_path / "first.json")["rows"]]
    assert models[:2] == ["teacher"] * 2 and set(models[2:]) == {"student 0.7 by 16"}
    assert made[:2] == ["teacher-8-fp32.onnx", "student-0.7-by-16-8-fp32.onnx"]
    assert len(made) == len(set(made))  # the second run exported nothing


def test_an_unknown_network_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["suite", str(tmp_path), "--network", "stylegan2-512"])
    with pytest.raises(SystemExit) as ended:
        suite.main()
    assert ended.value.code == 2 and "stylegan2-512" in capsys.readouterr().err
