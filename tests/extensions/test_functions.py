"""Functions that users wrote are found by name, and a change of their source shows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcp_deploy.errors import UsageError
from dcp_deploy.extensions.functions import check_name, find_function, parse_loss

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file of the current folder, whose modules the process then imports anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def forget() -> None:
        for name in set(sys.modules) - before:
            if str(tmp_path) in str(
                getattr(sys.modules[name], "__file__", "") or getattr(sys.modules[name], "__path__", "")
            ):
                del sys.modules[name]

    def put(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        forget()

    yield put
    forget()


def install(folder: Path, name: str, version: str, entry_points: str, files: dict[str, str]) -> Path:
    """Lay out a package in ``folder`` as pip installs it; return the site-packages."""
    site = folder / "site-packages"
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(entry_points)
    for file, text in files.items():
        site.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
        site.joinpath(file).write_text(text)
    (about / "RECORD").write_text("".join(f"{file},sha256=abc,{len(text)}\n" for file, text in files.items()))
    return site


def test_a_function_of_a_module_in_the_current_folder_is_found(write: Write) -> None:
    write("ours/scores.py", "def mine(x):\n    return x + 1\n")
    found = find_function("score", "ours.scores:mine")
    assert found(1) == 2
    assert (found.name, found.label) == ("ours.scores:mine", "mine")
    assert found.identity["function"] == "ours.scores:mine" and len(found.identity["sha256"]) == 64


def test_an_installed_module_goes_before_one_of_the_same_name_here(write: Write) -> None:
    write("json.py", "def loads(text):\n    return 'ours'\n")
    assert find_function("loss", "json:loads")("1") == 1


@pytest.mark.parametrize("changed", ["ours/losses.py", "ours/helpers/maths.py", "beside.py", "ours/__init__.py"])
def test_the_identity_changes_with_every_file_that_the_function_is_made_of(write: Write, changed: str) -> None:
    write("ours/__init__.py", "")
    write("ours/losses.py", "from .helpers import maths\nimport beside\nimport torch\ndef mine(a, b):\n    pass\n")
    write("ours/helpers/__init__.py", "")
    write("ours/helpers/maths.py", "")
    write("beside.py", "")
    write("unrelated.py", "")
    first = find_function("loss", "ours.losses:mine").identity
    write("unrelated.py", "x = 1\n")
    assert find_function("loss", "ours.losses:mine").identity == first
    write(changed, Path(changed).read_text() + "# changed\n")
    again = find_function("loss", "ours.losses:mine").identity
    assert again["sha256"] != first["sha256"] and again["function"] == first["function"]


def test_an_installed_package_is_known_by_its_version_and_pips_list_of_files(write: Write, tmp_path: Path) -> None:
    source = {"edgy/__init__.py": "def edges(a, b):\n    return a\n"}
    site = install(tmp_path, "edgy", "1.2", "[dcp_deploy.losses]\nedges = edgy:edges\n", source)
    sys.path.append(str(site))
    found = find_function("loss", "edges")
    assert found.identity["version"] == "edgy 1.2" and found.identity["function"] == "edgy:edges"
    assert found.label == "edges" and found("a", "b") == "a"
    first = found.identity
    record = site / "edgy-1.2.dist-info" / "RECORD"
    record.write_text(record.read_text().replace("abc", "abd"))
    assert find_function("loss", "edges").identity["sha256"] != first["sha256"]


def test_names_that_nobody_offers_are_answered_with_the_closest(write: Write, tmp_path: Path) -> None:
    sys.path.append(str(install(tmp_path, "edgy", "1.2", "[dcp_deploy.losses]\nedges = edgy:edges\n", {})))
    with pytest.raises(UsageError, match=r"'edgse' is not a loss.*\nDid you mean edges\?"):
        check_name("loss", "edgse")
    with pytest.raises(UsageError, match=r"'divresity' is not a score.*\nDid you mean diversity\?"):
        check_name("score", "divresity", ["diversity", "random"])
    with pytest.raises(UsageError, match=r"not a score\nGive a function of your own as module:function"):
        check_name("score", "edges")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:mine", r"module 'nowhere' is not found\nInstall its package, or run the command in the folder"),
        ("ours.nowhere:mine", "module 'ours.nowhere' is not found"),
        ("ours.scores:mien", r"ours\.scores has no 'mien'\nDid you mean mine\?"),
        ("ours.scores:constant", "is 3, not a function"),
        ("ours.broken:mine", "importing ours.broken failed: ZeroDivisionError: division by zero"),
        ("ours.needy:mine", "ours.needy needs a module: No module named 'nothing_like_it'"),
        ("ours.scores:", "is not a score"),
        ("ours/scores.py:mine", "is not a score"),
        ("../ours:mine", "is not a score"),
    ],
)
def test_a_function_that_is_not_there_is_a_usage_error_that_names_it(write: Write, name: str, words: str) -> None:
    write("ours/__init__.py", "")
    write("ours/scores.py", "constant = 3\ndef mine():\n    pass\n")
    write("ours/broken.py", "1 / 0\n")
    write("ours/needy.py", "import nothing_like_it\n")
    with pytest.raises(UsageError, match=words):
        find_function("score", name)


def test_an_error_inside_the_function_names_the_function_and_how_it_is_called(write: Write) -> None:
    write("ours.py", "def mine(x):\n    return x['a']\n")
    with pytest.raises(UsageError, match=r"the loss ours:mine failed: KeyError: 'a'\nRepair it: it is called as func"):
        find_function("loss", "ours:mine")({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ours:mine", ("ours:mine", 1.0)), ("ours:mine=2.5", ("ours:mine", 2.5)), ("a.b:c.d=1e-3", ("a.b:c.d", 0.001))],
)
def test_a_loss_is_a_name_and_a_weight(text: str, expected: tuple[str, float]) -> None:
    assert parse_loss(text) == expected


@pytest.mark.parametrize(
    "text", ["ours:mine=", "ours:mine=x", "ours:mine=0", "ours:mine=-1", "ours:mine=nan", "a:b=inf"]
)
def test_a_weight_that_is_not_positive_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"no positive weight after '='\nWrite for instance"):
        parse_loss(text)


def test_a_function_given_as_it_is_is_known_by_its_source() -> None:
    def mine() -> None: ...

    def other() -> int:
        return 3

    found = find_function("score", mine)
    assert found.name.endswith("mine") and found.identity["function"].startswith(__name__)
    assert find_function("score", other).identity != found.identity
    with pytest.raises(UsageError, match="is not a function"):
        find_function("score", 3)  # type: ignore[arg-type]
