"""What a verb says of a mistake in its flags, of an unusual plan, and when it is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dcp_deploy.cli.next_steps import next_command

from .conftest import Command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "--score", "divresity"), "--score divresity is not a choice. Did you mean diversity?"),
        (("score", "{t}", "--method", "divresity", "-o", "x.safetensors"), "Did you mean diversity?"),
        (("prune", "{t}", "--score", "random", "--refine", "recontruct", "-o", "x.safetensors"), "mean reconstruct?"),
        (("convert", "{t}", "--to", "nvdia", "-o", "x.pt"), "Did you mean nvidia?"),
        (("export", "{t}", "--precision", "fp61", "-o", "x.onnx"), "Did you mean fp16?"),
        (("verify", "{t}", "{t}", "--backend-a", "fusd"), "Did you mean fused?"),
        (("schema", "inspct"), "Did you mean inspect?"),
        (("build", "--ratio", "70"), "It is a share: for 70 % write 0.7"),
        (("build", "--target-macs", "9"), "It is a share: for 9 % write 0.09"),
        (("prune", "{t}", "--score", "random", "--ratio", "70", "-o", "x.safetensors"), "for 70 % write 0.7"),
        (("eval", "{t}", "--samples", "10"), "10 samples are too few to meet each mode of the demo's images"),
        (("eval", "{t}", "--samples", "20000"), "more than the 10,000 images of the demo"),
        (("verify", "{t}", "http://127.0.0.1:9"), "a server is compared with the bundle that it serves"),
        (("verify", "{t}", "http://127.0.0.1:9"), "Pack the run first: dcp-deploy bundle RUN --out FOLDER"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_the_remedy_names_what_was_meant(dcp: Command, models: Path, words: tuple[str, ...], said: str) -> None:
    ended = dcp(*(word.format(t=models / "t.safetensors") for word in words))
    assert ended.code == 2 and said in ended.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("export", "{t}", "-o", "x.txt"), "x.onnx"),
        (("engine", "t.onnx", "-o", "x.onnx"), "x.engine"),
        (("score", "{t}", "-o", "x.st"), "x.safetensors"),
        (("prune", "{t}", "--score", "random", "-o", "x"), "x.safetensors"),
        (("distill", "{t}", "--teacher", "{t}", "-o", "x.pt"), "x.safetensors"),
        (("directions", "{t}", "-o", "x.npy"), "x.safetensors"),
        (("verify", "{t}", "{t}", "-o", "x.html"), "x.json"),
        (("verify", "{t}", "{t}", "--worst", "x.jpg"), "x.png"),
        (("bench", "{t}", "-o", "x.csv"), "x.json"),
        (("bench", "{t}", "--markdown", "x.txt"), "x.md"),
        (("bench", "{t}", "--plot", "x.pdf"), ".png, .svg"),
        (("bench", "compare", "a.json", "b.json", "-o", "x.txt"), "x.json"),
        (("eval", "{t}", "-o", "x.txt"), "x.json"),
        (("sample", "{t}", "-o", "x.tiff"), ".png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_every_verb_refuses_a_file_name_of_another_kind(
    dcp: Command, models: Path, words: tuple[str, ...], named: str
) -> None:
    ended = dcp(*(word.format(t=models / "t.safetensors") for word in words))
    assert ended.code == 2 and named in ended.err
    assert not list(Path().iterdir())


def test_help_and_version_are_found_where_people_look(dcp: Command) -> None:
    assert dcp("-V").out == dcp("--version").out != ""
    assert dcp("help", "prune").out == dcp("prune", "--help").out
    assert dcp("help").out == dcp("--help").out
    assert dcp("help", "biuld").code == 2


def test_verbs_of_two_words_have_a_help_of_their_own(dcp: Command) -> None:
    for words in (("bench", "compare"), ("bundle", "verify")):
        shown = dcp(*words, "--help")
        assert shown.code == 0 and f"dcp-deploy {' '.join(words)}" in shown.out
        assert shown.out == dcp("help", *words).out != dcp(words[0], "--help").out


def test_an_unusual_plan_is_pointed_out(dcp: Command, models: Path) -> None:
    words = ("prune", models / "t.safetensors", "--score", "random", "-o", "x.safetensors")
    assert "align 7 leaves layers whose channels are not multiples of 8" in dcp(*words, "--align", "7").err
    thin = dcp(*words, "--ratio", "0.99", "--align", "1").err
    assert "of the channels are left" not in dcp(*words, "--ratio", "0.5").err
    assert "only 12.5% of the channels" not in thin  # 1 of 8: not below a tenth


def test_what_was_written_and_what_to_run_next(dcp: Command, models: Path) -> None:
    words = ("prune", models / "t.safetensors", "--score", "random", "--ratio", "0.5", "-o", "p.safetensors")
    ended = dcp(*words)
    assert ended.out.splitlines() == ["p.safetensors"]
    last = ended.err.splitlines()[-1]
    assert last.startswith("wrote p.safetensors (") and " s. Next: " in last
    assert f"Next: dcp-deploy distill p.safetensors --teacher {models / 't.safetensors'}" in last
    assert json.loads(dcp(*words, "--json").out)["path"] == "p.safetensors"
    assert "wrote" not in dcp(*words, "--json").err + dcp(*words, "--quiet").err


@pytest.mark.parametrize(
    ("verb", "flags", "path", "following"),
    [
        ("build", {}, "build/demo", "bundle build/demo --out demo-bundle"),
        ("convert", {"to": "native"}, "t.safetensors", "score t.safetensors --out scores.safetensors"),
        ("convert", {"to": "nvidia"}, "t.pt", ""),
        ("score", {"teacher": Path("a b.pkl")}, "s.safetensors",
         "prune 'a b.pkl' --scores s.safetensors --out pruned.safetensors"),
        ("score", {"teacher": Path("t.pkl"), "network": "G"}, "s.safetensors",
         "prune t.pkl --scores s.safetensors --out pruned.safetensors --network G"),
        ("score", {"teacher": Path("t.pkl"), "shard": "0/4"}, "s.safetensors", ""),
        ("distill", {}, "s.safetensors", "export s.safetensors --out s.onnx"),
        ("export", {"model": Path("s.safetensors")}, "s.onnx", "verify s.safetensors s.onnx"),
        ("bundle", {}, "b.tar.zst", "bundle verify b.tar.zst"),
        ("sample", {}, "a.png", ""),
    ],
)  # fmt: skip
def test_the_next_command(verb: str, flags: dict[str, Any], path: str, following: str) -> None:
    assert next_command(verb, flags, Path(path)) == (f"dcp-deploy {following}" if following else "")
