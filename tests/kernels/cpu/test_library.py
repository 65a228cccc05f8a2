"""The CPU operators against their references in torch, and the compilation of their library."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.files import find_compiler
from dcp_deploy.kernels import reference
from dcp_deploy.kernels.cpu import library
from dcp_deploy.kernels.cpu.library import CPUOperators, Floats, cpu_operators

from ..compiled import compiled_cpu_library

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

# Sums of up to 9 x 48 products of order one. Winograd's transforms multiply by up to 8 twice, so the error is some tens
# of roundings of 6e-8 of such sums.
TOLERANCE = 5e-5

MACHINES = {"native": None, "haswell": "avx2", "x86-64": "sse2"}  # -march, and what /proc/cpuinfo must say for it


@pytest.fixture(scope="module", params=MACHINES)
def operators(request: pytest.FixtureRequest, shared_folder: Path) -> CPUOperators:
    """The library for one kind of vectors: this machine's, AVX2's and SSE2's."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    needed = MACHINES[request.param]
    if needed is not None and f" {needed} " not in f"{Path('/proc/cpuinfo').read_text()} ":
        pytest.skip(f"the CPU lacks {needed}")
    return CPUOperators(compiled_cpu_library(shared_folder, request.param))


class Case:
    """One layer with random inputs, and the reference's result."""

    def __init__(
        self, operators: CPUOperators, batch: int, size: int | tuple[int, int], inputs: int, outputs: int, *,
        up: bool = False,
        x_batch: int | None = None, noise_batch: int | None = 1, clamp: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.operators, self.up, self.clamp = operators, up, clamp
        self.random = np.random.default_rng(seed)
        size = (size, size) if isinstance(size, int) else size
        full = [2 * side if up else side for side in size]
        self.x = self.normal(x_batch or batch, *size, operators.stored(inputs))
        self.weight = self.normal(outputs, inputs, 3, 3) / np.float32(3 * np.sqrt(inputs))
        self.style, self.scale = self.normal(batch, inputs), self.normal(batch, outputs)
        self.bias, self.inputs, self.outputs = self.normal(outputs), inputs, outputs
        self.noise = None if noise_batch is None else self.normal(noise_batch, 1, *full)
        self.y = np.full((batch, *full, operators.stored(outputs)), np.nan, np.float32)

    def normal(self, *shape: int) -> Floats:
        return self.random.standard_normal(shape).astype(np.float32)

    def compute(self, threads: int = 0) -> Floats:
        """[B, outputs, H, W]"""
        packed = self.operators.pack(self.weight, up=self.up)
        self.operators.modulated_conv(
            self.x, packed, self.style, self.scale, self.bias, self.noise, self.y, up=self.up, clamp=self.clamp,
            threads=threads,
        )  # fmt: skip
        assert np.isfinite(self.y).all()  # the added channels too
        return self.y[..., : self.outputs].transpose(0, 3, 1, 2)

    def expected(self) -> Floats:
        style, scale, bias, weight = (torch.from_numpy(a) for a in (self.style, self.scale, self.bias, self.weight))
        noise = None if self.noise is None else torch.from_numpy(self.noise)
        x = torch.from_numpy(self.x[..., : self.inputs].transpose(0, 3, 1, 2)) * style[:, :, None, None]
        if self.up:
            unfiltered = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            result = reference.fir_epilogue(unfiltered, scale, noise, bias, clamp=self.clamp or None)
        else:
            y = F.conv2d(x, weight, padding=1)
            result = reference.modconv_epilogue(y, scale, noise, bias, clamp=self.clamp or None)
        return result.numpy()

    def check(self, threads: int = 0) -> None:
        np.testing.assert_allclose(self.compute(threads), self.expected(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("up", [False, True], ids=["same size", "twice as large"])
@pytest.mark.parametrize("size", [4, 8, 32, (4, 2), (16, 6), (5, 9), (1, 1)], ids=str)
def test_a_layer_computes_the_reference(operators: CPUOperators, size: int | tuple[int, int], up: bool) -> None:
    Case(operators, 2, size, 24, 20, up=up, clamp=1.0).check()


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3), size=st.tuples(st.integers(1, 13), st.integers(1, 13)), inputs=st.integers(1, 48),
    outputs=st.integers(1, 90), up=st.booleans(), noise=st.sampled_from([None, 1, "each"]),
    clamp=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 2**16),
)  # fmt: skip
@needs_compiler
def test_any_widths_and_batches_work(
    batch: int,
    size: tuple[int, int],
    inputs: int,
    outputs: int,
    up: bool,
    noise: str | int | None,
    clamp: float,
    seed: int,
) -> None:
    noise_batch = batch if noise == "each" else None if noise is None else 1
    Case(cpu_operators(), batch, size, inputs, outputs, up=up, noise_batch=noise_batch, clamp=clamp, seed=seed).check()


@needs_compiler
@pytest.mark.parametrize("up", [False, True])
def test_one_constant_input_serves_a_batch(up: bool) -> None:
    Case(cpu_operators(), 3, 4, 16, 16, up=up, x_batch=1).check()


@needs_compiler
def test_a_large_image_is_filtered_in_strips() -> None:
    """The unfiltered image, 513 x 513 x 16 floats, is four times as large as the part that is kept at once."""
    Case(cpu_operators(), 1, 256, 5, 16, up=True).check()


@needs_compiler
@pytest.mark.parametrize("size", [(1023, 62), (1024, 65), (1022, 66)])
def test_strips_of_a_tall_image_end_anywhere(size: tuple[int, int]) -> None:
    Case(cpu_operators(), 1, size, 5, 16, up=True).check()


@needs_compiler
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16])  # of 16, with parts of few tiles
def test_the_number_of_threads_changes_nothing(threads: int, up: bool) -> None:
    case = Case(cpu_operators(), 1, 32, 16, 40, up=up)
    first = case.compute(threads=1).copy()
    assert np.array_equal(case.compute(threads=threads), first)


@needs_compiler
def test_callers_of_many_threads_take_turns() -> None:
    cases = [Case(cpu_operators(), 1, 16, 16, 16, up=bool(seed % 2), seed=seed) for seed in range(4)]
    expected = [case.compute().copy() for case in cases]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(cases[number].compute(), expected[number]):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("skip", [False, True], ids=["first", "on top"])
@pytest.mark.parametrize("clamp", [0.0, 0.5])
def test_colours_are_those_of_the_reference(operators: CPUOperators, clamp: float, skip: bool) -> None:
    case = Case(operators, 2, 8, 20, 1)
    weight, bias = case.normal(3, 20), case.normal(3)
    before = case.normal(2, 3, 4, 4) if skip else None
    image, as_bytes = np.empty((2, 3, 8, 8), np.float32), np.empty((2, 8, 8, 3), np.uint8)
    operators.to_rgb(case.x, case.style, weight, bias, before, image, clamp=clamp)
    operators.to_rgb(case.x, case.style, weight, bias, before, as_bytes, clamp=clamp)
    features = torch.from_numpy(case.x[..., :20].transpose(0, 3, 1, 2).copy())
    tensors = [features, *map(torch.from_numpy, (case.style, weight, bias))]
    skip_tensor = None if before is None else torch.from_numpy(before)
    expected = reference.to_rgb(*tensors, skip_tensor, clamp=clamp or None).numpy()
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)  # sums of 20 products of order one
    exact = np.clip(image.transpose(0, 2, 3, 1) * np.float32(127.5) + np.float32(128), 0, 255)
    # Truncated: one step where a rounding of the product and the sum decides.
    assert np.abs(exact.astype(np.uint8).astype(int) - as_bytes).max() <= 1
    assert (exact.astype(np.uint8) != as_bytes).mean() < 0.01


@needs_compiler
def test_arrays_must_be_contiguous() -> None:
    case = Case(cpu_operators(), 1, 4, 16, 16)
    case.x = case.x.transpose(0, 2, 1, 3)
    with pytest.raises(ValueError, match=r"\[1, 4, 4, 16\] is not contiguous"):
        case.compute()


# ---- the library ----


@needs_compiler
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def stand_in(compiler: str, machine: str, target: Path) -> None:
        calls.append(target)
        target.write_bytes(b"")

    monkeypatch.setattr(library, "_compile", stand_in)
    first = library.cpu_library(cache_folder=tmp_path)
    assert library.cpu_library(cache_folder=tmp_path) == first
    assert calls == [first]
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@needs_compiler
def test_another_machine_or_another_source_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_compile", lambda compiler, machine, target: target.write_bytes(b""))
    monkeypatch.setattr(library, "_macros", lambda compiler, machine: machine)
    texts = library.source_texts()
    found = [library.cpu_library(cache_folder=tmp_path), library.cpu_library(machine="other", cache_folder=tmp_path)]
    monkeypatch.setattr(library, "source_texts", lambda: {**texts, "threads.hpp": "// changed"})
    found.append(library.cpu_library(cache_folder=tmp_path))
    assert len(set(found)) == 3


def test_without_a_compiler_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingCapabilityError, match=r"no C\+\+ compiler") as caught:
        library.cpu_library()
    assert "CXX" in str(caught.value.remedy)


@needs_compiler
def test_a_compiler_that_refuses_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingCapabilityError, match=r"march=no-such-machine.*fails"):
        library.cpu_library(machine="no-such-machine", cache_folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_environment_names_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "my-g++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", str(own))
    assert find_compiler() == str(own)


def test_a_full_disk_is_recognised_in_every_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    german = "Auf dem Gerät ist kein Speicherplatz mehr verfügbar"
    words = f'if [ "$LC_ALL" = C ]; then echo No space left on device; else echo {german}; fi >&2'
    compiler.write_text(f"#!/bin/sh\n{words}\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with pytest.raises(OSError, match="No space left") as caught:
        library.cpu_library(cache_folder=tmp_path)
    assert caught.value.errno == errno.ENOSPC


@needs_compiler
def test_threads_sleep_between_calls() -> None:
    """Half a second after a call the process has used almost no CPU time: no thread spins."""
    script = (
        "import time, numpy as np\n"
        "from dcp_deploy.kernels.cpu.library import cpu_operators\n"
        "operators = cpu_operators()\n"
        "x = np.ones((1, 8, 8, operators.stored(1)), np.float32)\n"
        "y, one = np.empty_like(x), np.ones((1, 1), np.float32)\n"
        "packed = operators.pack(np.ones((1, 1, 3, 3), np.float32), up=False)\n"
        "operators.modulated_conv(x, packed, one, one, one[0], None, y, threads=4)\n"
        "assert y[0, 4, 4, 0] == 10\n"
        "time.sleep(0.2)\n"
        "before = time.process_time()\n"
        "time.sleep(0.5)\n"
        "print(time.process_time() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < 0.1  # three that spin would use 1.5 s of two cores


@needs_compiler
def test_threads_may_use_every_core_of_the_thread_that_started_them() -> None:
    """A runtime that pins its own thread to one core must not pin ours."""
    script = (
        "import os, threading\n"
        "from dcp_deploy.kernels.cpu.library import cpu_operators\n"
        "operators = cpu_operators()\n"
        "tasks = lambda: set(os.listdir('/proc/self/task'))\n"
        "before = tasks()\n"  # numpy has threads too
        "operators.start(3)\n"
        "os.sched_setaffinity(threading.get_native_id(), {min(os.sched_getaffinity(0))})\n"
        "print(*(len(os.sched_getaffinity(int(task))) for task in tasks() - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    cores = len(psutil.Process().cpu_affinity() or [])
    assert done.stdout.split() == [str(cores)] * 2
