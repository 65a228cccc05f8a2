from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dcp_deploy.errors import UsageError
from dcp_deploy.export import Runner, classes_of, latents_of, load_runner, verify
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.integrity import pack
from dcp_deploy.files import find_compiler

WITHOUT = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[3].split(","):
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Forbidden())
import numpy as np
from dcp_deploy import load_runner
runner = load_runner(sys.argv[1], backend=sys.argv[2])
images = runner(z=np.zeros((2, runner.z_dim), np.float32), psi=0.7, c=np.eye(runner.c_dim, dtype=np.float32)[:2])
print(images.shape, images.dtype, "torch" in sys.modules)
"""


def images_of(runner: Runner, seeds: range) -> np.ndarray:
    return runner(z=latents_of(seeds, runner.z_dim), psi=0.8, c=classes_of(seeds, runner.c_dim))


def test_a_bundle_gives_its_golden_images(bundle: Path) -> None:
    golden, kept = read_golden(bundle, "generator")
    verify(golden, load_runner(bundle), **kept).raise_for_failure()


@pytest.mark.parametrize(
    ("backend", "without"),
    [("auto", "torch,onnx,onnxscript,tritonclient"), ("onnxruntime-winograd", "torch,onnxscript,tritonclient")],
)
def test_it_runs_without_torch(bundle: Path, backend: str, without: str) -> None:
    """Without onnx too, except with our CPU operators, which are put into the graph with it."""
    if backend != "auto" and find_compiler() is None:
        pytest.skip("no C++ compiler")
    command = [sys.executable, "-W", "error", "-c", WITHOUT, bundle, backend, without]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 32, 32, 3) uint8 False"


def test_our_cpu_operators_without_onnx_report_what_is_missing(bundle: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, bundle, "onnxruntime-winograd", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "MissingCapabilityError: backend 'onnxruntime-winograd' changes the graph" in done.stderr


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
def test_our_cpu_operators_give_the_golden_images_too(bundle: Path) -> None:
    golden, kept = read_golden(bundle, "generator")
    verify(golden, load_runner(bundle, backend="onnxruntime-winograd"), **kept).raise_for_failure()


def test_a_batch_above_the_largest_is_split(bundle: Path, uint8_onnx: Path) -> None:
    parts, whole = images_of(load_runner(bundle), range(21)), images_of(load_runner(uint8_onnx), range(21))
    # The same file in batches of 8 and of 21: another order of summation may move a value across an 8-bit border.
    assert np.abs(parts.astype(int) - whole.astype(int)).max() <= 1


def test_many_threads_get_their_own_images(bundle: Path) -> None:
    runner = load_runner(bundle, threads=1)
    alone = [images_of(runner, range(n, n + n % 5 + 1)) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: images_of(runner, range(n, n + n % 5 + 1)), range(40)))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_another_backend_and_a_packed_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="torch"):
        load_runner(bundle, backend="torch")
    archive = tmp_path / "b.tar.zst"
    pack(bundle, archive)
    with pytest.raises(UsageError, match="Unpack it first"):
        load_runner(archive)
