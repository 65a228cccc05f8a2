"""NVIDIA's persistent modules, from a pickle to a tree of plain records. Nothing in the file is executed.

Every network in such a file is a call of one function with a dictionary: the name of the class, the source text of its
module, which NVIDIA's own loader runs, and the attributes of the object. This module never reads the source text; it
keeps class names, attributes and tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import CorruptFileError, UnknownFormatError
from .numpy_values import ArrayRecord
from .tensors import TensorView
from .values import Inert, Load, is_number, printable

_DEPTH = 12  # StyleGAN's modules nest five deep
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


class PersistentRecord:
    """The dictionary that the pickle calls the persistence function with."""

    __slots__ = ("meta",)

    def __init__(self, meta: Any) -> None:
        self.meta = meta


@dataclass(frozen=True)
class Module:
    """One network module. ``facts`` are its plain attributes, ``options`` the arguments of its constructor."""

    source: str
    path: str
    """Dotted, as in a state dict; "" for the whole network."""
    class_name: str
    version: Any
    facts: Mapping[str, Any]
    options: Mapping[str, Any]
    tensors: Mapping[str, TensorView]
    """Its own parameters and persistent buffers."""
    children: Mapping[str, Module]

    def modules(self) -> Iterator[Module]:
        """Yield this module and all modules below, in the order of a state dict."""
        yield self
        for child in self.children.values():
            yield from child.modules()

    def state(self) -> dict[str, TensorView]:
        """Return all tensors by their names in a state dict."""
        return {
            f"{module.path}.{name}".removeprefix("."): tensor
            for module in self.modules()
            for name, tensor in module.tensors.items()
        }

    def child(self, name: str) -> Module:
        if name not in self.children:
            raise self.damaged(f"has no module {name}")
        return self.children[name]

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Return the shape of one of its tensors. Raises CorruptFileError for another number of axes."""
        if name not in self.tensors or len(self.tensors[name].shape) != axes:
            raise self.damaged(f"has no tensor {name} of {axes} axes")
        return self.tensors[name].shape

    def fact(self, name: str) -> Any:
        """Return an attribute: a number, a text or None; an array as a tuple of numbers."""
        if name not in self.facts:
            raise self.damaged(f"lacks the attribute {name}")
        value = self.facts[name]
        if type(value) in (list, tuple) and all(type(one) in (int, float) for one in value):
            return tuple(value)
        if type(value) not in (int, float, bool, str, type(None)):
            raise self.damaged(f"has an attribute {name} that is not a plain value")
        return value

    def whole(self, name: str) -> int:
        value = self.fact(name)
        if type(value) is not int:
            raise self.damaged(f"has an attribute {name} that is not a whole number")
        return value

    def number(self, name: str) -> float:
        value = self.fact(name)
        if not is_number(value):
            raise self.damaged(f"has an attribute {name} that is not a number")
        return float(value)

    def require(self, **expected: Any) -> None:
        """Refuse the file unless these attributes have the values that our networks compute with."""
        for name, value in expected.items():
            found = self.fact(name)
            if not _same(found, value):
                raise self.unsupported(f"{name} is {printable(repr(found))}, and only {printable(repr(value))} is read")

    def damaged(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.source}: {self.class_name} {self.path or 'itself'} {what}")

    def unsupported(self, what: str) -> UnknownFormatError:
        return UnknownFormatError(
            f"{self.source}: {self.class_name} {self.path or 'itself'}: {what}",
            "Give one of these: the StyleGAN2 (skip connections, RGB) and StyleGAN3 generators of NVIDIA's two "
            "repositories, and as discriminators their residual, unconditional RGB ones.",
        )


def module_tree(record: PersistentRecord, load: Load, path: str = "", depth: int = 0) -> Module:
    """Return a network as a tree, checked on the way: records may be shared, cyclic or hold any values.

    Modules of torch and of unknown classes are read too; a reader refuses those that it needs and does not know.
    """
    class_name, version, state = _parts(record, path, load)
    load.spend(steps=1 + len(state))
    if depth > _DEPTH:
        raise load.damaged(f"modules nest more than {_DEPTH} deep")
    parameters, buffers, modules = (_named(state.get(name), f"{path}.{name}", load) for name in _CONTENTS)
    hidden = state.get("_non_persistent_buffers_set", set())
    if not isinstance(hidden, set | frozenset):
        raise load.damaged(f"{path or 'a network'} has no proper list of its non-persistent buffers")
    tensors = {**parameters, **{name: value for name, value in buffers.items() if name not in hidden}}
    for name, value in tensors.items():
        if type(value) is Inert:
            raise load.inert(value, f"{path}.{name}".removeprefix("."))
        if type(value) not in (TensorView, type(None)):
            raise load.damaged(f"{path or 'a network'} has parameters or buffers that are not tensors")
    children = {}
    for name, child in modules.items():
        if child is not None:
            children[name] = module_tree(child, load, f"{path}.{name}".removeprefix("."), depth + 1)
    options = state.get("_init_kwargs")
    return Module(
        source=load.source,
        path=path,
        class_name=class_name,
        version=version,
        facts={name: _plain(value, load) for name, value in state.items() if name[:1] != "_"},
        options=options if isinstance(options, dict) else {},
        tensors={name: value for name, value in tensors.items() if value is not None},
        children=children,
    )


_CONTENTS = ("_parameters", "_buffers", "_modules")


def is_module(state: Any) -> bool:
    """Return whether this is the state of a torch module that was pickled whole."""
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in ("_parameters", "_modules"))


def _parts(record: Any, path: str, load: Load) -> tuple[str, Any, Mapping[str, Any]]:
    if type(record) is Inert:
        if not is_module(record.state):
            raise load.inert(record, path)
        return record.name.rpartition(".")[2], None, record.state
    meta = record.meta if type(record) is PersistentRecord else None
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict) or type(meta.get("class_name")) is not str:
        raise load.damaged(f"{path or 'a network'} is not a module with a class and a state")
    state = meta["state"]
    if any(type(name) is not str for name in state):
        raise load.damaged(f"{path or 'a network'} has attributes without a name")
    return printable(meta["class_name"], 64), meta.get("version"), state


def _named(entries: Any, what: str, load: Load) -> Mapping[str, Any]:
    """Return a dictionary, after checking that its keys can be parts of a tensor's name."""
    if not isinstance(entries, dict) or not all(type(name) is str and _NAME.fullmatch(name) for name in entries):
        raise load.damaged(f"{what.removeprefix('.')} is not a dictionary of names")
    load.spend(steps=len(entries))
    return entries


def _plain(value: Any, load: Load) -> Any:
    """Return small arrays, such as StyleGAN3's sizes, as tuples of numbers, and other values as they are."""
    if type(value) is not ArrayRecord or len(value.data) > 1024:
        return value
    return tuple(value.array(load).flatten().tolist())


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return isinstance(found, tuple) and len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        return type(found) is type(expected) and bool(found == expected)
    return is_number(found) and math.isclose(found, expected, rel_tol=1e-6)
