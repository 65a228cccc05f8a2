"""Import the public names of a package on first use, so that users of one name do not wait for all.

A package that uses this also writes its imports for type checkers, below ``if TYPE_CHECKING``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def import_on_use(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package, see PEP 562.

    ``modules`` maps each module below the package to its public names. A name is looked up once, then kept.
    """
    origin = {name: module for module, names in modules.items() for name in names}
    namespace = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name not in origin:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(f".{origin[name]}", package), name)
        return value

    return find, lambda: sorted({*namespace, *origin})
