"""The generators in a file, whatever they are wrapped in, and the choice of one of them.

A network is found by the names of its tensors or by its record in a pickle, never by the key that leads to it. So every
key and every prefix (``g_ema``, ``params_ema``, ``state_dict``, ``decoder.``, ``module._orig_mod.``) is accepted. Keys
matter for the choice only: a moving average comes before the raw weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnknownFormatError, UsageError
from .architectures import READS, layout_of, other_architecture, refuse_other_architectures
from .pickles.content import Content, NetworkRecord
from .pickles.persistence import PersistentRecord, is_module, module_tree
from .pickles.python_values import OrderedRecord
from .pickles.tensors import TensorView
from .pickles.values import Inert, Load, LongText, printable

_DEPTH = 6  # of containers around a network
_LONGEST = 64  # entries of a list that may be networks
_AVERAGE = re.compile(r"(^|_)ema(_|$)|^gs$|^shadow|averag|^avg_|_avg$")
_RAW = ("g", "generator", "netg", "online_model")
_NOT_GENERATORS = re.compile(r"Discriminator|AugmentPipe")


@dataclass(frozen=True)
class StateDict:
    """A state dict: the tensors below one prefix. ``others`` are entries that are not tensors, by their names."""

    layout: str
    """"nvidia", "rosinality" or "basicsr": the names of the tensors."""
    views: Mapping[str, TensorView]
    others: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[Any, Any] = field(default_factory=dict)
    """The dictionary that the state dict is an entry of; empty for one that is the file itself."""
    arguments: Mapping[Any, Any] = field(default_factory=dict)
    """The arguments of the network's constructor, as ``convert --to nvidia`` records them; usually none."""


@dataclass(frozen=True)
class Found:
    """A generator in a file. ``name`` is its place: keys and prefix joined by dots, "" for the file itself."""

    name: str
    network: PersistentRecord | NetworkRecord | StateDict

    @property
    def average(self) -> bool:
        """Whether the name says that it is a moving average."""
        return any(_AVERAGE.search(part.lower()) for part in self.name.split("."))

    @property
    def raw(self) -> bool:
        """Whether the name says that it is the network that was trained, without an average."""
        return not self.average and self.name.rpartition(".")[2].lower() in _RAW


def find_networks(content: Content) -> list[Found]:
    """Return all generators of a file, in its order.

    Raises UnknownFormatError for a file without one, naming what it holds instead.
    """
    found = list(_walk(content.value, "", content.load, {}, 0))
    if found:
        return found
    refuse_other_architectures(content.value, content.load)
    raise UnknownFormatError(
        f"{content.load.source}: a file without a generator: it holds {_described(content.value)}", READS
    )


def choose(found: list[Found], wanted: str | None, source: str) -> Found:
    """Return the network called ``wanted``, by default the first moving average, else the first.

    Raises UsageError for a name that the file does not have, or that several of its networks share.
    """
    if wanted is None:
        return next((one for one in found if one.average), found[0])
    for same in (
        lambda name: name == wanted,
        lambda name: name.lower() == wanted.lower(),
        lambda name: wanted.lower() in (name.lower().rpartition(".")[2], name.lower().partition(".")[0]),
    ):
        matching = [one for one in found if same(one.name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            break
    names = ", ".join(shown(one) for one in found)
    raise UsageError(f"{source}: --network {wanted!r} is not one network of the file", f"Choose one of: {names}.")


def shown(one: Found) -> str:
    """Return the name of a network for messages."""
    return printable(one.name, 80) or "the file itself"


def same_weights(a: Found, b: Found, load: Load) -> bool:
    """Return whether two networks have the same tensors, bit for bit."""
    first, second = _bytes(a.network, load), _bytes(b.network, load)
    return first.keys() == second.keys() and all(
        len(first[name]) == len(second[name]) and _equal(first[name], second[name]) for name in first
    )


def _equal(a: memoryview | bytes, b: memoryview | bytes, step: int = 1 << 20) -> bool:
    return all(bytes(a[i : i + step]) == bytes(b[i : i + step]) for i in range(0, len(a), step))


def _bytes(network: PersistentRecord | NetworkRecord | StateDict, load: Load) -> dict[str, memoryview | bytes]:
    """Return the stored bytes of each tensor, without a copy."""
    if isinstance(network, NetworkRecord):
        variables = [pair for part in (network, *_components(network)) for pair in part.state.get("variables") or ()]
        return {str(name): value.data for name, value in variables if hasattr(value, "data")}
    views = module_tree(network, load).state() if isinstance(network, PersistentRecord) else network.views
    return {name: view.storage.data or b"" for name, view in views.items()}


def _components(network: NetworkRecord) -> list[NetworkRecord]:
    components = network.state.get("components")
    return [one for one in components.values() if type(one) is NetworkRecord] if isinstance(components, dict) else []


# ---- the walk ----


def _walk(value: Any, name: str, load: Load, beside: Mapping[Any, Any], depth: int) -> Iterator[Found]:
    load.spend(steps=1)
    if depth > _DEPTH:
        return
    if type(value) is PersistentRecord:
        if not _NOT_GENERATORS.search(_class_name(value)):
            yield Found(name, value)
    elif type(value) is NetworkRecord:
        if name.rpartition(".")[2] != "D":
            yield Found(name, value)
    elif isinstance(value, Mapping):
        entries = whole_module(value, load) if type(value) is Inert and is_module(value.state) else value
        yield from _state_dicts(entries, name, load, beside)
        load.spend(steps=len(entries))
        for key, entry in entries.items():
            if type(key) is str and type(entry) is not TensorView:
                yield from _walk(entry, f"{name}.{key}".removeprefix("."), load, entries, depth + 1)
    elif type(value) in (list, tuple) and len(value) <= _LONGEST:
        for key, entry in zip(_places(value), value, strict=True):
            yield from _walk(entry, f"{name}.{key}".removeprefix("."), load, {}, depth + 1)


def _places(values: list[Any] | tuple[Any, ...]) -> list[str]:
    """Return names for the entries of a sequence: NVIDIA's files hold (G, D, Gs) or (G, D, G_ema)."""
    kinds = {type(value) for value in values}
    if len(values) == 3 and kinds <= {PersistentRecord, NetworkRecord, type(None)}:
        return ["G", "D", "Gs" if NetworkRecord in kinds else "G_ema"]
    return [str(index) for index in range(len(values))]


def _class_name(record: PersistentRecord) -> str:
    name = record.meta.get("class_name") if isinstance(record.meta, dict) else None
    return name if type(name) is str else ""


def _state_dicts(entries: Mapping[Any, Any], name: str, load: Load, beside: Mapping[Any, Any]) -> Iterator[Found]:
    """Yield the state dicts among the entries of one dictionary, each below a prefix of its own."""
    names = [key for key in entries if type(key) is str]
    prefixes = layout_of(names)
    if prefixes and other_architecture(names):
        return
    for prefix, layout in prefixes.items():
        longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        below = [key for key in names if key.startswith(prefix) and not (longer and key.startswith(longer))]
        load.spend(steps=len(below))
        inside = {printable(key[len(prefix) :]): entries[key] for key in below}
        views = {key: value for key, value in inside.items() if type(value) is TensorView}
        others = {key: value for key, value in inside.items() if type(value) is not TensorView}
        where = f"{name}.{prefix}".strip(".")
        around = beside if not prefix or type(entries.get("latent_avg")) is not TensorView else entries
        attributes = entries.attributes if isinstance(entries, OrderedRecord) else {}
        arguments = attributes.get("init_kwargs")
        known = arguments if isinstance(arguments, dict) else {}
        yield Found(where, StateDict(layout, views, others, around, known))


# ---- modules that were saved whole ----


def whole_module(module: Inert, load: Load, depth: int = 0) -> dict[str, Any]:
    """Return the state dict of a torch module that was saved whole, from its inert record."""
    if depth > 12:
        raise load.damaged("modules nest more than 12 deep")
    state = module.state
    load.spend(steps=1 + len(state["_parameters"]) + len(state["_modules"]))
    hidden = state.get("_non_persistent_buffers_set")
    buffers = state.get("_buffers")
    made = {key: value for key, value in state["_parameters"].items() if type(key) is str and value is not None}
    for key, value in (buffers if isinstance(buffers, dict) else {}).items():
        if type(key) is str and value is not None and not (isinstance(hidden, set) and key in hidden):
            made[key] = value
    for key, child in state["_modules"].items():
        if type(key) is str and type(child) is Inert and is_module(child.state):
            made |= {f"{key}.{name}": value for name, value in whole_module(child, load, depth + 1).items()}
    return made


def _entry(name: str | int, entry: Any) -> str:
    empty = entry is None or (isinstance(entry, Mapping | list | tuple) and not entry)
    return printable(str(name), 60) + (" (empty)" if empty else "")


def _described(value: Any) -> str:
    """Return what a file holds, for a message."""
    if type(value) is Inert:
        return f"an object of {printable(value.name)}"
    if isinstance(value, Mapping):
        names = [_entry(name, entry) for name, entry in list(value.items())[:8] if type(name) in (str, int)]
        more = ", ..." if len(value) > 8 else ""
        return f"a dictionary of {', '.join(names) or 'nothing'}{more}"
    kinds = {TensorView: "a tensor", PersistentRecord: "a network that is not a generator", LongText: "a text"}
    return kinds.get(type(value), f"a {type(value).__name__}")
