"""Candidates made of real networks: what they are called and that they draw the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcp_deploy.benchmarks import BASELINE, benchmark, generator_candidates
from dcp_deploy.generators import Generator, GeneratorConfig

QUICK = {"warmup_calls": 1, "warmup_seconds": 0, "min_rounds": 2, "min_seconds": 0, "pause_seconds": 0}


def network(width, **settings):
    torch.manual_seed(width)
    config = GeneratorConfig(resolution=8, z_dim=6, w_dim=6, mapping_layers=1, widths=(width,) * 4, **settings)
    return Generator(config).eval()


@pytest.fixture(scope="module")
def student_onnx(tmp_path_factory):
    """A file with a generator's interface: image = z W psi. Tracing a real one would take most of this file's time."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    weights = [
        numpy_helper.from_array(np.ones((6, 3 * 8 * 8), np.float32), "W"),
        numpy_helper.from_array(np.array([-1, 1, 1, 1]), "column"),
        numpy_helper.from_array(np.array([-1, 3, 8, 8]), "shape"),
    ]
    nodes = [
        helper.make_node("MatMul", ["z", "W"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["square"]),
        helper.make_node("Reshape", ["psi", "column"], ["scale"]),
        helper.make_node("Mul", ["square", "scale"], ["image"]),
    ]
    z, psi, image = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *rest])
        for name, rest in (("z", [6]), ("psi", []), ("image", [3, 8, 8]))
    )
    graph = helper.make_graph(nodes, "student", [z, psi], [image], weights)
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    save_model(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def test_teacher_and_student_on_both_backends(student_onnx):
    candidates = generator_candidates(network(5), network(3), None, student_onnx, threads=1)
    assert list(candidates) == [BASELINE, "student, torch eager", "student, ONNX Runtime"]
    assert [(c.model, c.backend, c.threads) for c in candidates.values()] == [
        ("teacher", "torch", 1),
        ("student", "torch", 1),
        ("student", "onnxruntime", 1),
    ]
    assert candidates["student, ONNX Runtime"].file_bytes == student_onnx.stat().st_size


def test_all_candidates_get_the_same_latents(student_onnx):
    candidates = generator_candidates(network(3), network(3), None, student_onnx, batch=2, seed=4)
    teacher, student, exported = (candidate() for candidate in candidates.values())
    assert (teacher == student).all()
    z = np.random.default_rng(4).standard_normal((2, 6)).astype(np.float32)
    np.testing.assert_allclose(exported[:, 0, 0, 0], z.sum(axis=1), rtol=1e-5)


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
