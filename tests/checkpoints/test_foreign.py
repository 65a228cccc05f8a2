"""Files that are not checkpoints are called what they are, with the way to a checkpoint."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcp_deploy.checkpoints import read_checkpoint
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, kind)
    return stream.getvalue()


def zipped(names: list[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("network.pkl"))
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (picture("JPEG"), "a JPEG image"),
        (picture("PNG"), "a PNG image"),
        (picture("GIF"), "a GIF image"),
        (picture("WEBP"), "a WebP image"),
        (gzip.compress(b"x" * 100), "gzip archive.*Unpack"),
        (bz2.compress(b"x" * 100), "bzip2 archive.*Unpack"),
        (lzma.compress(b"x" * 100), "xz archive.*Unpack"),
        (tarred(), "tar archive.*Unpack"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z archive.*Unpack"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(50), "RAR archive.*Unpack"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html></html>", "a web page"),
        (b"\n  <html><body>Quota exceeded</body></html>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML answer of a server"),
        (b'{"error": "not found"}', "JSON text"),
        (b'{\n  "schema": 1,\n  "rows": []\n}', "JSON document, as dcp-deploy writes them"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (npy(), "a single numpy array"),
        (zipped(["stylegan2-ffhq.pkl"]), "(?i)zip.*unzip"),
        (zipped(["photos/1.png", "photos/2.png"]), "zip archive"),
        (b"\x00" * 100, "not a checkpoint of a known format"),
    ],
)
def test_other_content_is_named_with_a_remedy(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(content)
    with pytest.raises(UnknownFormatError, match=f"(?s){what}") as caught:
        read_checkpoint(path)
    assert "damaged" not in str(caught.value)
    assert caught.value.remedy


def test_an_exported_file_is_refused_with_the_way_back(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    model = helper.make_model(helper.make_graph([], "g", [], []), ir_version=8)
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(UnknownFormatError, match="ONNX") as caught:
        read_checkpoint(tmp_path / "g.onnx")
    assert "exported from" in caught.value.remedy


def test_only_a_damaged_file_is_called_damaged(tmp_path: Path) -> None:
    whole = (Path(__file__).parents[1] / "data" / "checkpoints" / "dcp_pruned_torch213.pt").read_bytes()
    path = tmp_path / "g.pt"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError) as caught:
        read_checkpoint(path)
    assert isinstance(caught.value, InputError)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", **{"synthesis.b4.const": np.zeros(40_000_000, np.float32)})
    with pytest.raises(CorruptFileError, match="far more memory"):
        read_checkpoint(tmp_path / "bomb.npz")
