from __future__ import annotations

import inspect
import re

import pytest

from dcp_deploy import errors
from dcp_deploy.errors import DcpDeployError

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, DcpDeployError)]
# "      UsageError                2   a flag, ..."; a class without a number has the code of its parent.
LISTED = re.findall(r"^( +)(\w+Error)\b +(\d*)", errors.__doc__ or "", flags=re.MULTILINE)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert {name for _, name, _ in LISTED} == {cls.__name__ for cls in CLASSES}


def test_the_tree_in_the_docstring_gives_every_error_its_parent_and_exit_code() -> None:
    above: dict[int, str] = {}
    for indent, name, code in LISTED:
        cls = getattr(errors, name)
        above[len(indent)] = name
        if code:
            assert cls.exit_code == int(code), name
        if name != "DcpDeployError":
            assert cls.__base__.__name__ == above[len(indent) - 2], name


def test_each_branch_has_an_exit_code_of_its_own() -> None:
    branches = [cls for cls in CLASSES if cls.__base__ is DcpDeployError]
    codes = [cls.exit_code for cls in branches]
    assert sorted(codes) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_prints_the_problem_and_then_the_remedy(cls: type[DcpDeployError]) -> None:
    assert str(cls("ratio 1.2 is above 1", "Give a number from 0 to 1.")) == (
        "ratio 1.2 is above 1\nGive a number from 0 to 1."
    )
    assert str(cls("ratio 1.2 is above 1")) == "\n".join(filter(None, ["ratio 1.2 is above 1", cls.usual_remedy]))
