"""The plugins with the real Python bindings of TensorRT, over stub libraries: see stub_tensorrt.py, plugin_cycle.py.

These tests are skipped without the bindings. They run no kernel; test_plugin_kernels.py does, on the host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dcp_deploy.errors import MissingCapabilityError
from dcp_deploy.export.tensorrt import plugins
from dcp_deploy.export.tensorrt.plugin_kernels import OPERATORS, TACTICS, output_shape, plugin_call

from .stub_tensorrt import VERSIONS

HERE = Path(__file__).parent
COMPILED = ("FirEpilogueNoiseNextClamp", "ToRGBSkipBytes")  # compiled by NVRTC, which takes seconds for each


@pytest.fixture(scope="module")
def cycle(tensorrt_bindings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Return (the answers of all plugins, the folder of the PTX files); the first version of TensorRT compiles PTX."""
    try:
        plugins.nvrtc_version()
    except MissingCapabilityError as error:
        pytest.skip(error.message)
    compiled = tmp_path_factory.mktemp("ptx")
    names = COMPILED if tensorrt_bindings.name.startswith(VERSIONS[0]) else ()
    done = subprocess.run(
        [sys.executable, str(HERE / "plugin_cycle.py"), str(compiled), *names],
        env={**os.environ, "PYTHONPATH": str(tensorrt_bindings), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # after TensorRT's own "experimental" line
    assert tensorrt_bindings.name.startswith(answer["version"])
    return answer, compiled


def launches(answer: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(operator, launch) for operator in answer["answers"] for launch in operator["launches"]]


def test_every_operator_is_registered_in_our_namespace(cycle: tuple[dict[str, Any], Path]) -> None:
    answer, _ = cycle
    assert answer["registered"] == sorted(OPERATORS)
    assert (answer["facts"]["namespace"], answer["facts"]["ptx"]) == ("dcp_deploy", "compute_89")


def test_outputs_have_their_types_and_shapes(cycle: tuple[dict[str, Any], Path]) -> None:
    for found in cycle[0]["answers"]:
        operator, (channels, height, width) = OPERATORS[found["operator"]], found["size"]
        assert found["type"] == ("UINT8" if operator.as_bytes else "FLOAT")
        sizes = [height, width, 3] if operator.as_bytes else [3 if operator.is_rgb else channels, height, width]
        assert all(shape[1:] == sizes for shape in found["shapes"])
        assert [shape[0] for shape in found["shapes"]] == [0, 1, 5, 65536]


def test_features_come_in_three_types_and_everything_else_in_float(cycle: tuple[dict[str, Any], Path]) -> None:
    for found, launch in launches(cycle[0]):
        first, *rest, last = launch["types"]
        assert set(rest) == {"FLOAT"} and set(launch["layouts"][1:-1]) == {"LINEAR"}
        if OPERATORS[found["operator"]].is_rgb:
            assert (last, launch["layouts"][-1]) == (found["type"], "LINEAR")
        else:
            assert (last, launch["layouts"][-1]) == (first, launch["layouts"][0])
    for found in cycle[0]["answers"]:
        offered = {(launch["types"][0], launch["layouts"][0]) for launch in found["launches"]}
        padded = {("HALF", "HWC8"), ("BF16", "HWC8")} if found["size"][0] % 8 == 0 else set()
        assert offered == {(kind, layout) for kind in plugins.STORED for layout in ("LINEAR", "HWC")} | padded


def test_tactics_are_block_sizes_and_variants(cycle: tuple[dict[str, Any], Path]) -> None:
    for _, launch in launches(cycle[0]):
        variant, block = TACTICS[launch["tactic"]]
        assert launch["block"] == [block, 1, 1]
        assert launch["kernel"].endswith(f"_{block}")
        written = {"fast": ("wide", "narrow"), "narrow": ("narrow",), "naive": ("naive",)}[variant]
        assert launch["kernel"].split("_")[-3] in written
    assert {launch["tactic"] for _, launch in launches(cycle[0])} == set(TACTICS)


def test_grids_are_those_of_the_kernels_callers_for_every_batch(cycle: tuple[dict[str, Any], Path]) -> None:
    for found, launch in launches(cycle[0]):
        operator, batch = OPERATORS[found["operator"]], launch["batch"]
        shapes = _input_shapes(operator.inputs, found, max(batch, 1))
        dtype, layout = plugins.STORED[launch["types"][0]], plugins.LAYOUTS[launch["layouts"][0]]
        call = plugin_call(operator, shapes, dtype, layout, None, launch["tactic"])  # type: ignore[arg-type]
        assert call is not None
        assert launch["grid"] == [*call.grid, 1]  # for a batch of 0 the grid of one sample, whose blocks are idle
        assert launch["numbers"] == [batch]


def _input_shapes(names: tuple[str, ...], found: dict[str, Any], batch: int) -> list[list[int]]:
    """Return the shapes of an operator's inputs for the size of its output."""
    operator, (channels, height, width) = OPERATORS[found["operator"]], found["size"]
    x = [batch, channels, height, width]
    if operator.shuffles:
        x = [batch, 4 * channels, height // 2, width // 2]
    elif operator.name.startswith("FirEpilogue"):
        x = [batch, channels, height + 1, width + 1]
    noise = [height, width] if channels % 8 == 0 else [batch, 1, height, width]
    rows = [batch, channels]
    bias = [3] if operator.is_rgb else [channels]
    skip = [batch, 3, height // 2, width // 2]
    known = {"x": x, "scale": rows, "noise": noise, "bias": bias, "next_scale": rows, "styles": rows, "skip": skip}
    shapes = [{**known, "weight": [3, channels]}[name] for name in names]
    assert output_shape(operator, x)[2:] == (width, 3) if operator.as_bytes else (height, width)
    return shapes


def test_the_ptx_is_assembled_without_spills(cycle: tuple[dict[str, Any], Path]) -> None:
    answer, compiled = cycle
    if shutil.which("ptxas") is None:
        pytest.skip("no ptxas: it comes with a CUDA toolkit")
    half = ((found, launch) for found, launch in launches(answer) if launch["types"][0] == "HALF")
    kernels = {launch["kernel"] for found, launch in half if found["operator"] in COMPILED}
    files = sorted(compiled.glob("*.ptx"))
    first = VERSIONS[0].startswith(answer["version"])  # the PTX of the other version would be the same
    assert {file.stem for file in files} == (kernels if first else set())
    for file in (file for file in files if "16x8x12" in file.name):
        done = subprocess.run(
            ["ptxas", "--gpu-name=sm_89", "-v", "-o", os.devnull, str(file)], capture_output=True, text=True, check=True
        )
        assert f"Compiling entry function '{file.stem}'" in done.stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


def test_nvrtc_newer_than_the_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "import_flavour", lambda flavour: None)
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", ModuleType("tensorrt.plugin"))
    monkeypatch.setattr(plugins, "nvrtc_version", lambda: (13, 5))
    monkeypatch.setattr(plugins, "driver_version", lambda: (13, 0))
    with pytest.raises(MissingCapabilityError, match=r"NVRTC 13\.5 is newer than CUDA 13\.0") as caught:
        plugins.register(89)
    assert caught.value.remedy == "Install it: pip install 'nvidia-cuda-nvrtc==13.0.*'"
