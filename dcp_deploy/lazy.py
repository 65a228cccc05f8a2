"""Names of a package that are imported on first use, so that who needs one of them does not wait for all.

A package that uses this still names its imports for type checkers, below ``if TYPE_CHECKING``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def import_on_use(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package, by PEP 562. ``homes``: module below it -> names to find there.

    A name is found once and then kept in the package.
    """
    home = {name: module for module, names in homes.items() for name in names}
    namespace = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(f".{home[name]}", package), name)
        return value

    return find, lambda: sorted({*namespace, *home})
