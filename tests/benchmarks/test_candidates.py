"""Candidates made of real networks: what they are called and that they draw the batch."""

from __future__ import annotations

import pytest
import torch

from dcp_deploy.benchmarks import BASELINE, benchmark, file_candidates, generator_candidates
from dcp_deploy.export import export_onnx
from dcp_deploy.generators import Generator, GeneratorConfig

QUICK = {"warmup_calls": 1, "warmup_seconds": 0, "min_rounds": 2, "min_seconds": 0, "pause_seconds": 0}


def network(width, **settings):
    torch.manual_seed(width)
    config = GeneratorConfig(resolution=8, z_dim=6, w_dim=6, mapping_layers=1, widths=(width,) * 4, **settings)
    return Generator(config).eval()


@pytest.fixture(scope="module")
def student_onnx(tmp_path_factory):
    return export_onnx(network(3), tmp_path_factory.mktemp("onnx") / "student.onnx")


def test_teacher_and_student_on_both_backends(student_onnx):
    candidates = generator_candidates(network(5), network(3), None, student_onnx, threads=1)
    assert list(candidates) == [BASELINE, "student, torch eager", "student, ONNX Runtime"]
    assert [(c.model, c.backend, c.threads) for c in candidates.values()] == [
        ("teacher", "torch", 1),
        ("student", "torch", 1),
        ("student", "onnxruntime", 1),
    ]
    assert candidates["student, ONNX Runtime"].file_bytes == student_onnx.stat().st_size


def test_all_candidates_draw_the_same_image_of_one_network(student_onnx):
    images = [candidate() for candidate in generator_candidates(network(3), network(3), None, student_onnx).values()]
    assert (images[0] == images[1]).all()
    as_bytes = (images[0] * 127.5 + 128).clip(0, 255).astype("uint8").transpose(0, 2, 3, 1)
    assert abs(as_bytes.astype(int) - images[2]).max() <= 1  # float rounding before truncation


def test_the_harness_runs_them_at_a_batch(student_onnx):
    candidates = generator_candidates(network(5), network(3), None, student_onnx, threads=1, batch=3)
    report = benchmark(candidates, baseline=BASELINE, batch=3, **QUICK)
    assert [row.summary.count for row in report.rows] == [2, 2, 2]
    assert report.row("student, ONNX Runtime").labels["backend"] == "onnxruntime"


def test_a_batch_that_differs_from_the_harness_is_refused():
    candidates = generator_candidates(network(5), network(3), batch=2)
    with pytest.raises(ValueError, match="returned 2 images a call, but batch is 1"):
        benchmark(candidates, baseline=BASELINE, **QUICK)


def test_class_conditional_networks_get_classes_in_turn():
    candidates = generator_candidates(network(5, c_dim=2), network(3, c_dim=2), batch=3)
    assert candidates[BASELINE]().shape == (3, 3, 8, 8)


def test_files_are_timed_under_the_names_they_are_given(student_onnx):
    candidates = file_candidates({"model": student_onnx}, batch=2)
    assert list(candidates) == ["model, ONNX Runtime"]
    assert candidates["model, ONNX Runtime"]().shape == (2, 8, 8, 3)
