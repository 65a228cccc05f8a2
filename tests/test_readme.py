"""Commands, calls, files and links in the documents exist, and README's library example works."""

from __future__ import annotations

import re
import tomllib
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from importlib import util
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
import typer

import dcp_deploy
from dcp_deploy import errors
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.cli.app import app
from dcp_deploy.compression import RECIPES
from dcp_deploy.export.parity import ParityReport
from dcp_deploy.generators import Generator, GeneratorConfig
from tests.extra_sizes import EXTRAS, sizes

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines() -> list[tuple[str, str]]:
    """Return (document, command) for each line of the documents' shell blocks, without comments."""
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.M | re.S):
            lines += [(document.name, re.sub(r"\s+#.*", "", line)) for line in block.splitlines() if line.strip()]
    return lines


def commands(program: str) -> list[list[str]]:
    """Return the arguments of each call of a program in the documents."""
    return [line.split()[1:] for _, line in shell_lines() if line.split()[0] == program]


@cache
def verbs() -> dict[str, set[str]]:
    """Return {verb: its flags}; the flags of ``dcp-deploy`` itself are those of the verb ""."""
    program = typer.main.get_command(app)
    commands = {"": program, **program.commands}  # type: ignore[attr-defined]
    return {
        name: {"--help", *(flag for parameter in command.params for flag in parameter.opts)}
        for name, command in commands.items()
    }


def test_every_test_that_the_documents_name_exists() -> None:
    named = {name for path in DOCUMENTS for name in re.findall(r"`(tests/[\w/]+\.py::\w+)`", path.read_text("utf-8"))}
    assert len(named) >= 15
    for name in named:
        file, _, function = name.partition("::")
        assert f"\ndef {function}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {"demo", "test", "triton", "check", "docs", "dist", "format"}
    assert {arguments[0] for arguments in commands("make")} == named
    assert {arguments[0] for arguments in commands("make")} <= targets


def test_ci_runs_the_tests_and_the_checks() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in script if line.startswith("make ")] == ["make test", "make check"]


@pytest.mark.parametrize("arguments", commands("dcp-deploy"), ids=" ".join)
def test_the_commands_exist_with_their_flags(arguments: list[str]) -> None:
    verb, *rest = ["", *arguments] if arguments[0].startswith("-") else arguments
    verb = " ".join(arguments[:2]) if " ".join(arguments[:2]) in verbs() else verb
    assert verb in verbs()
    assert {word for word in rest if word.startswith("-")} <= verbs()[verb]


def test_the_readme_names_every_verb() -> None:
    named = set(re.findall(r"`(\w+(?: \w+)?)`", README)) | {arguments[0] for arguments in commands("dcp-deploy")}
    assert set(verbs()) - {""} <= named


def test_the_exit_codes_in_the_readme_are_those_of_the_errors() -> None:
    paragraph = README.split("Exit codes:")[1].split("\n\n")[0]
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert {int(code) for code in re.findall(r"\b(\d+) ", paragraph)} == {0, 130} | {cls.exit_code for cls in classes}


def test_the_library_example_ends_with_a_distilled_and_verified_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    torch.manual_seed(0)
    save_generator(Generator(GeneratorConfig(8, (16, 16, 16, 16), z_dim=8, w_dim=8)), tmp_path / "teacher.pkl")
    monkeypatch.setitem(RECIPES, "quick", replace(RECIPES["quick"], steps=2))
    exported, verified = (create_autospec(call) for call in (dcp_deploy.export_onnx, dcp_deploy.verify))
    verified.return_value = create_autospec(ParityReport)
    monkeypatch.setattr(dcp_deploy, "export_onnx", exported)  # both have tests of their own and are slow
    monkeypatch.setattr(dcp_deploy, "verify", verified)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    pruned, student = names["pruned"], names["student"]
    assert student.config.widths == pruned.config.widths == (8, 8, 8, 8)
    weights = student.state_dict()
    assert any(not torch.equal(weight, weights[name]) for name, weight in pruned.state_dict().items())  # it was trained
    exported.assert_called_once_with(student, "student.onnx")
    verified.assert_called_once_with(student, "student.onnx")
    verified.return_value.raise_for_failure.assert_called_once_with()


def test_the_example_of_codes_draws_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "editing.md").read_text("utf-8"), flags=re.M | re.S
    )
    torch.manual_seed(0)
    student = Generator(GeneratorConfig(64, (4,) * 10, z_dim=8, w_dim=8))
    dcp_deploy.export_onnx(student, tmp_path / "synthesis.onnx", inputs="ws")
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as printed:
        exec(compile(block, "editing.md", "exec"), {})
    assert printed.getvalue() == "(5, 64, 64, 3) uint8\n"


def test_the_modules_and_source_files_that_the_documents_name_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for module in re.findall(r"python -m\s+(dcp_deploy[\w.]*)", text):
            assert util.find_spec(module), f"{document.name}: {module}"
        for path in re.findall(r"`((?:benchmarks|dcp_deploy|docs|export|kernels|tests)/[\w/.-]*)`", text):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_the_torch_for_cpus_is_the_tested_version() -> None:
    (version,) = re.findall(r"pip install (torch==\S+) ", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"))
    assert version in (ROOT / "constraints.txt").read_text().splitlines()


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


def test_every_extra_has_a_row_with_what_it_adds() -> None:
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| ([\d.]+ [MG]B|not measured) \|$", guide, flags=re.M))
    assert set(rows) == set(EXTRAS)
    for extra, measured in sizes().items():
        if measured is None:  # a package of it is not installed here
            continue
        number, unit = rows[extra].split()
        assert float(number) * {"MB": 1, "GB": 1000}[unit] == pytest.approx(measured, rel=0.2), extra
