"""What the documents tell a reader to type exists, and what they link to is there."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer

import dcp_deploy
from dcp_deploy import errors
from dcp_deploy.cli.app import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines() -> list[tuple[str, str]]:
    """(document, command) for each line of the documents' shell blocks, without its comment."""
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.M | re.S):
            lines += [(document.name, re.sub(r"\s+#.*", "", line)) for line in block.splitlines() if line.strip()]
    return lines


def commands(program: str) -> list[list[str]]:
    """The arguments of each call of a program in the documents."""
    return [line.split()[1:] for _, line in shell_lines() if line.split()[0] == program]


@cache
def verbs() -> dict[str, set[str]]:
    """{verb: its flags} of the command line, whose own flags are those of the verb ""."""
    program = typer.main.get_command(app)
    commands = {"": program, **program.commands}  # type: ignore[attr-defined]
    return {
        name: {"--help", *(flag for parameter in command.params for flag in parameter.opts)}
        for name, command in commands.items()
    }


def test_every_proof_that_the_documents_name_is_a_test() -> None:
    named = {name for path in DOCUMENTS for name in re.findall(r"`(tests/[\w/]+\.py::\w+)`", path.read_text("utf-8"))}
    assert len(named) >= 15
    for name in named:
        file, _, function = name.partition("::")
        assert f"\ndef {function}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {arguments[0] for arguments in commands("make")} == {"demo", "test", "check", "docs", "format"}
    assert {arguments[0] for arguments in commands("make")} <= targets


def test_ci_runs_the_commands_that_a_contributor_is_told_to_run() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in script if line.startswith("make ")] == ["make test", "make check"]


@pytest.mark.parametrize("arguments", commands("dcp-deploy"), ids=" ".join)
def test_the_commands_exist_with_their_flags(arguments: list[str]) -> None:
    verb, *rest = ["", *arguments] if arguments[0].startswith("-") else arguments
    assert verb in verbs()
    assert {word for word in rest if word.startswith("-")} <= verbs()[verb]


def test_the_readme_names_every_verb() -> None:
    named = set(re.findall(r"`(\w+(?: \w+)?)`", README)) | {arguments[0] for arguments in commands("dcp-deploy")}
    assert set(verbs()) - {""} <= named


def test_the_exit_codes_in_the_readme_are_those_of_the_errors() -> None:
    paragraph = README.split("Exit codes:")[1].split("\n\n")[0]
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert {int(code) for code in re.findall(r"\b(\d+) ", paragraph)} == {0, 130} | {cls.exit_code for cls in classes}


def test_the_library_calls_in_the_readme_exist() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    called = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dcp"
    }
    assert called and called <= set(dcp_deploy.__all__)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert link.startswith("https://") or (document.parent / link).exists(), link


def test_every_extra_in_the_documents_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    groups = [group for _, line in shell_lines() for group in re.findall(r"\.\[([\w,]+)\]", line)]
    assert {"cpu,rtx", "gpu"} <= set(groups)
    assert {extra for group in groups for extra in group.split(",")} <= set(extras)
