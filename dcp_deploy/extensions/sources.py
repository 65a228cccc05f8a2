"""Tell whether a function that a user wrote has changed: a hash over its source, or over its installed package."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path
from typing import Any

_INSTALLED = ("site-packages", "dist-packages")
_TOOL = "dcp_deploy"  # its version is in every key and record already


def identity_of_source(module: str, function: Any) -> dict[str, str]:
    """Return ``sha256`` and, of an installed package, ``version``.

    An installed package is identified by pip's list of its files with their hashes. Of a module that lies elsewhere,
    such as a checkout or the current folder, its file counts, and the files beside it and in its package that it
    imports, directly or not. The packages that it uses do not count.
    """
    top = module.split(".")[0]
    root = _root(top)
    if root is not None and root.name in _INSTALLED:
        installed = _distribution(top)
        record = None if installed is None else installed.read_text("RECORD")
        if installed is not None and record is not None:
            version = f"{installed.name} {installed.version}"
            return {"sha256": hashlib.sha256(record.encode()).hexdigest(), "version": version}
    digest = hashlib.sha256()
    files = {} if root is None else _imported(root, module)
    for name, file in sorted(files.items()):
        digest.update(f"{name}\n".encode() + file.read_bytes())
    if not files:
        digest.update(_without_file(module, function))
    return {"sha256": digest.hexdigest()}


def _root(top: str) -> Path | None:
    """Return the folder that holds a top-level module or package; None for what has no file, such as a notebook."""
    found = sys.modules.get(top)
    places = list(getattr(found, "__path__", ()))
    if places:
        return Path(places[0]).resolve().parent
    file = getattr(found, "__file__", None)
    return None if file is None or top == "__main__" else Path(file).resolve().parent


def _distribution(top: str) -> Distribution | None:
    names = packages_distributions().get(top, ())
    return distribution(names[0]) if names else None


def _imported(root: Path, module: str) -> dict[str, Path]:
    """Return the source files below ``root`` that the module consists of and imports, by the names of their modules."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file(root, name)
        if name in found or file is None or name.split(".")[0] == _TOOL:
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0], *_imports(name, file)]
    return found


def _file(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    choices = (base / "__init__.py", base.with_name(f"{base.name}.py")) if name else ()
    return next((file for file in choices if file.is_file()), None)


def _imports(name: str, file: Path) -> Iterator[str]:
    """Yield the absolute names of the modules that a file imports, and of what it takes from them."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # it was changed since it was imported
        return
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _without_file(module: str, function: Any) -> bytes:
    """Return what can be known of a function whose module has no source file: a script's, a notebook's, a binary's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None and Path(file).is_file():
        return Path(file).read_bytes()
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return repr(function).encode() if code is None else code.co_code + repr(code.co_consts).encode()
