"""ONNX Runtime Web comes from npm once, and nothing but the pinned package is accepted."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from dcp_deploy.errors import CorruptFileError, MissingCapabilityError
from dcp_deploy.export.bundle.web import runtime


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DCP_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "web" / runtime.ARCHIVE


def npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in place of npm; $4 is the folder that it shall write to."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_npm_the_remedy_names_both_ways(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingCapabilityError, match="npm is not installed") as caught:
        runtime.fetched_package()
    assert "apt-get install npm" in caught.value.remedy and str(cache) in caught.value.remedy
    assert caught.value.exit_code == 4


def test_what_npm_complains_about_is_passed_on(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network no such host' >&2; exit 1"
    npm(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(MissingCapabilityError, match="code ENOTFOUND; network no such host"):
        runtime.fetched_package()


def test_another_package_is_refused_and_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(tmp_path / "bin", f'echo other > "$4/{runtime.ARCHIVE}"', monkeypatch)
    with pytest.raises(CorruptFileError, match="another onnxruntime-web"):
        runtime.fetched_package()
    assert not cache.exists()


def test_a_damaged_package_in_the_cache_is_fetched_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"damaged")
    npm(tmp_path / "bin", f'printf whole > "$4/{runtime.ARCHIVE}"', monkeypatch)
    monkeypatch.setattr(runtime, "INTEGRITY", runtime._integrity(_written(tmp_path / "same", b"whole")))
    assert runtime.fetched_package().read_bytes() == b"whole"
    monkeypatch.setenv("PATH", "")  # from now on no npm is needed
    assert runtime.fetched_package() == cache


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_pinned_package_holds_every_file(runtime_cache: Path, tmp_path: Path) -> None:
    runtime.write_runtime(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*runtime.FILES, *runtime.NOTICES.values()}
    assert (tmp_path / "ort-wasm-simd-threaded.wasm").read_bytes()[:4] == b"\0asm"
    head = (tmp_path / "ort.wasm.min.mjs").read_text("utf-8")[:200]
    assert runtime.VERSION in head
    package = Path(onnxruntime.__file__).parent
    for source, name in runtime.NOTICES.items():
        assert (tmp_path / name).read_bytes() == (package / source).read_bytes()
    assert (tmp_path / "LICENSE.txt").read_text("utf-8").startswith("MIT License")
