from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.errors import CorruptFileError, InputError, UnsafeFileError
from dcp_deploy.export import load_runner
from dcp_deploy.export.integrity import MANIFEST, SEAL, check_bundle, pack, parse_manifest, safe_name, seal

from ..bundle_facts import FACTS, served
from .forged_archives import ended, entry


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the manifest and its seal too, as an attacker would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest["files"])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    (folder / SEAL).write_text(f"{digest}  {MANIFEST}\n")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sealed folder of two files."""
    folder = tmp_path / "small"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a" * 1000)
    (folder / "sub" / "b.txt").write_text("b")
    seal(folder, FACTS)
    return folder


def test_an_unchanged_bundle_passes_and_has_an_identity(bundle: Path) -> None:
    manifest = check_bundle(bundle)
    assert manifest["name"] == "tiny"
    assert manifest["sha256"] == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    assert {*manifest["files"], MANIFEST, SEAL} == set(files_of(bundle))


def test_one_flipped_byte_of_any_file_is_refused_by_name(own_bundle: Path) -> None:
    names = files_of(own_bundle)
    assert len(names) > 15
    for index, name in enumerate(names):
        path = own_bundle / name
        before = path.read_bytes()
        flip(path, 7919 * index + len(before) // 2)
        for reader in (check_bundle, load_runner):
            with pytest.raises(CorruptFileError, match=name.replace(".", r"\.")):
                reader(own_bundle)
        path.write_bytes(before)
    check_bundle(own_bundle)


def test_a_change_of_any_byte_of_the_manifest_or_its_seal_is_detected(small: Path) -> None:
    for name in (MANIFEST, SEAL):
        content = (small / name).read_bytes()
        for place in range(len(content)):
            flip(small / name, place)
            with pytest.raises(CorruptFileError, match="manifest"):
                check_bundle(small)
            (small / name).write_bytes(content)


@pytest.mark.parametrize("name", ["a.txt", "sub/b.txt", MANIFEST, SEAL])
def test_a_missing_file_is_named(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        check_bundle(small)


def test_an_extra_file_is_named(small: Path) -> None:
    (small / "sub" / ".hidden").write_text("x")
    with pytest.raises(CorruptFileError, match=r"sub/\.hidden"):
        check_bundle(small)


@pytest.mark.parametrize("name", ["a.txt", "extra", "sub"])
def test_a_link_is_refused_even_to_the_right_content(small: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if (small / name).exists():
        shutil.move(small / name, outside)
    else:
        outside.write_text("x")
    (small / name).symlink_to(outside)
    with pytest.raises(UnsafeFileError, match=f"{name} in the bundle is a link"):
        check_bundle(small)


def test_a_special_file_is_refused_and_not_opened(small: Path) -> None:
    os.mkfifo(small / "pipe")  # opening it would block forever
    with pytest.raises(UnsafeFileError, match="pipe in the bundle is a special file"):
        check_bundle(small)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.txt", "sub/../../a.txt", "sub//b.txt", "./a.txt", "a\\b", "", ".", "a\nb", "sub/"]
)
def test_a_path_out_of_the_bundle_is_refused(small: Path, name: str) -> None:
    with pytest.raises(UnsafeFileError):
        safe_name(name)
    rewrite_manifest(small, lambda files: files.update({name: files["a.txt"]}))
    with pytest.raises(UnsafeFileError, match="may lead out"):
        check_bundle(small)


@pytest.mark.parametrize(
    "entry", [None, {}, {"bytes": 1000}, {"bytes": 1000, "sha256": 5}, {"bytes": 1, "sha256": "0" * 64}]
)
def test_a_manifest_with_a_wrong_entry_is_refused(small: Path, entry: object) -> None:
    rewrite_manifest(small, lambda files: files.update({"a.txt": entry}))
    with pytest.raises(CorruptFileError):
        check_bundle(small)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "null", "[" * 100_000, '{"schema": 2, "kind": "dcp-deploy bundle", "files": {}}'],
    ids=["list", "empty", "null", "deep", "version"],
)
def test_other_documents_are_not_manifests(small: Path, content: str) -> None:
    (small / MANIFEST).write_text(content)
    (small / SEAL).write_text(f"{hashlib.sha256(content.encode()).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(CorruptFileError, match="not the manifest of a bundle"):
        check_bundle(small)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    reseal(folder, json.dumps(manifest))


def reseal(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    (folder / SEAL).write_text(f"{hashlib.sha256(content.encode()).hexdigest()}  {MANIFEST}\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("models", None),
        ("models", []),
        ("models.generator.max_batch", "8"),
        ("models.generator.max_batch", True),
        ("models.generator.max_batch", 0),
        ("models.generator.max_batch", 10**40),
        ("models.generator.inputs", {"z": "512"}),
        ("directions.age.layers", [1]),
        ("directions.age.sigma", "much"),
        ("engines", {}),
        ("sizing.best.threads", None),
        ("provenance", "here"),
        ("name", 5),
        ("kind", "a bundle"),
    ],
)
def test_a_wrong_value_of_a_manifest_is_named(small: Path, field: str, value: object) -> None:
    *path, last = field.split(".")

    def change(manifest: dict[str, Any]) -> None:
        manifest["models"], manifest["directions"] = (
            {"generator": served("a.txt", 8)},
            {"age": {"layers": [0, 1], "sigma": 1.0}},
        )
        for part in path:
            manifest = manifest[part]
        manifest[last] = value

    change_manifest(small, change)
    with pytest.raises(CorruptFileError, match=re.escape(f"a bundle: {field}")):
        check_bundle(small)


def test_a_field_that_is_there_twice_is_named(small: Path) -> None:
    text = (small / MANIFEST).read_text()
    reseal(small, text.replace('"a.txt"', '"sub/b.txt"'))
    with pytest.raises(CorruptFileError, match=r"sub/b\.txt: it is there twice"):
        check_bundle(small)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "[[NaN]]"])
def test_a_number_that_is_not_finite_is_named(small: Path, number: str) -> None:
    reseal(small, (small / MANIFEST).read_text().replace('"provenance": {}', f'"provenance": {{"loss": {number}}}'))
    with pytest.raises(CorruptFileError, match="loss: it is not a finite number"):
        check_bundle(small)


@given(
    where=st.sampled_from(["schema", "name", "models", "sizing", "files", "provenance", "new"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
)
def test_a_manifest_in_any_form_is_read_or_refused(where: str, value: object) -> None:
    manifest = {"schema": 1, "kind": "dcp-deploy bundle", **FACTS, "files": {}, where: value}
    try:
        parse_manifest(json.dumps(manifest).encode())
    except ValueError as error:
        assert str(error)


@given(content=st.binary(max_size=60))
def test_bytes_that_are_not_a_manifest_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_manifest(content)


def test_folders_deeper_than_any_bundle_are_refused(small: Path) -> None:
    (small / "/".join("d" * 100)).mkdir(parents=True)
    with pytest.raises(UnsafeFileError, match="deeper than any folder of a bundle"):
        check_bundle(small)


def test_a_missing_path_and_an_empty_folder_are_not_bundles(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.tar.zst"):
        with pytest.raises(InputError):
            check_bundle(path)


# ---- archives ----


def write_archive(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.write_bytes(zstandard.compress(ended(entry(f"small/{name}", content) for name, content in files)))
    return path


def contents_of(folder: Path) -> list[tuple[str, bytes]]:
    names = [MANIFEST, SEAL, *(name for name in files_of(folder) if name not in (MANIFEST, SEAL))]
    return [(name, (folder / name).read_bytes()) for name in names]


def test_an_archive_passes_and_the_same_folder_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar.zst", tmp_path / "2.tar.zst"
    pack(small, first)
    os.utime(small / "a.txt", (0, 0))
    pack(small, second)
    assert first.read_bytes() == second.read_bytes()
    assert check_bundle(first) == check_bundle(small)


def test_a_flipped_byte_of_an_archive_is_refused_unless_every_file_is_unchanged(small: Path, tmp_path: Path) -> None:
    archive = tmp_path / "small.tar.zst"
    pack(small, archive)
    content, manifest, refused = archive.read_bytes(), check_bundle(small), 0
    for place in range(len(content)):
        flip(archive, place)
        try:
            assert check_bundle(archive) == manifest  # the byte was padding, or the window size in the header
        except InputError:
            refused += 1
        archive.write_bytes(content)
    assert refused > 0.95 * len(content)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_archive_is_refused(small: Path, tmp_path: Path, share: float) -> None:
    archive = tmp_path / "small.tar.zst"
    pack(small, archive)
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(InputError):
        check_bundle(archive)


def test_an_archive_with_an_altered_missing_extra_or_repeated_file_is_refused(small: Path, tmp_path: Path) -> None:
    good, path = contents_of(small), tmp_path / "x.tar.zst"
    check_bundle(write_archive(path, good))
    altered = [(name, b"A" * 1000 if name == "a.txt" else content) for name, content in good]
    for files, named in ((altered, "a.txt was altered"), (good[:-1], "missing"), ([*good, ("z", b"")], "manifest.*: z"),
                         ([*good, good[-1]], "twice"), (good[2:], "before its other files")):  # fmt: skip
        with pytest.raises(InputError, match=named):
            check_bundle(write_archive(path, files))
