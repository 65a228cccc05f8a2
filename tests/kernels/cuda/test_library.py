from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from dcp_deploy.errors import DcpDeployError, MissingCapabilityError, UsageError
from dcp_deploy.files import read_json
from dcp_deploy.kernels.cuda import library
from dcp_deploy.kernels.cuda.library import CAPABILITIES, SOURCES, CompiledSource, Resources, compiled, parse_resources

from .resources import RECORD, sources_hash

# Every source for the oldest GPU, which rounds by integers, and the newest; one source for all. The record below has
# the resources of all sources on all GPUs.
SAMPLES = tuple(
    (source, gpu) for source, gpu in product(SOURCES, CAPABILITIES) if gpu in (75, 120) or source == "modulation"
)
MADE = CompiledSource("to_rgb", 90, "a compiler", ".ptx", b"\x7fELF cubin", {"k": Resources(9, 8, 0, 0, 0)})


def built(source: str, capability: int, folder: Path) -> CompiledSource:
    try:
        return compiled(source, capability, cache_folder=folder)
    except MissingCapabilityError as error:
        pytest.skip(str(error))


# ---- compiled code ----


@pytest.mark.parametrize(("source", "capability"), SAMPLES)
def test_a_source_compiles_to_ptx_and_machine_code(source: str, capability: int, shared_folder: Path) -> None:
    code = built(source, capability, shared_folder)
    assert code.cubin.startswith(b"\x7fELF")
    assert f".target sm_{capability}" in code.ptx
    assert "\0" not in code.ptx
    assert code.kernels
    for kernel, taken in code.kernels.items():
        assert f".visible .entry {kernel}(" in code.ptx
        assert (taken.stack, taken.spill_stores, taken.spill_loads) == (0, 0, 0), kernel


@pytest.mark.parametrize(("source", "capability"), [pair for pair in SAMPLES if pair[0] != "modulation"])
def test_features_move_16_bytes_at_a_time(source: str, capability: int, shared_folder: Path) -> None:
    ptx = built(source, capability, shared_folder).ptx
    for entry in ptx.split(".visible .entry ")[1:]:
        kernel = entry.split("(")[0]
        assert ("ld.global.nc.v4" in entry) == ("_wide_" in kernel), kernel
        if source != "to_rgb":  # whose output is a few bytes per pixel
            assert ("st.global.v4" in entry) == ("_wide_" in kernel), kernel


def test_nvcc_makes_the_same_kernels(tmp_path: Path, shared_folder: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    code = compiled("fir_epilogue", 120, compiler="nvcc", cache_folder=tmp_path)
    assert code.kernels.keys() == built("fir_epilogue", 120, shared_folder).kernels.keys()
    assert code.cubin.startswith(b"\x7fELF")


# ---- the record of all GPUs ----


def test_the_record_belongs_to_these_sources() -> None:
    assert read_json(RECORD)["sources"] == sources_hash(), "run python tests/kernels/cuda/resources.py"


def test_no_kernel_spills_on_any_gpu() -> None:
    record = read_json(RECORD)["kernels"]
    assert len(record) == 83
    for kernel, by_gpu in record.items():
        assert [int(capability) for capability in by_gpu] == list(CAPABILITIES)
        for capability, taken in by_gpu.items():
            spilled = taken["stack"] + taken["spill_stores"] + taken["spill_loads"]
            assert spilled == 0, f"{kernel} on sm{capability}"
            assert taken["registers"] <= 128, f"{kernel} on sm{capability}: fewer than two blocks fit"


@pytest.mark.parametrize(("source", "capability"), SAMPLES)
def test_the_record_is_what_the_compiler_reports(source: str, capability: int, shared_folder: Path) -> None:
    record, code = read_json(RECORD), built(source, capability, shared_folder)
    if code.compiler != record["compiler"]:
        pytest.skip(f"recorded with {record['compiler']}, here is {code.compiler}")
    for kernel, taken in code.kernels.items():
        assert Resources(**record["kernels"][kernel][str(capability)]) == taken


def test_a_report_of_spills_is_read() -> None:
    log = """ptxas info    : Function properties for first
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 6144 bytes smem
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, 400 bytes cmem[0]
"""
    assert parse_resources(log) == {"first": Resources(40, 6144, 8, 4, 12), "second": Resources(12, 0, 0, 0, 0)}


# ---- the cache ----


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of sources in the order in which a stand-in compiles them."""
    names: list[str] = []

    def stand_in(source: str, capability: int, compiler: str) -> CompiledSource:
        names.append(source)
        return MADE

    monkeypatch.setattr(library, "_compile", stand_in)
    monkeypatch.setattr(library, "compiler_version", lambda compiler: "1.0")
    return names


def test_the_second_time_nothing_is_compiled(compilations: list[str], tmp_path: Path) -> None:
    first = compiled("to_rgb", 90, compiler="nvrtc", cache_folder=tmp_path)
    assert compiled("to_rgb", 90, compiler="nvrtc", cache_folder=tmp_path) == first == MADE
    assert compilations == ["to_rgb"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "folder"])
def test_a_damaged_entry_is_made_again(damage: str, compilations: list[str], tmp_path: Path) -> None:
    compiled("to_rgb", 90, compiler="nvrtc", cache_folder=tmp_path)
    (entry,) = tmp_path.iterdir()
    content = entry.read_bytes()
    place = content.index(b"kernels.cubin") + len(b"kernels.cubin") + 2
    flipped = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    contents = {"truncated": content[: len(content) // 2], "flipped": flipped, "foreign": b"{}", "empty": b""}
    if damage == "folder":
        tmp_path = tmp_path / "deeper"  # an entry's folder need not exist
    else:
        entry.write_bytes(contents[damage])
    assert compiled("to_rgb", 90, compiler="nvrtc", cache_folder=tmp_path) == MADE
    assert compiled("to_rgb", 90, compiler="nvrtc", cache_folder=tmp_path) == MADE
    assert compilations == ["to_rgb", "to_rgb"]


def test_the_cache_key_depends_on_source_headers_flags_gpu_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    version = {"nvrtc": "13.0", "nvcc": "13.0"}
    texts = {source: library.source_texts(source) for source in SOURCES}
    monkeypatch.setattr(library, "compiler_version", lambda compiler: version[compiler])
    monkeypatch.setattr(library, "source_texts", lambda source: texts[source])
    keys = [library.cache_key("to_rgb", 90, "nvrtc")]
    keys += [library.cache_key("to_rgb", 80, "nvrtc"), library.cache_key("to_rgb", 90, "nvcc")]
    keys.append(library.cache_key("fir_epilogue", 90, "nvrtc"))
    version["nvrtc"] = "13.1"
    keys.append(library.cache_key("to_rgb", 90, "nvrtc"))
    texts["to_rgb"] = {**texts["to_rgb"], "storage.cuh": "// changed"}
    keys.append(library.cache_key("to_rgb", 90, "nvrtc"))
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "--use_fast_math"))
    keys.append(library.cache_key("to_rgb", 90, "nvrtc"))
    assert len(set(keys)) == len(keys)


def test_two_processes_write_one_entry_and_readers_see_it_whole(tmp_path: Path) -> None:
    entry = tmp_path / "entry.zip"
    script = (
        "import sys; from pathlib import Path; from dcp_deploy.kernels.cuda import library as l\n"
        "made = l.CompiledSource('to_rgb', 90, 'c', 'p' * 100_000, b'c' * 100_000, {'k': l.Resources(1, 2, 3, 4, 5)})\n"
        "for _ in range(15): l._write_entry(Path(sys.argv[1]), made)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(entry)]) for _ in range(2)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if entry.exists():
            kept = library._read_entry(entry)
            assert kept is not None and len(kept.cubin) == 100_000
            seen += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert [path.name for path in tmp_path.iterdir()] == ["entry.zip"]


# ---- what can go wrong ----


def test_unknown_sources_and_gpus_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no kernel source named 'matmul'"):
        compiled("matmul", 90)
    with pytest.raises(UsageError, match="not built for sm70"):
        compiled("to_rgb", 70)


def test_without_a_compiler_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_nvrtc_works", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingCapabilityError) as caught:
        compiled("to_rgb", 90)
    assert "dcp-deploy[kernels]" in caught.value.remedy


def test_the_compilers_message_is_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built_with = "nvrtc" if library._nvrtc_works() else "nvcc"
    if built_with == "nvcc" and shutil.which("nvcc") is None:
        pytest.skip("no compiler for CUDA kernels")
    monkeypatch.setattr(library, "source_texts", lambda source: {f"{source}.cu": "__global__ void f() { nonsense; }"})
    with pytest.raises(DcpDeployError, match="nonsense"):
        compiled("to_rgb", 90, cache_folder=tmp_path)
    assert not list(tmp_path.iterdir())
