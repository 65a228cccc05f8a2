"""Sets of images in every kind of container, their labels, and what identifies them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from dcp_deploy.datasets.images import identify_images, open_images
from dcp_deploy.errors import CorruptFileError, InputError, UsageError

from .conftest import RESOLUTION as R
from .conftest import Files, ImageFile, New, Pictures, all_of

# ---- containers ----


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_of_nvidias_tool_is_read(
    nvidia_files: Files, new_zip: New, pictures: Pictures, compression: int
) -> None:
    labels = [index % 3 for index in range(12)]
    path = new_zip(nvidia_files(12, labels), compression=compression)
    found = open_images(path, resolution=R)
    assert np.array_equal(all_of(found), pictures(12))
    assert found.c_dim == 3
    assert [int(found.sample(index).label.argmax()) for index in range(12)] == labels
    assert found.facts()["kind"] == "zip" and found.facts()["skipped"] == found.facts()["ignored_files"] == 0


def test_the_files_of_a_set_are_described(image_file: ImageFile, new_folder: New, pictures: Pictures) -> None:
    small, (large,) = pictures(2), pictures(1, 2 * R)
    path = new_folder(
        {"a.png": image_file(small[0]), "b.jpg": image_file(small[1], ".jpg"), "c.jpg": image_file(large)}
    )
    facts = open_images(path, resolution=R, resize="crop").facts()
    assert facts["formats"] == {"PNG": 2, "JPEG": 1}  # by content, not by name
    assert (facts["source_size"], facts["resize_filter"]) == (f"{R}x{R} to {2 * R}x{2 * R}", "lanczos")
    (path / "c.jpg").unlink()
    facts = open_images(path, resolution=R, resize="crop").facts()
    assert (facts["source_size"], facts["resize_filter"]) == (f"{R}x{R}", "none")


def test_a_folder_of_nvidias_tool_is_read(nvidia_files: Files, new_folder: New, pictures: Pictures) -> None:
    path = new_folder(nvidia_files(3, [[0.5, -1.0], [0.0, 2.0], [1.0, 1.0]]))
    found = open_images(path, resolution=R)
    assert np.array_equal(all_of(found), pictures(3))
    assert found.sample(1).label.tolist() == [0.0, 2.0]


def test_a_plain_folder_is_sorted_by_path_and_ignores_other_files(
    image_file: ImageFile, new_folder: New, pictures: Pictures
) -> None:
    a, b, c, d = pictures(4)
    path = new_folder({
        "b/2.PNG": image_file(c), "b/10.bmp": image_file(b), "a.png": image_file(a), "z/deep/er.tiff": image_file(d),
        "readme.txt": b"", "b/.hidden.png": b"", "__MACOSX/b/2.png": b"", "b/dataset.json": b"{}",
    })  # fmt: skip
    found = open_images(path, resolution=R)
    assert np.array_equal(all_of(found), np.stack([a, b, c, d]))
    assert found.c_dim == 0 and found.sample(0).label is None
    assert found.facts()["ignored_files"] == 4


def test_links_are_followed_and_cycles_end(image_file: ImageFile, new_folder: New, pictures: Pictures) -> None:
    a, b = pictures(2)
    elsewhere = new_folder({"b.png": image_file(b)}, "elsewhere")
    path = new_folder({"a.png": image_file(a), "inner/readme": b""})
    (path / "inner" / "back").symlink_to(path)
    (path / "other").symlink_to(elsewhere)
    (path / "self.png").symlink_to("self.png")
    (path / "gone.png").symlink_to("nowhere")
    os.mkfifo(path / "pipe.png")  # reading it would block for ever
    found = open_images(path, resolution=R)
    assert np.array_equal(all_of(found), np.stack([a, b]))
    assert found.facts()["ignored_files"] == 4


def test_a_plain_zip_file_is_read(image_file: ImageFile, new_zip: New, pictures: Pictures) -> None:
    a, b = pictures(2)
    found = open_images(new_zip({"x/b.bmp": image_file(b), "x/a.png": image_file(a), "notes.txt": b""}), resolution=R)
    assert np.array_equal(all_of(found), np.stack([a, b]))
    assert found.facts()["ignored_files"] == 1


def sized(pictures: Mapping[int, NDArray[np.uint8]], image_file: ImageFile) -> dict[bytes, bytes]:
    """Return keys and values as rosinality's tool writes them."""
    values = {
        f"{size}-{index:05}".encode(): image_file(image)
        for size, images in pictures.items()
        for index, image in enumerate(images)
    }
    return {**values, b"length": str(len(next(iter(pictures.values())))).encode()}


def test_an_lmdb_of_several_sizes_gives_the_size_of_the_generator(
    image_file: ImageFile, new_lmdb: New, pictures: Pictures
) -> None:
    path = new_lmdb(sized({size: pictures(12, size) for size in (8, 16)}, image_file))
    for size in (8, 16):
        found = open_images(path, resolution=size)
        assert np.array_equal(all_of(found), pictures(12, size))
        assert found.facts()["kind"] == f"lmdb, {size} px"
    with pytest.raises(UsageError, match="holds images of 8, 16 px, and the generator makes 4 px") as caught:
        open_images(path, resolution=4)
    assert "--resize crop" in caught.value.remedy
    assert open_images(path, resolution=4, resize="crop").facts()["kind"] == "lmdb, 8 px"
    with pytest.raises(UsageError, match="makes 32 px") as caught:
        open_images(path, resolution=32, resize="crop")
    assert "--resize" not in caught.value.remedy


def test_rectangles_are_cut_from_the_squares_of_an_lmdb(
    image_file: ImageFile, new_lmdb: New, pictures: Pictures
) -> None:
    path = new_lmdb(sized({size: pictures(3, size) for size in (8, 16)}, image_file))
    with pytest.raises(UsageError, match="holds images of 8, 16 px, and the generator makes 4x8 px") as caught:
        open_images(path, resolution=(8, 4))
    assert "folder or a zip file of rectangles. --resize crop" in caught.value.remedy
    found = open_images(path, resolution=(8, 4), resize="crop")
    assert found.facts()["kind"] == "lmdb, 8 px" and found.size == (8, 4)
    assert np.array_equal(all_of(found), pictures(3)[:, :, 2:6])


def test_images_of_another_shape_are_refused_with_the_remedy(
    image_file: ImageFile, new_folder: New, pictures: Pictures
) -> None:
    folder = new_folder({"a.png": image_file(pictures(1)[0])})
    with pytest.raises(UsageError, match="is 8x8 px, not 4x8") as caught:
        open_images(folder, resolution=(8, 4))
    assert caught.value.remedy == "Give --resize crop to scale the centred rectangles down to 4x8 px."


def test_an_lmdb_in_a_single_file_is_read(image_file: ImageFile, new_lmdb: New, pictures: Pictures) -> None:
    path = new_lmdb(sized({8: pictures(3)}, image_file), "ffhq.lmdb", subdir=False)
    assert np.array_equal(all_of(open_images(path, resolution=R)), pictures(3))


def test_an_lmdb_of_lsun_may_have_any_keys(image_file: ImageFile, new_lmdb: New, pictures: Pictures) -> None:
    values = {bytes([65 + index]) * 40: image_file(image, ".webp") for index, image in enumerate(pictures(5))}
    found = open_images(new_lmdb(values), resolution=R)
    assert len(found) == 5 and found.facts()["kind"] == "lsun lmdb"
    assert found[0].shape == (R, R, 3)


def test_an_lmdb_with_missing_images_is_refused(image_file: ImageFile, new_lmdb: New, pictures: Pictures) -> None:
    values = sized({8: pictures(50)}, image_file)
    del values[b"8-00007"]
    with pytest.raises(CorruptFileError, match="promises 50 images and holds 49 of 8 px"):
        open_images(new_lmdb(values), resolution=R)


@pytest.mark.parametrize("length", [b"many", b"", b"9" * 30])
def test_an_lmdb_whose_length_is_not_a_number_is_refused(
    image_file: ImageFile, new_lmdb: New, pictures: Pictures, length: bytes
) -> None:
    with pytest.raises(CorruptFileError, match=r"length .* is not a number"):
        open_images(new_lmdb({**sized({8: pictures(2)}, image_file), b"length": length}), resolution=R)


# ---- in another process ----


def test_another_process_opens_the_same_images(
    nvidia_files: Files, new_zip: New, new_folder: New, pictures: Pictures
) -> None:
    files = nvidia_files(12, [index % 3 for index in range(12)])
    for path in (new_zip(files), new_folder(files)):
        found = open_images(path, resolution=R)
        found.samples([3, 4], then=[5])  # with an open file, and decoding in progress
        copy = pickle.loads(pickle.dumps(found))
        assert np.array_equal(all_of(copy), pictures(12))
        assert copy.facts() == found.facts() and np.array_equal(copy.sample(4).label, found.sample(4).label)


def test_images_that_changed_before_unpickling_are_refused(nvidia_files: Files, new_zip: New) -> None:
    path = new_zip(nvidia_files(2))
    sent = pickle.dumps(open_images(path, resolution=R))
    new_zip(nvidia_files(3)).replace(path)
    with pytest.raises(InputError, match="has changed since it was opened"):
        pickle.loads(sent)


# ---- labels and generators ----


def test_labels_must_have_the_length_that_the_generator_needs(nvidia_files: Files, new_zip: New) -> None:
    path = new_zip(nvidia_files(4, [0, 1, 2, 1]))
    assert open_images(path, resolution=R, c_dim=3).c_dim == 3
    assert open_images(path, resolution=R, c_dim=0).sample(0).label is None
    with pytest.raises(UsageError, match="labels of length 3, and the generator is conditional on 10"):
        open_images(path, resolution=R, c_dim=10)


def test_a_conditional_generator_needs_labels(nvidia_files: Files, new_zip: New) -> None:
    with pytest.raises(UsageError, match="no labels, and the generator is conditional on 3") as caught:
        open_images(new_zip(nvidia_files(4)), resolution=R, c_dim=3)
    assert "dataset.json" in caught.value.remedy and "0 to 2" in caught.value.remedy


def test_an_unconditional_generator_does_not_read_damaged_labels(nvidia_files: Files, new_folder: New) -> None:
    path = new_folder({**nvidia_files(2), "dataset.json": b"{"})
    assert len(open_images(path, resolution=R, c_dim=0)) == 2
    with pytest.raises(CorruptFileError, match=r"dataset\.json is not JSON"):
        open_images(path, resolution=R)


# ---- reading ahead, and identity ----


def test_reading_ahead_changes_nothing(nvidia_files: Files, new_zip: New, pictures: Pictures) -> None:
    found = open_images(new_zip(nvidia_files(20)), resolution=R)
    expected = pictures(20)
    batches = [[3, 4, 5], [5, 3, 5], [19, 0, 1], [2, 2, 7]]
    following = [[5, 3, 5], [0, 19, 8], [], [1]]  # right, half right, nothing
    for indices, then in zip(batches, following, strict=True):
        assert np.array_equal(np.stack([s.image for s in found.samples(indices, then=then)]), expected[indices])


def test_indices_outside_the_set_raise_and_end_iteration(nvidia_files: Files, new_zip: New) -> None:
    found = open_images(new_zip(nvidia_files(3)), resolution=R)
    assert len(list(iter(found))) == 3  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        found[-1]


def test_the_identity_follows_the_content(nvidia_files: Files, new_folder: New, new_zip: New, new_lmdb: New) -> None:
    files = nvidia_files(4)
    folder, archive = new_folder(files), new_zip(files)
    database = new_lmdb({b"a": b"1"})
    before = [identify_images(path) for path in (folder, archive, database)]
    assert [identify_images(path) for path in (folder, archive, database)] == before
    assert open_images(folder, resolution=R).identity == before[0]
    assert identify_images(new_zip(files, "copy.zip")) == before[1]  # only the content of a zip file counts
    assert identify_images(archive, resize="crop") != before[1]

    os.utime(folder / "00000" / "img00000001.png", ns=(1, 1))
    new_zip({**files, "dataset.json": b"{}"})
    new_lmdb({b"a": b"2"})
    after = [identify_images(path) for path in (folder, archive, database)]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_labels_are_part_of_the_identity(nvidia_files: Files, new_folder: New) -> None:
    path = new_folder(nvidia_files(4, [0, 1, 0, 1]))
    before = identify_images(path)
    (path / "dataset.json").write_bytes(nvidia_files(4, [1, 0, 1, 0])["dataset.json"])
    assert identify_images(path) != before
