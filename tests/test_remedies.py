"""Every remedy of a raised error has one form: an imperative sentence, or one that ends in a command to copy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dcp_deploy.errors
from dcp_deploy.errors import DcpDeployError, as_share, choose

ROOT = Path(__file__).parents[1]
ERRORS = {name for name, kind in vars(dcp_deploy.errors).items() if isinstance(kind, type)}
FORM = re.compile(r"[A-Z].*(\. ?\0?|: (dcp-deploy|pip|python3?|tar|docker)\b.*|: ?\0)", re.DOTALL)
VERBS = [
    "Accept", "Add", "Build", "Bundle", "Change", "Check", "Choose", "Compare", "Compute", "Convert", "Copy", "Count",
    "Delete", "Distil", "Do", "Draw", "End", "Export", "Finish", "Free", "Give", "Import", "Install", "Keep",
    "Label", "Leave", "Let", "Load", "Look", "Lower", "Make", "Measure", "Name", "Omit", "Open", "Pack", "Pass",
    "Project", "Put", "Raise", "Read", "Rebuild", "Reinstall", "Remove", "Repair", "Report", "Resize", "Run",
    "Save", "Score", "See", "Send", "Set", "Start", "Unpack", "Unzip", "Update", "Use", "Wait", "Write",
]  # fmt: skip
"""What a remedy may begin with. Another verb is welcome; "It", "The" and "What" are not remedies."""


def text_of(node: ast.expr) -> str | None:
    """Return a literal text, with NUL for each value in it; None for another expression."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return None


def alternatives(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.IfExp):
        yield from alternatives(node.body)
        yield from alternatives(node.orelse)
    else:
        yield node


def remedies(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each remedy in a module: literals, and literals under a name that a remedy is given by."""
    found = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS:
            found += [word.value for word in call.keywords if word.arg == "remedy"] or call.args[1:2]
    names = {node.id for node in found if isinstance(node, ast.Name)} - {"message"}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found += [statement.value] if statement.targets[0].id in names else []
    for node in found:
        for one in alternatives(node):
            text = text_of(one)
            if text and not text.startswith("\0"):
                yield one.lineno, text


def files() -> list[str]:
    folders = ("dcp_deploy", "export", "kernels", "benchmarks")
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_remedies_are_found() -> None:
    assert sum(len(list(remedies(ast.parse((ROOT / name).read_text(encoding="utf-8"))))) for name in files()) > 300


@pytest.mark.parametrize("folder", ["dcp_deploy", "export", "kernels", "benchmarks"])
def test_a_remedy_is_a_sentence_that_begins_with_what_to_do(folder: str) -> None:
    wrong = [
        f"{name}:{line}: {text}"
        for name in files()
        if name.startswith(f"{folder}/")
        for line, text in remedies(ast.parse((ROOT / name).read_text(encoding="utf-8")))
        if not FORM.fullmatch(text) or text.split()[0].rstrip(",:") not in VERBS
    ]
    assert not wrong, "write a sentence with a capital and a full stop; a command to copy comes last:\n" + "\n".join(
        wrong
    )


def test_a_wrong_choice_gets_the_closest_one() -> None:
    assert (
        choose("divresity", ["gradient", "diversity"]) == "Did you mean diversity? Choose one of: gradient, diversity."
    )
    assert choose("zzz", ["a", "b"]) == "Choose one of: a, b."


@pytest.mark.parametrize(("given", "percent", "share"), [(70.0, "70", "0.7"), (9, "9", "0.09"), (1.5, "70", "0.7")])
def test_a_percentage_gets_its_share(given: float, percent: str, share: str) -> None:
    assert as_share(given) == f"It is a share: for {percent} % write {share}."


def test_usual_remedies_have_the_form_too() -> None:
    kinds = [kind for kind in vars(dcp_deploy.errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, DcpDeployError) and kind.usual_remedy:
            assert FORM.fullmatch(kind.usual_remedy)
