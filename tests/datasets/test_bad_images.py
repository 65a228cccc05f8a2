"""Damaged, hostile and wrong sets of images: they are refused with a reason, or their bad images are skipped."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dcp_deploy.datasets import containers, images
from dcp_deploy.datasets.images import open_images
from dcp_deploy.errors import CorruptFileError, InputError, UnknownFormatError, UsageError

from .conftest import RESOLUTION as R
from .conftest import Files, ImageFile, New, Pictures, all_of

# ---- what cannot be opened ----


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone does not exist") as caught:
        open_images(tmp_path / "gone", resolution=R)
    assert "--data" in caught.value.remedy


def test_a_set_without_images_is_refused(new_folder: New, new_zip: New, new_lmdb: New) -> None:
    for path in (new_folder({"a.txt": b"", "b.npy": b""}), new_zip({"a.txt": b"", "b": b""})):
        with pytest.raises(InputError, match="holds no images; 2 files are not images"):
            open_images(path, resolution=R)
    with pytest.raises(InputError, match="holds no images"):
        open_images(new_lmdb({}), resolution=R)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_not_a_set_of_images_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)  # its name does not matter
    with pytest.raises(UnknownFormatError, match="not a set of images"):
        open_images(tmp_path / "x.zip", resolution=R)


def test_tfrecords_are_refused_by_name(new_folder: New) -> None:
    with pytest.raises(UnknownFormatError, match="TFRecords"):
        open_images(new_folder({"ffhq-r02.tfrecords": b""}), resolution=R)


def test_a_folder_with_a_damaged_lmdb_is_refused(new_folder: New) -> None:
    with pytest.raises(CorruptFileError, match="not a complete LMDB file"):
        open_images(new_folder({"data.mdb": b"x" * 9000}), resolution=R)


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_an_incomplete_zip_file_is_refused(nvidia_files: Files, new_zip: New, share: float) -> None:
    path = new_zip(nvidia_files(20))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CorruptFileError, match="not a complete zip file"):
        open_images(path, resolution=R)


def test_damage_anywhere_in_a_zip_file_is_harmless_or_raises_our_errors(nvidia_files: Files, new_zip: New) -> None:
    path = new_zip(nvidia_files(3, [0, 1, 2]))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = content.copy()
        damaged[rng.integers(0, len(damaged), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(damaged.tobytes())
        try:
            found = open_images(path, resolution=R)
        except (InputError, UsageError):
            continue
        assert all_of(found).dtype == np.uint8


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_a_zip_file_with_paths_outside_itself_is_refused(
    image_file: ImageFile, new_zip: New, pictures: Pictures, name: str
) -> None:
    with pytest.raises(CorruptFileError, match=r"evil\.png"):
        open_images(new_zip({name: image_file(pictures(1)[0])}), resolution=R)


def test_names_in_dataset_json_open_no_files(nvidia_files: Files, new_folder: New) -> None:
    path = new_folder(nvidia_files(2))
    (path / "dataset.json").write_text(json.dumps({"labels": [["../../etc/passwd", 1]]}))
    with pytest.raises(CorruptFileError, match="no label for 2 of 2 images"):
        open_images(path, resolution=R)


def test_a_zip_bomb_needs_no_memory(new_zip: New, tmp_path: Path) -> None:
    """150 MB of zeros in 150 kB, in two files: one states its size, the other states 5000 bytes."""
    honest = new_zip({"bomb.png": bytes(150_000_000)}, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(honest.read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + place
        content[at : at + 4] = (5000).to_bytes(4, "little")
    (tmp_path / "lying.zip").write_bytes(content)
    code = (
        "import resource, sys\n"
        "from dcp_deploy.datasets.images import open_images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        open_images(path, resolution=8)\n"
        "    except Exception as error:\n        print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    arguments = [sys.executable, "-c", code, str(honest), str(tmp_path / "lying.zip")]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    *errors, grown = ended.stdout.split()
    assert errors == ["CorruptFileError", "CorruptFileError"]
    assert int(grown) < 50_000  # kB


def test_an_encrypted_zip_file_is_refused_with_the_reason(nvidia_files: Files, new_zip: New) -> None:
    path = new_zip(nvidia_files(1))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag for a password
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="password"):
        open_images(path, resolution=R)


# ---- bad images ----


def test_a_bad_image_is_named_counted_and_replaced_by_the_next(
    nvidia_files: Files, new_zip: New, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    files = nvidia_files(200, [index % 2 for index in range(200)])
    files["00000/img00000005.png"] = b""
    files["00000/img00000199.png"] = files["00000/img00000199.png"][:100]
    found = open_images(new_zip(files), resolution=R)
    assert found.facts()["skipped"] == 2
    assert found.facts()["skipped_first"][0] == "'00000/img00000005.png' (is empty)"
    assert "skipped '00000/img00000005.png' (is empty)" in caplog.text
    images, labels = zip(*found.samples([4, 5, 6, 199]), strict=True)
    assert np.array_equal(np.stack(images), pictures(200)[[4, 6, 6, 0]])  # the first image follows the last
    assert [int(label.argmax()) for label in labels] == [0, 0, 0, 0]


def test_more_than_one_percent_of_bad_images_is_refused(nvidia_files: Files, new_folder: New) -> None:
    files = nvidia_files(200)
    for index in (3, 50, 150):
        files[f"00000/img{index:08}.png"] = b"<html>"
    with pytest.raises(CorruptFileError, match=r"3 of 200 images.*img00000003\.png' \(is not an image\).*img00000150"):
        open_images(new_folder(files), resolution=R)


def test_bad_images_after_the_first_look_are_found_when_read(
    nvidia_files: Files, new_folder: New, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "FIRST_LOOK", 0)
    files = nvidia_files(300)
    bad = [0, 1, 2, 299]
    for index in bad:
        files[f"00000/img{index:08}.png"] = b""
    found = open_images(new_folder(files), resolution=R)
    assert found.facts()["skipped"] < 4
    assert np.array_equal(found[0], pictures(300)[3])
    with pytest.raises(CorruptFileError, match="4 of 300 images"):
        all_of(found)


def test_a_partial_first_look_refuses_a_set_of_mostly_bad_images(
    nvidia_files: Files, new_folder: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "FIRST_LOOK", 0)
    files = {name: b"" if name.endswith("png") else content for name, content in nvidia_files(100).items()}
    with pytest.raises(CorruptFileError, match="16 of 16 tried images"):
        open_images(new_folder(files), resolution=R)


def test_images_of_another_size_name_the_remedy(nvidia_files: Files, new_folder: New) -> None:
    path = new_folder(nvidia_files(3))
    with pytest.raises(UsageError, match=r"3 of 3 images.*is 8x8 px, not 4x4") as caught:
        open_images(path, resolution=4)
    assert "--resize crop" in caught.value.remedy and "4 px" in caught.value.remedy
    assert open_images(path, resolution=4, resize="crop")[0].shape == (4, 4, 3)
    with pytest.raises(UsageError, match=r"is 8x8 px, smaller than 16") as caught:
        open_images(path, resolution=16, resize="crop")
    assert "--resize" not in caught.value.remedy


def test_an_image_with_too_many_bytes_is_bad(
    nvidia_files: Files, new_folder: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(CorruptFileError, match="bytes, more than 100"):
        open_images(new_folder(nvidia_files(1)), resolution=R)


@pytest.mark.parametrize("kind", ["new_folder", "new_zip"])
def test_labels_with_too_many_bytes_are_refused(
    nvidia_files: Files, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_BYTES", 10)
    with pytest.raises(CorruptFileError, match=r"dataset\.json has 16 bytes"):
        open_images(request.getfixturevalue(kind)(nvidia_files(1)), resolution=R)


def test_a_failing_disk_is_an_error_not_a_bad_image(nvidia_files: Files, new_folder: New) -> None:
    path = new_folder(nvidia_files(200))
    found = open_images(path, resolution=R)
    (path / "00000" / "img00000007.png").unlink()
    with pytest.raises(InputError, match=r"img00000007\.png' of .* cannot be read any more"):
        found.samples([7])
    assert found.facts()["skipped"] == 0
