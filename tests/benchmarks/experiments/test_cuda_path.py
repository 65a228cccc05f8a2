from __future__ import annotations

from dcp_deploy.benchmarks.experiments import cuda_path


def test_rows_compare_with_the_eager_teacher() -> None:
    samples = {
        cuda_path.BASELINE: {"gpu": [4.0, 4.0, 4.0], "host": [5.0, 5.0, 5.0]},
        "student, ours fp16, graph": {"gpu": [0.5, 0.25, 0.5], "host": [1.0, 1.0, 1.0]},
    }
    found = cuda_path.rows(samples, 8)
    assert [row["gpu_ms"] for row in found] == [4.0, 0.5]
    assert found[1]["speedup"]["value"] == 8.0
    assert found[1]["images_per_second"] == 16000.0
    assert "8.00x" in cuda_path.table(found)


def test_the_student_has_30_percent_of_the_channels_in_steps_of_8() -> None:
    widths = zip(cuda_path.TEACHER, cuda_path.STUDENT, strict=True)
    assert all(width % 8 == 0 and 0 <= width - 0.3 * full < 8 for full, width in widths)
