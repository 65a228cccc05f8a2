"""Stand-ins for what Python itself puts into a pickle: ordered dictionaries, sets, and bytes written as text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Any

from .values import Global, Load, LongText

_CHUNK = 1 << 20


class OrderedRecord(dict[Any, Any]):
    """An OrderedDict. The bookkeeping that torch hangs on a state dict as an attribute is dropped."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Nothing: an attribute of a dictionary is no part of a checkpoint."""


def python_stand_ins(load: Load) -> Mapping[Global, Callable[..., Any]]:
    """Name to stand-in, made afresh for every load. OrderedRecord takes BUILD."""

    def ordered(pairs: Any = ()) -> OrderedRecord:
        if type(pairs) not in (list, tuple):
            raise load.damaged("an OrderedDict is made of something that is no list of pairs")
        made = OrderedRecord()
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str:
                raise load.damaged("an OrderedDict is made of something that is no list of names and values")
            made[pair[0]] = pair[1]
        return made

    def members(values: Any = ()) -> set[str]:
        """Sets in these files hold names of buffers."""
        if type(values) not in (list, tuple) or any(type(value) is not str for value in values):
            raise load.damaged("a set is made of something that is no list of names")
        return set(values)

    def encoded(text: Any, encoding: Any = "latin1") -> bytes:
        """Protocol 2 has no bytes: they are written as a text of the code points 0 to 255."""
        if encoding not in ("latin1", "latin-1"):
            raise load.damaged("bytes are written in an encoding that is not latin-1")
        if type(text) is str:
            load.spend(memory=len(text))
            return text.encode("latin-1")
        if type(text) is not LongText:
            raise load.damaged("bytes are made of something that is no text")
        return _latin1(text, load)

    def empty_bytes() -> bytes:
        return b""

    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): ordered,
        ("builtins", "set"): members,
        ("__builtin__", "set"): members,
        ("_codecs", "encode"): encoded,
        ("builtins", "bytes"): empty_bytes,
        ("__builtin__", "bytes"): empty_bytes,
    }
    return {Global(*name): function for name, function in names.items()}


def _latin1(text: LongText, load: Load) -> bytes:
    """The bytes behind a long text, decoded piece by piece: as one text it could take four times its UTF-8."""
    load.spend(memory=len(text.utf8))
    decoder = codecs.getincrementaldecoder("utf-8")()
    made = bytearray()
    for start in range(0, len(text.utf8), _CHUNK):
        piece = text.utf8[start : start + _CHUNK]
        made += decoder.decode(piece, final=start + _CHUNK >= len(text.utf8)).encode("latin-1")
    return bytes(made)
