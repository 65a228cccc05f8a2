"""Where results go: for every verb that writes a file, before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Command

FILES = {
    "convert": (["convert", "IN", "-o", "OUT"], ".safetensors"),
    "score": (["score", "IN", "-o", "OUT"], ".safetensors"),
    "prune": (["prune", "IN", "--score", "random", "-o", "OUT"], ".safetensors"),
    "distill": (["distill", "IN", "--teacher", "IN", "-o", "OUT"], ".safetensors"),
    "export": (["export", "IN", "-o", "OUT"], ".onnx"),
    "engine": (["engine", "IN", "-o", "OUT"], ".engine"),
    "verify": (["verify", "IN", "IN", "-o", "OUT"], ".json"),
    "verify --worst": (["verify", "IN", "IN", "--worst", "OUT"], ".png"),
    "bench": (["bench", "IN", "-o", "OUT"], ".json"),
    "bench --markdown": (["bench", "IN", "--markdown", "OUT"], ".md"),
    "bench --plot": (["bench", "IN", "--plot", "OUT"], ".png"),
    "bench compare": (["bench", "compare", "IN", "IN", "-o", "OUT"], ".json"),
    "compare": (["compare", "IN", "IN", "-o", "OUT"], ".json"),
    "compare --html": (["compare", "IN", "IN", "--html", "OUT"], ".html"),
    "eval": (["eval", "IN", "-o", "OUT"], ".json"),
    "sample": (["sample", "IN", "-o", "OUT"], ".png"),
    "directions": (["directions", "IN", "-o", "OUT"], ".safetensors"),
}
FOLDERS = {
    "build": ["build", "--teacher", "IN", "-o", "OUT"],
    "sweep": ["sweep", "--teacher", "IN", "-o", "OUT"],
    "bundle": ["bundle", "IN", "-o", "OUT"],
    "project": ["project", "IN", "--model", "IN", "-o", "OUT"],
    "sample --each": ["sample", "IN", "--each", "-o", "OUT"],
}
PIPED = (
    "export", "verify", "verify --worst", "bench", "bench --markdown", "bench --plot", "bench compare", "compare",
    "compare --html", "eval",
)  # fmt: skip


def words(template: list[str], source: Path, out: object) -> list[str]:
    return [{"IN": str(source), "OUT": str(out)}.get(word, word) for word in template]


def device(path: Path) -> None:
    path.symlink_to("/dev/full")


@pytest.mark.parametrize("verb", [*FILES, *FOLDERS])
@pytest.mark.parametrize(("make", "named"), [(device, "a device"), (os.mkfifo, "a pipe")])
def test_no_verb_writes_onto_a_device_or_a_pipe(
    dcp: Command, tmp_path: Path, verb: str, make: Callable[[Path], None], named: str
) -> None:
    template, ending = FILES[verb] if verb in FILES else (FOLDERS[verb], "")
    source, out = tmp_path / "in.st", tmp_path / f"out{ending}"
    source.write_text("input")
    make(out)
    ended = dcp(*words(template, source, out))
    assert ended.code == 2 and named in ended.err and str(out) in ended.err
    assert not out.is_file()


@pytest.mark.parametrize("verb", FILES)
@pytest.mark.parametrize("how", ["same", "hard link", "symbolic link"])
def test_no_verb_writes_onto_its_input(dcp: Command, tmp_path: Path, verb: str, how: str) -> None:
    template, ending = FILES[verb]
    source, out = tmp_path / f"in{ending}", tmp_path / f"out{ending}"
    source.write_text("input")
    if how == "same":
        out = source
    elif how == "hard link":
        out.hardlink_to(source)
    else:
        out.symlink_to(source)
    ended = dcp(*words(template, source, out))
    assert ended.code == 2 and "reads" in ended.err
    assert source.read_text() == "input" and out.samefile(source)


@pytest.mark.parametrize("verb", [verb for verb in (*FILES, *FOLDERS) if verb not in (*PIPED, "sample")])
def test_a_verb_that_cannot_write_to_standard_output_says_so(dcp: Command, tmp_path: Path, verb: str) -> None:
    template, _ = FILES.get(verb, (FOLDERS.get(verb, []), ""))
    (tmp_path / "in.st").write_text("input")
    ended = dcp(*words(template, tmp_path / "in.st", "-"))
    assert ended.code == 2 and "not to standard output" in ended.err
    assert not (tmp_path / "-").exists()


def test_two_results_need_two_names(dcp: Command, models: Path) -> None:
    ended = dcp("verify", models / "t.onnx", models / "t.onnx", "--out", "a.png", "--worst", "a.png")
    assert ended.code == 2


def test_the_file_of_config_is_not_overwritten_by_settings(dcp: Command, models: Path, tmp_path: Path) -> None:
    settings = tmp_path / "a.png.toml"
    settings.write_text('# mine\nseeds = "0"\n')
    ended = dcp("sample", models / "t.onnx", "--config", settings, "-o", "a.png")
    assert ended.code == 0 and settings.read_text().startswith("# mine")


def test_a_bundle_does_not_replace_files_of_the_users(dcp: Command, models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    ended = dcp("bundle", models / "t.onnx", "-o", "out")
    assert ended.code == 2 and "--force" in ended.err
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"
    (tmp_path / "out" / "t.onnx").write_bytes((models / "t.onnx").read_bytes())
    ended = dcp("bundle", tmp_path / "out" / "t.onnx", "-o", "out", "--force")
    assert ended.code == 2 and "would be lost" in ended.err


def run(folder: Path, script: str) -> subprocess.CompletedProcess[bytes]:
    command = script.replace("dcp-deploy", f"{sys.executable} -m dcp_deploy")
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("dcp-deploy schema inspect >&-", 4),
        ("dcp-deploy schema inspect >/dev/full", 4),
        ("dcp-deploy schema inspect --json >/dev/full", 4),
        ("dcp-deploy --version >/dev/full", 4),
        ("dcp-deploy --help >/dev/full", 4),
        ("dcp-deploy schema inspect 2>/dev/full", 0),
        ("dcp-deploy schema nope 2>/dev/full", 2),
    ],
)
def test_standard_output_that_takes_nothing_ends_without_a_traceback(tmp_path: Path, script: str, code: int) -> None:
    done = run(tmp_path, script)
    assert done.returncode == code and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    ["export t.safetensors -o new.onnx", "prune t.safetensors --score random -o new.safetensors",
     "convert t.safetensors -o new.pt --to rosinality", "sample t.onnx --seeds 0-99 -o new.png"],
)  # fmt: skip
def test_a_limit_on_file_size_is_exit_4_and_keeps_the_old_file(models: Path, tmp_path: Path, words: str) -> None:
    for name in ("t.safetensors", "t.onnx"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    new = tmp_path / words.split(" -o ")[1].split()[0]
    new.write_text("old")
    before = set(tmp_path.iterdir())
    done = run(tmp_path, f"ulimit -f 4; dcp-deploy {words}")
    assert done.returncode == 4, done.stderr
    assert b"Traceback" not in done.stderr and b"bug" not in done.stderr
    assert new.read_text() == "old" and set(tmp_path.iterdir()) == before


def test_a_picture_and_a_model_go_to_standard_output(models: Path, tmp_path: Path) -> None:
    assert run(tmp_path, f"dcp-deploy sample {models / 't.onnx'} --seeds 0 -o -").stdout.startswith(b"\x89PNG")
    assert (
        run(tmp_path, f"dcp-deploy export {models / 't.safetensors'} -o -").stdout == (models / "t.onnx").read_bytes()
    )
    assert not list(tmp_path.iterdir())


def test_control_characters_in_a_name_are_escaped(dcp: Command) -> None:
    for words in (["inspect", "a\x1b[31m\nerror: b"], ["inspect", "a\x9b", "--json"], ["a\x1b[31m"]):
        ended = dcp(*words)
        assert not {"\x1b", "\x9b"} & {*ended.out, *ended.err} and "\nerror: b" not in ended.err
