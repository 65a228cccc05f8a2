"""Every help has an example that its parser accepts, and needs few packages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache

import pytest
from rich.text import Text

from dcp_deploy.cli.options import PANELS, help_of
from dcp_deploy.cli.output import Output
from dcp_deploy.cli.verb import name_of, verb
from dcp_deploy.config import BuildConfig

from .conftest import PROGRAM, VERBS


@cache
def help_screens() -> dict[str, str]:
    """Return the help of each verb, and "" for the program's own, from a process that lacks most packages."""
    script = f"""
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "numpy", "onnx", "onnxruntime", "onnxscript", "safetensors", "PIL", "scipy",
                                  "sklearn", "matplotlib", "jinja2", "tensorrt_rtx", "tensorrt", "psutil",
                                  "httpx", "filelock", "platformdirs"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Bare())
from dcp_deploy.cli.app import app
for words in [["--version"], ["--help"], *([*verb.split(), "--help"] for verb in {VERBS})]:
    print("\\f", end="")
    try:
        app(words, prog_name="dcp-deploy")
    except SystemExit as end:
        assert not end.code, words
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    _, version, *screens = done.stdout.split("\f")
    assert version.startswith("dcp-deploy ")
    return dict(zip(("", *VERBS), screens, strict=True))


def words_of(screen: str) -> str:
    """Return a screen's words without the lines around them."""
    return " ".join(re.sub("[─│╭╮╰╯]", " ", screen).split())


def examples(name: str) -> list[list[str]]:
    """Return the words after ``dcp-deploy`` of each example in a verb's help."""
    text = PROGRAM.commands[name].help
    return [shlex.split(words) for words in re.findall(r"^Example: dcp-deploy (.+)$", text, flags=re.M)]


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_has_an_example_that_its_parser_accepts(name: str) -> None:
    assert examples(name)
    for words in examples(name):
        rest = words[len(name.split()) :]
        assert words == [*name.split(), *rest]
        # Raises for an unknown option, or a value that is not a number.
        PROGRAM.commands[name].make_context(name, rest)


def test_help_and_version_need_only_the_packages_of_the_command_line() -> None:
    assert set(help_screens()) == {"", *VERBS}


@pytest.mark.parametrize("name", VERBS)
def test_the_example_is_on_the_screen(name: str) -> None:
    assert f"Example: dcp-deploy {name} " in words_of(help_screens()[name])


def test_every_option_of_every_verb_has_a_help_text() -> None:
    for name in VERBS:
        for parameter in PROGRAM.commands[name].params:
            assert parameter.help or parameter.name == "help", f"{name} {parameter.name}"


def test_a_help_text_stands_alone_and_is_short() -> None:
    """It begins with a noun, a verb or a value, not with "Of the convolutions in training"."""
    for name in VERBS:
        for parameter in PROGRAM.commands[name].params:
            text = str(parameter.help or "")
            assert not re.match(r"(?:Of|By|Whose) ", text), f"{name} {parameter.name}"
            longest = max(len(part.split()) for part in re.split(r"(?<=[.:;]) ", text))
            assert longest <= 25, f"{name} {parameter.name}"


def test_brackets_in_a_help_text_are_shown() -> None:
    assert "Run directory [build/<dataset>]." in words_of(help_screens()["build"])
    for name in VERBS:
        for parameter in PROGRAM.commands[name].params:
            text = str(parameter.help or "")
            assert Text.from_markup(text).plain == text.replace("\\[", "["), f"{name} {parameter.name}"


def test_build_has_a_flag_for_every_setting_and_each_has_a_panel() -> None:
    assert {name for names in PANELS.values() for name in names} == set(BuildConfig.model_fields)
    assert set(BuildConfig.model_fields) < {parameter.name for parameter in PROGRAM.commands["build"].params}
    assert all(f"─ {panel} ─" in help_screens()["build"] for panel in PANELS)
    assert help_of("mirror") == "Flip half of the images of --data left to right."


def test_the_command_line_s_own_help_names_all_verbs_and_exit_codes() -> None:
    shown = help_screens()[""]
    assert all(re.search(rf"^│ {name} ", shown, flags=re.M) for name in VERBS)
    assert "130 interrupted" in words_of(shown)


def test_a_verb_has_the_name_of_its_function() -> None:
    @verb()
    def polish(output: Output) -> None:
        pass

    assert name_of(polish) == "polish"
