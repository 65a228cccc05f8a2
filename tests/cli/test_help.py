"""Every help has an example, and what it says to type can be typed."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.main import get_command

from dcp_deploy.cli.app import app
from dcp_deploy.cli.output import Output
from dcp_deploy.cli.verb import name_of, verb

from .conftest import VERBS, Command


def examples(name: str) -> list[list[str]]:
    """The words after ``dcp-deploy`` of each example in a verb's help."""
    text = get_command(app).commands[name].help  # type: ignore[attr-defined]
    return [shlex.split(words) for words in re.findall(r"^Example: dcp-deploy (.+)$", text, flags=re.M)]


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_has_an_example_that_its_parser_takes(name: str) -> None:
    assert examples(name)
    for words in examples(name):
        rest = words[len(name.split()) :]
        assert words == [*name.split(), *rest]
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        command.make_context(name, rest)  # raises for an option that is not there, or a value that is no number


@pytest.mark.parametrize("name", VERBS)
def test_the_example_is_on_the_screen(dcp: Command, name: str) -> None:
    shown = " ".join(dcp(*name.split(), "--help").out.split())
    assert f"Example: dcp-deploy {name}" in shown


def test_every_option_of_every_verb_has_words() -> None:
    for name in VERBS:
        for parameter in get_command(app).commands[name].params:  # type: ignore[attr-defined]
            assert parameter.help or parameter.name == "help", f"{name} {parameter.name}"


def test_the_command_line_s_own_help_names_all_verbs_and_exit_codes(dcp: Command) -> None:
    shown = dcp("--help").out
    assert all(re.search(rf"^│ {name} ", shown, flags=re.M) for name in VERBS)
    assert "130 interrupted" in shown


def test_a_verb_is_called_as_its_function() -> None:
    @verb()
    def polish(output: Output) -> None:
        pass

    assert name_of(polish) == "polish"
