"""A run directory is read with missing files and fields, but not with malformed ones."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from dcp_deploy.errors import CorruptFileError
from dcp_deploy.report.run_directory import read_run_directory


def test_unknown_fields_are_ignored(run_folder):
    run_folder.change("metrics.json", novelty={"a": 1})
    assert read_run_directory(run_folder.path).quality("student").fid == 9.84


def test_missing_files_are_read_as_none(run_folder):
    for path in run_folder.path.rglob("*"):
        if path.is_file() and path.name != "run.json":
            path.unlink()
    run = read_run_directory(run_folder.path)
    assert run.metrics is run.parity is run.bench is None
    assert run.quality("student").fid is None
    assert run.history == run.scores == ()
    assert run.engines == run.grids == run.file_bytes == {}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", "[]", r"run\.json cannot be read"),
        ("run.json", '{"schema": 2}', "schema"),
        ("run.json", '{"networks": {"teacher": {"parameters": "many"}}}', r"networks\.teacher\.parameters"),
        ("run.json", '{"config": {"a": [NaN]}}', r"config\.a"),
        ("run.json", '{"networks": {"student": {"macs": 0}}}', r"networks\.student\.macs"),
        ("run.json", f'{{"networks": {{"student": {{"bytes": {10**400}}}}}}}', r"networks\.student\.bytes"),
        ("bench.json", "", "Invalid JSON"),
        ("bench.json", '{"rows": [{"name": "a", "p50_ms": 1e300}]}', r"rows\.0\.p50_ms"),
        ("metrics.json", '{"models": {"student": {"fid": 1e300}}}', r"models\.student\.fid"),
        ("bench.json", '{"rows": [{"name": "a", "p50_ms": 0}]}', r"rows\.0\.p50_ms"),
        ("bench.json", '{"rows": [{"p50_ms": 1}]}', r"rows\.0\.name"),
        ("metrics.json", '{"models": {"student": {"fid": NaN}}}', r"models\.student\.fid"),
        ("parity.json", '{"pairs": {"student": {}}}', r"pairs\.student\.passed"),
        ("history.json", '{"step": 1}', r"history\.json"),
        ("engines/student.json", "7", r"student\.json"),
        ("scores.safetensors", "rubbish", r"scores\.safetensors"),
        ("grids/student.png", "no picture", r"student\.png"),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(run_folder, name, content, words):
    (run_folder.path / name).write_text(content)
    with pytest.raises(CorruptFileError, match=words) as caught:
        read_run_directory(run_folder.path)
    assert name.rpartition("/")[2] in caught.value.message
    assert "run the build again" in caught.value.remedy


def test_a_truncated_picture_is_refused(run_folder):
    path = run_folder.path / "grids" / "student.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptFileError, match=r"student\.png"):
        read_run_directory(run_folder.path)


@pytest.mark.parametrize("size", [(64, 64), (60_000, 60_000)])
def test_a_picture_without_its_pixels_or_of_absurd_size_is_refused(run_folder, size):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header, pixels = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0), zlib.compress(b"few")
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (run_folder.path / "grids" / "student.png").write_bytes(png)
    with pytest.raises(CorruptFileError, match=r"student\.png"):
        read_run_directory(run_folder.path)


@pytest.mark.parametrize("layer", [np.zeros((2, 2)), np.zeros(0), np.array([1.0, np.nan])])
def test_scores_must_be_finite_vectors(run_folder, layer):
    save_file({"layer00": layer}, run_folder.path / "scores.safetensors")
    with pytest.raises(CorruptFileError, match="layer00"):
        read_run_directory(run_folder.path)


def test_score_layers_come_in_the_order_of_their_numbers(run_folder):
    save_file({f"layer{i}": np.full(i + 1, 1.0) for i in range(12)}, run_folder.path / "scores.safetensors")
    assert [len(layer) for layer in read_run_directory(run_folder.path).scores] == list(range(1, 13))


def test_layer_names_come_from_the_run(run_folder):
    networks = run_folder.read("run.json")["networks"]
    run_folder.change("run.json", networks={**networks, "teacher": {**networks["teacher"], "layers": ["input", "L0"]}})
    run = read_run_directory(run_folder.path)
    assert run.layer_names(2) == ["input", "L0"]
    assert run.layer_names(3) == ["layer 0", "layer 1", "layer 2"]
