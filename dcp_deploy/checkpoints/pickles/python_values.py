"""Stand-ins for values of Python in a pickle: ordered dictionaries, sets, and bytes written as text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Any

from .values import Global, Inert, Load, LongText, cheap_key

_CHUNK = 1 << 20


class OrderedRecord(dict[Any, Any]):
    """An OrderedDict. ``attributes`` are those of the object, such as the metadata that torch adds to a state dict."""

    __slots__ = ("attributes",)

    def __init__(self) -> None:
        super().__init__()
        self.attributes: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Keep the attributes beside the entries."""
        if isinstance(state, dict):
            self.attributes = state


def python_stand_ins(load: Load) -> Mapping[Global, Callable[..., Any]]:
    """Return the stand-in of each name, made anew for every load. OrderedRecord accepts BUILD."""

    def ordered(pairs: Any = ()) -> OrderedRecord:
        if type(pairs) not in (list, tuple):
            raise load.damaged("an OrderedDict is made of something that is not a list of pairs")
        made = OrderedRecord()
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise load.damaged("an OrderedDict is made of something that is not a list of names and values")
            made[cheap_key(pair[0], len(made))] = pair[1]
        return made

    def members(values: Any = ()) -> set[Any]:
        if type(values) not in (list, tuple):
            raise load.damaged("a set is made of something that is not a list")
        return {cheap_key(value, already) for already, value in enumerate(values)}

    def frozen_members(values: Any = ()) -> frozenset[Any]:
        return frozenset(members(values))

    def encoded(text: Any, encoding: Any = "latin1") -> bytes | Inert:
        """Return the bytes that protocol 2, which lacks bytes, writes as a text of the code points 0 to 255."""
        if encoding not in ("latin1", "latin-1"):
            return Inert("_codecs.encode")
        if type(text) is str:
            load.spend(memory=len(text))
            return text.encode("latin-1")
        if type(text) is not LongText:
            raise load.damaged("bytes are made of something that is not a text")
        return _latin1(text, load)

    def new_bytes(*arguments: Any) -> bytes | Inert:
        return Inert("builtins.bytes") if arguments else b""

    made: dict[Global, Callable[..., Any]] = {
        Global("collections", "OrderedDict"): ordered,
        Global("collections", "defaultdict"): lambda *default: OrderedRecord(),
        Global("_codecs", "encode"): encoded,
    }
    for builtins in ("builtins", "__builtin__"):
        made |= {Global(builtins, "set"): members, Global(builtins, "frozenset"): frozen_members}
        made[Global(builtins, "bytes")] = new_bytes
    return made


def _latin1(text: LongText, load: Load) -> bytes:
    """Return the bytes of a long text, decoded piece by piece: as one text it could take four times its UTF-8."""
    load.spend(memory=len(text.utf8))
    decoder = codecs.getincrementaldecoder("utf-8")()
    made = bytearray()
    for start in range(0, len(text.utf8), _CHUNK):
        piece = text.utf8[start : start + _CHUNK]
        made += decoder.decode(piece, final=start + _CHUNK >= len(text.utf8)).encode("latin-1")
    return bytes(made)
