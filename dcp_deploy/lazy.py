"""Import the public names of a package on first use, so that users of one name do not wait for all.

A package that uses this writes its imports once, for type checkers, below ``if TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def import_on_use(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package, see PEP 562.

    They offer every name that the package's source imports from modules below it. A name is looked up once, then kept.
    """
    nodes = ast.walk(ast.parse(inspect.getsource(sys.modules[package])))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    origin = {alias.name: node.module for node in imports if node.level == 1 for alias in node.names}
    namespace = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name not in origin:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(f".{origin[name]}", package), name)
        return value

    return find, lambda: sorted({*namespace, *origin})
