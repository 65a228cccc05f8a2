"""Cached files are listed and cleared, and nothing else in the folder is touched."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from dcp_deploy.doctor.caches import KINDS, clear_caches, list_caches
from dcp_deploy.errors import UsageError
from dcp_deploy.files import cache_folder, kernel_cache

OURS = {
    "teachers": ["teachers/0123456789ab/ffhq.pkl", "teachers/0123456789ab/ffhq.pkl.json"],
    "statistics": [f"features/{'a1' * 16}.safetensors"],
    "web": ["web/onnxruntime-web-1.30.0.tgz"],
    "kernels": [f"kernels/cpu-{'0f' * 16}.so", f"kernels/fir-sm90-{'0f' * 16}.zip"],
}
THEIRS = [
    "notes.txt",
    "kernels/mine.so",
    "features/mine.safetensors",
    "teachers/mine/x.pkl",
    "teachers/x.pkl",
    "web/x.zip",
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(folder))
    for name in (*chain(*OURS.values()), *THEIRS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(10))
    return folder


def left(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


def test_one_variable_moves_all_caches(cache: Path) -> None:
    assert (cache_folder(), kernel_cache()) == (cache, cache / "kernels")


def test_each_kind_is_listed_with_its_files_and_size(cache: Path) -> None:
    assert [(one.name, one.files, one.bytes) for one in list_caches()] == [
        (name, len(files), 10 * len(files)) for name, files in OURS.items()
    ]


def test_an_empty_cache_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(tmp_path / "none"))
    assert [one.files for one in list_caches()] == [0, 0, 0, 0]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_is_cleared(cache: Path, kind: str) -> None:
    (cleared,) = clear_caches([kind])
    assert cleared.files == len(OURS[kind])
    assert left(cache) == {*THEIRS, *(name for other in OURS if other != kind for name in OURS[other])}


def test_clearing_all_leaves_files_of_others_and_no_empty_folders(cache: Path) -> None:
    clear_caches()
    assert left(cache) == set(THEIRS)
    assert not (cache / "teachers" / "0123456789ab").exists()


def test_a_dry_run_removes_nothing(cache: Path) -> None:
    assert clear_caches(dry_run=True) == list_caches()
    assert left(cache) == {*THEIRS, *chain(*OURS.values())}


def test_a_link_is_neither_followed_nor_removed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(bytes(10))
    link = cache / "kernels" / f"cpu-{'11' * 16}.so"
    link.symlink_to(tmp_path / "precious")
    clear_caches(["kernels"])
    assert link.is_symlink() and (tmp_path / "precious").is_file()


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UsageError, match="'kernel' is not a kind") as caught:
        clear_caches(["kernel"])
    assert "Did you mean kernels?" in caught.value.remedy
