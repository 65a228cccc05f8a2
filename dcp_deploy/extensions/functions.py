"""Find scores and losses that users wrote: by the name of an entry point, or as ``module:function``.

Naming a function runs the code of its module. Only a person who runs a command or calls the library names one; a name
in a file that is read, such as a student's record, is never looked up.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, invalidate_caches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from ..errors import DcpDeployError, UsageError, choose
from .sources import identity_of_source

Kind = Literal["score", "loss"]

GROUPS: dict[Kind, str] = {"score": "dcp_deploy.scores", "loss": "dcp_deploy.losses"}
"""The groups of entry points under which packages offer their functions."""

SIGNATURES: dict[Kind, str] = {
    "score": "function(generator, *, latents, seed, progress) -> a tensor [C] for each layer by name",
    "loss": "function(student, teacher) -> a scalar",
}
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class OwnFunction:
    """A function that a user wrote, and the name that it was asked for by."""

    kind: Kind
    name: str
    function: Callable[..., Any]

    @property
    def label(self) -> str:
        """The name in figures and curves: that of the entry point, or of the function without its module."""
        return self.name.rpartition(":")[2].replace(".", "_")

    @cached_property
    def identity(self) -> dict[str, str]:
        """What tells this function from its other versions: where it is, the sha256 of its source, its version."""
        module, _, path = _place(self.kind, self.name)
        return {"function": f"{module}:{path}", **identity_of_source(module, self.function)}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function. An error inside it becomes a UsageError that names it."""
        try:
            return self.function(*arguments, **options)
        except (DcpDeployError, OSError, MemoryError):
            raise
        except Exception as error:
            raise self.refused(f"failed: {type(error).__name__}: {error}") from error

    def refused(self, why: str) -> UsageError:
        """Return the error for a function that failed or returned something else than it should."""
        remedy = f"Repair it: it is called as {SIGNATURES[self.kind]} (docs/extending.md)."
        return UsageError(f"the {self.kind} {self.name} {why}", remedy)


def check_name(kind: Kind, name: str, built_in: Collection[str] = ()) -> None:
    """Raise UsageError unless ``name`` is built in, an installed entry point, or of the form ``module:function``.

    Imports nothing.
    """
    if name in built_in or _PATH.fullmatch(name):
        return
    installed = {entry.name for entry in entry_points(group=GROUPS[kind])}
    if name not in installed:
        known = [*built_in, *sorted(installed - set(built_in))]
        remedy = f"{choose(name, known)} " if known else ""
        raise UsageError(f"{name!r} is not a {kind}", f"{remedy}Give a function of your own as module:function.")


def parse_loss(text: str) -> tuple[str, float]:
    """Return name and weight of "module:function=2.5" or "name=2.5"; the weight is 1 if it is left out.

    Raises UsageError for another form, and for a name that no installed package offers. Imports nothing.
    """
    name, equals, number = text.partition("=")
    try:
        weight = float(number) if equals else 1.0
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(f"the loss {text!r} has no positive weight after '='", f"Write for instance {name}=2.5.")
    check_name("loss", name)
    return name, weight


def find_function(kind: Kind, name: str | Callable[..., Any]) -> OwnFunction:
    """Return the function of an entry point or a ``module:function``, which runs the code of its module.

    A function itself is taken as it is.

    Modules are also looked for in the current folder, after the installed ones. Raises UsageError if none of
    them has the function.
    """
    if not isinstance(name, str):
        if not callable(name) or not hasattr(name, "__qualname__"):
            raise UsageError(f"the {kind} {name!r} is not a function", f"Give one: {SIGNATURES[kind]}.")
        return OwnFunction(kind, f"{name.__module__}:{name.__qualname__}", name)
    check_name(kind, name)
    module, whence, path = _place(kind, name)
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    invalidate_caches()  # the module may be younger than this process
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"the {kind} {name}: {module} needs a module: {error}", "Install it.") from error
        remedy = f"Install its package, or run the command in the folder that holds {module.split('.')[0]}."
        raise UsageError(f"the {kind} {name}: module {error.name!r} is not found{whence}", remedy) from error
    except Exception as error:
        raise UsageError(
            f"the {kind} {name}: importing {module} failed: {type(error).__name__}: {error}", "Repair that module."
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise UsageError(f"the {kind} {name}: {module} has no {part!r}{whence}", choose(part, names))
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"the {kind} {name} is {found!r}, not a function", f"Name one: {SIGNATURES[kind]}.")
    return OwnFunction(kind, name, found)


def _place(kind: Kind, name: str) -> tuple[str, str, str]:
    """Return the module and the function of a name, and between them who offers it, as words for an error."""
    if ":" in name:
        module, _, path = name.partition(":")
        return module, "", path
    offered = [entry for entry in entry_points(group=GROUPS[kind]) if entry.name == name]
    if len({entry.value for entry in offered}) > 1:
        packages = ", ".join(sorted(map(_package, offered)))
        raise UsageError(f"the {kind} {name} is offered by several packages: {packages}", "Name it module:function.")
    entry = offered[0]
    return entry.module, f" (entry point of {_package(entry)})", entry.attr


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module
