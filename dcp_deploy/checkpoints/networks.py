"""The generators in a file, whatever they are wrapped in, and the choice of one of them.

A network is found by the names of its tensors or by its record in a pickle, never by the key that leads to it. So every
key and every prefix (``g_ema``, ``params_ema``, ``state_dict``, ``decoder.``, ``module._orig_mod.``) is accepted. Keys
matter for the choice only: a moving average comes before the raw weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ..errors import InputError, UnknownFormatError, UsageError
from .architectures import LONGEST_NAME, READS, layout_of, names_of, other_architecture, refuse_other_architectures
from .pickles.content import Content, NetworkRecord
from .pickles.numpy_values import ArrayRecord
from .pickles.persistence import PersistentRecord, is_module, module_tree
from .pickles.python_values import OrderedRecord
from .pickles.tensors import TensorView, as_view
from .pickles.values import Inert, Load, LongText, printable

_DEPTH = 6  # of containers around a network
_LONGEST = 1000  # entries of a list that may be networks
_MOST = 64  # generators of one file
_FEWEST = 8  # tensors of a network
_AVERAGE = re.compile(r"ema[0-9]*|shadow|gs|avg|averaged?|running|smooth(ed)?|polyak")
_NEGATED = ("no", "non", "not", "without", "old", "raw")
_RAW = ("g", "generator", "netg", "online_model")
_NOT_GENERATORS = re.compile(r"Discriminator|AugmentPipe")
# Parts of names that tools put around every module; they may stand inside a name too.
_SHELLS = re.compile(r"(?:(?<=^)|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


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
        for part in self.name.split("."):
            spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part)
            words = re.split(r"[^a-z0-9]+", spaced.lower())
            if any(_AVERAGE.fullmatch(word) for word in words) and not set(words) & set(_NEGATED):
                return True
        return False

    @property
    def raw(self) -> bool:
        """Whether the name says that it is the network that was trained, without an average."""
        return not self.average and self.name.rpartition(".")[2].lower() in _RAW


def find_networks(content: Content) -> list[Found]:
    """Return all generators of a file, in its order.

    Raises UnknownFormatError for a file without one, naming what it holds instead.
    """
    found = list(islice(_walk(content.value, "", content.load, {}, 0), _MOST))
    if found:
        return _distinct(found)
    refuse_other_architectures(content.value, content.load)
    remedy = _ARRAYS if _few_tensors(content.value) else READS
    raise UnknownFormatError(
        f"{content.load.source}: a file without a generator: it holds {_described(content.value)}", remedy
    )


_ARRAYS = "A code is for `sample --codes`, a direction for `directions --import`; a generator is needed here."


def _few_tensors(value: Any) -> bool:
    """Return whether this may be codes or directions: a tensor, or a few in a dictionary."""
    entries = list(value.values()) if isinstance(value, Mapping) else [value]
    return 0 < len(entries) <= 32 and any(type(entry) in (TensorView, ArrayRecord) for entry in entries)


def _is_generator(network: PersistentRecord | NetworkRecord | StateDict) -> bool:
    return not isinstance(network, PersistentRecord) or _class_name(network) == "Generator"


def _distinct(found: list[Found]) -> list[Found]:
    """Number names that occur again, so that each can be chosen."""
    seen: Counter[str] = Counter()
    made = []
    for one in found:
        seen[one.name] += 1
        made.append(one if seen[one.name] == 1 else replace(one, name=f"{one.name}#{seen[one.name]}"))
    return made


def choose(found: list[Found], wanted: str | None, source: str) -> Found:
    """Return the network called ``wanted``, by default the first moving average, else the first generator.

    Raises UsageError for a name that the file does not have, or that several of its networks share.
    """
    if wanted is None:
        return min(found, key=lambda one: (not one.average, not _is_generator(one.network)))
    for same in (
        lambda name: wanted in (name, printable(name, 80)),
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


def same_weights(a: Found, b: Found, content: Content) -> bool:
    """Return whether two networks have the same tensors, bit for bit. One that cannot be read is another one."""
    try:
        first, second = _pieces(a.network, content.load), _pieces(b.network, content.load)
    except InputError:
        return False
    if first.keys() != second.keys():
        return False
    work = sum(len(piece) for _, piece in first.values())
    if work > 4 * content.size + (1 << 24):  # views of one storage, again and again
        return False
    return all(first[name][0] == second[name][0] and _equal(first[name][1], second[name][1]) for name in first)


def _equal(a: memoryview | bytes, b: memoryview | bytes, step: int = 1 << 20) -> bool:
    return len(a) == len(b) and all(bytes(a[i : i + step]) == bytes(b[i : i + step]) for i in range(0, len(a), step))


def _pieces(
    network: PersistentRecord | NetworkRecord | StateDict, load: Load
) -> dict[str, tuple[tuple[Any, ...], memoryview | bytes]]:
    """Return layout and stored bytes of each tensor, without a copy."""
    if isinstance(network, NetworkRecord):
        arrays = {name: value for part in (network, *_components(network)) for name, value in _variables(part)}
        return {name: ((str(value.dtype), value.shape, value.fortran), value.data) for name, value in arrays.items()}
    views = module_tree(network, load).state() if isinstance(network, PersistentRecord) else network.views
    return {name: ((str(view.storage.dtype), view.shape, view.stride), view.stored()) for name, view in views.items()}


def _variables(network: NetworkRecord) -> Iterator[tuple[str, ArrayRecord]]:
    variables = network.state.get("variables")
    for pair in variables if isinstance(variables, list) else ():
        if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], ArrayRecord):
            yield str(pair[0]), pair[1]


def _components(network: NetworkRecord) -> list[NetworkRecord]:
    components = network.state.get("components")
    return [one for one in components.values() if type(one) is NetworkRecord] if isinstance(components, dict) else []


def unnamed_averages(value: Any, load: Load, name: str = "", depth: int = 0) -> list[str]:
    """Return a note for each moving average that is a list of tensors without names, as torch_ema saves it."""
    notes: list[str] = []
    if depth > _DEPTH or not isinstance(value, Mapping):
        return notes
    load.spend(steps=len(value))
    for key, entry in value.items():
        if type(key) is not str:
            continue
        place = f"{name}.{printable(key, 80)}".removeprefix(".")
        if type(entry) in (list, tuple) and _FEWEST <= len(entry) <= _LONGEST:
            load.spend(steps=len(entry))
            if Found(place, StateDict("", {})).average and all(type(one) is TensorView for one in entry):
                notes.append(f"{place} is a moving average of {len(entry)} tensors without names; it is not read")
        notes += unnamed_averages(entry, load, place, depth + 1)
    return notes[:_MOST]


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
        yield from _walk_entries(value, name, load, beside, depth)
    elif type(value) in (list, tuple) and len(value) <= _LONGEST:
        for key, entry in zip(_places(value), value, strict=True):
            yield from _walk(entry, f"{name}.{key}".removeprefix("."), load, {}, depth + 1)


def _walk_entries(
    value: Mapping[Any, Any], name: str, load: Load, beside: Mapping[Any, Any], depth: int
) -> Iterator[Found]:
    entries = value
    if type(value) is Inert:
        if is_module(value.state):
            entries = whole_module(value, load)
        elif isinstance(value.state, dict):  # an object of an unknown class: its attributes
            entries = {**value, **value.state}
    yield from _state_dicts(entries, name, load, beside)
    load.spend(steps=len(entries))
    for key, entry in entries.items():
        if type(key) in (str, int) and type(entry) is not TensorView:
            yield from _walk(entry, f"{name}.{printable(str(key), 80)}".removeprefix("."), load, entries, depth + 1)


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
    plain = {_SHELLS.sub("", key): key for key in names_of(entries)}
    load.spend(steps=len(plain))
    prefixes = layout_of(plain)
    for prefix, layout in prefixes.items():
        longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        below = [key for key in plain if key.startswith(prefix) and not (longer and key.startswith(longer))]
        load.spend(steps=len(plain) + len(below))
        if other_architecture([key[len(prefix) :] for key in below], plain):
            continue
        inside = {printable(key[len(prefix) :], LONGEST_NAME): as_view(entries[plain[key]]) for key in below}
        views = {key: value for key, value in inside.items() if type(value) is TensorView}
        others = {key: value for key, value in inside.items() if type(value) is not TensorView}
        around = {**beside, "latent_avg": entries["latent_avg"]} if prefix and "latent_avg" in entries else beside
        attributes = entries.attributes if isinstance(entries, OrderedRecord) else {}
        arguments = attributes.get("init_kwargs")
        known = arguments if isinstance(arguments, dict) else {}
        shells = _SHELLS.search(plain[below[0]]) if below else None
        where = f"{name}.{shells.group() if shells else ''}{prefix}".strip(".")
        yield Found(where, StateDict(layout, views, others, around, known))


# ---- modules that were saved whole ----


def whole_module(module: Inert, load: Load) -> OrderedRecord:
    """Return the state dict of a torch module that was saved whole, from its inert record.

    What its layers record of themselves beside the tensors becomes the attribute "init_kwargs". Unlike
    :func:`module_tree`, which reads a wanted network, this passes over what is not understood: it only looks.
    """
    made, facts = OrderedRecord(), dict[str, Any]()
    _collect(module.state, "", made, facts, load, 0)
    lr = next((value for name, value in facts.items() if _MAPPING_LR.search(name)), None)
    clamps = [value for name, value in facts.items() if name.endswith(".conv_clamp")]
    synthesis = {"conv_clamp": clamps[0]} if clamps and clamps.count(clamps[0]) == len(clamps) else {}
    made.attributes = {"init_kwargs": {"mapping_kwargs": {"lr_multiplier": lr}, "synthesis_kwargs": synthesis}}
    return made


_FACTS = ("lr_mul", "lr_multiplier", "conv_clamp")  # of rosinality's layers and of ours
_MAPPING_LR = re.compile(r"(^|\.)(style|style_mlp|mapping)\.[^.]+\.lr_mul")


def _collect(
    state: Mapping[str, Any], path: str, made: OrderedRecord, facts: dict[str, Any], load: Load, depth: int
) -> None:
    """Add the tensors and the facts of a module and those below it, by their dotted names."""
    if depth > 12:
        raise load.damaged("modules nest more than 12 deep")
    load.spend(steps=1 + len(state["_parameters"]) + len(state["_modules"]))
    hidden, buffers = state.get("_non_persistent_buffers_set"), state.get("_buffers")
    for key, value in {**state["_parameters"], **(buffers if isinstance(buffers, dict) else {})}.items():
        if _is_name(key) and value is not None and not (isinstance(hidden, set) and key in hidden):
            made[path + key] = value
    facts |= {path + name: state[name] for name in _FACTS if name in state}
    for key, child in state["_modules"].items():
        if _is_name(key) and type(child) is Inert and is_module(child.state):
            _collect(child.state, f"{path}{key}.", made, facts, load, depth + 1)
        elif _is_name(key) and type(child) is PersistentRecord:
            made[path + key] = child


def _is_name(key: Any) -> bool:
    return type(key) is str and len(key) <= 64


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
