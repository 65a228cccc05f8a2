"""Print what each extra of pyproject.toml adds to an environment, in MB: ``python tests/extra_sizes.py``.

It counts the installed files of the packages that an extra needs beyond those without extras, in this environment. The
table in docs/install.md is made from it. An extra with a package that is not installed here is not measured.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def needed(lines: Iterable[str], *, ours: str = "dcp-deploy") -> set[str]:
    """Return the names of all packages that requirements bring. PackageNotFoundError if one is not installed."""
    waiting = [Requirement(line) for line in lines]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found = EXTRAS.get(extra, ()) if name == ours else distribution(name).requires or ()
            further = [Requirement(line) for line in found]
            waiting += [r for r in further if not r.marker or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen} - {ours}


def megabytes(package: Distribution) -> float:
    """Return the size of a package's installed files in units of 1e6 bytes."""
    files = [Path(str(package.locate_file(file))) for file in package.files or ()]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def sizes() -> dict[str, float | None]:
    """Return MB for each extra; None if a package of it is not installed."""
    base = needed(PROJECT["dependencies"])
    found: dict[str, float | None] = {}
    for extra, lines in EXTRAS.items():
        try:
            found[extra] = sum(megabytes(distribution(name)) for name in needed(lines) - base)
        except PackageNotFoundError:
            found[extra] = None
    return found


if __name__ == "__main__":
    for extra, size in sizes().items():
        print(f"{extra:10}", "not installed here" if size is None else f"{size:7.0f} MB")
