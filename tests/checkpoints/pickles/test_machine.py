"""The machine reads what Python's pickler writes, imports nothing, and survives any other input."""

from __future__ import annotations

import pickle
import pickletools
import struct
import sys
from collections import defaultdict
from contextlib import suppress
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcp_deploy.checkpoints.pickles.python_values import OrderedRecord, python_stand_ins
from dcp_deploy.checkpoints.pickles.reading import run_pickle
from dcp_deploy.checkpoints.pickles.values import Global, Inert, Load, LongText, Symbol
from dcp_deploy.errors import CorruptFileError, InputError, UnsafeFileError

from .. import assembler as a


def run(data: bytes, load: Load | None = None, **options: Any) -> Any:
    load = load or Load.of("file", len(data))
    options = {"allowed": python_stand_ins(load).get, **options}
    return run_pickle(memoryview(data), load=load, **options)[0]


def plain(value: Any) -> Any:
    """Return a value with all views as bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value


# ---- values in pickles ----

SCALARS = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False)
KEYS = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**80), 2**80) | st.booleans() | st.none()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.lists(inner).map(tuple),
    max_leaves=30,
)
VALUES = st.recursive(PLAIN | st.binary() | st.sets(KEYS) | st.frozensets(KEYS), st.lists, max_leaves=10)


@given(VALUES, st.sampled_from([4, 5]))
@example([b"x" * 70_000, "y" * 70_000, 1 << 300, (1, 2, 3, 4)], 4)
def test_values_of_python_are_read_unchanged(value: Any, protocol: int) -> None:
    assert plain(run(pickle.dumps(value, protocol))) == value


@given(PLAIN | st.sets(TEXTS), st.sampled_from([2, 3]))
@example({"a": [1, 2.5, (None, True)], "b": {"c": {"name"}, 3: "x"}}, 2)
def test_values_in_the_older_protocols_are_read_unchanged(value: Any, protocol: int) -> None:
    assert plain(run(pickle.dumps(value, protocol))) == value


def test_bytes_of_protocol_2_are_decoded_from_text() -> None:
    for value in (b"", bytes(range(256)), bytes(range(256)) * 10_000):
        assert run(pickle.dumps(value, 2)) == value


def test_byte_strings_are_views_of_the_file() -> None:
    data = memoryview(pickle.dumps([b"x" * 1000], 4))
    value = run_pickle(data, load=Load.of("file", len(data)), allowed={}.get)[0]
    assert value[0].obj is data.obj


def test_long_texts_are_left_undecoded() -> None:
    value = run(pickle.dumps("\u20ac" * 500_000, 4))
    assert isinstance(value, LongText)
    assert str(value.utf8, "utf-8") == "\u20ac" * 500_000


def test_shared_and_cyclic_containers_stay_shared() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    value = run(pickle.dumps({"a": shared, "b": shared}, 4))
    assert value["a"] is value["b"] is value["a"][1]


def test_the_end_of_the_pickle_is_returned() -> None:
    data = pickle.dumps([1], 4)
    assert run_pickle(memoryview(data + b"more"), load=Load.of("file", 9), allowed={}.get)[1] == len(data)


def test_ordered_dictionaries_lose_their_attributes() -> None:
    made = a.call(a.name("collections", "OrderedDict"), a.listed(a.tupled(a.text("x"), a.number(1))))
    with_state = made + a.mapped((a.text("_metadata"), a.number(3))) + pickle.BUILD
    value = run(a.whole(with_state), buildable=(OrderedRecord,))
    assert value == {"x": 1}
    assert not hasattr(value, "_metadata")


# ---- globals ----


def test_every_global_is_recorded_and_only_known_ones_are_called() -> None:
    load = Load.of("file", 100)
    called = a.call(a.name("made.up", "thing"), a.number(4))
    assert run(a.whole(called), load, allowed={Global("made.up", "thing"): lambda n: n + 1}.get) == 5
    assert list(load.globals) == [("made.up", "thing")]


def test_a_global_that_is_not_called_is_a_symbol() -> None:
    value = run(a.whole(a.name("m", "n")), allowed=lambda name: print)
    assert isinstance(value, Symbol)
    assert str(value.name) == "m.n"


@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL"])
def test_an_unknown_global_is_inert_and_not_imported(opcode: str) -> None:
    short = b"cantigravity\nfly\n"
    name = short if opcode == "GLOBAL" else a.name("antigravity", "fly")
    load = Load.of("file", 100)
    value = run(a.whole(a.call(name, a.number(3))), load)
    assert isinstance(value, Inert)
    assert value.name == "antigravity.fly"
    assert list(load.unread) == [("antigravity", "fly")]
    assert "antigravity" not in sys.modules


UNKNOWN = a.name("made.up", "Thing")


@pytest.mark.parametrize(
    "body",
    [
        a.call(UNKNOWN, a.number(1)) + a.tupled(a.number(2)) + pickle.REDUCE,
        UNKNOWN + a.tupled() + pickle.NEWOBJ,
        UNKNOWN + a.tupled(a.number(1)) + a.mapped((a.text("x"), a.number(1))) + pickle.NEWOBJ_EX,
        a.call(UNKNOWN) + a.number(1) + pickle.APPEND,
        a.call(UNKNOWN) + pickle.MARK + a.number(1) + a.number(2) + pickle.APPENDS,
        a.call(UNKNOWN) + pickle.MARK + a.number(1) + pickle.ADDITEMS,
        a.call(UNKNOWN) + a.tupled(pickle.NONE, a.mapped((a.text("__class__"), a.number(1)))) + pickle.BUILD,
    ],
    ids=["called", "made", "made with names", "append", "appends", "members", "state"],
)
def test_what_is_made_from_an_inert_value_is_inert(body: bytes) -> None:
    value = run(a.whole(body))
    assert type(value) is Inert
    assert value == {}
    assert value.name == "made.up.Thing"


def test_an_inert_dictionary_keeps_its_entries_and_an_inert_object_its_state() -> None:
    entry = a.text("size") + a.number(8) + pickle.SETITEM
    assert run(a.whole(a.call(UNKNOWN) + entry)) == {"size": 8}
    assert run(a.whole(a.call(UNKNOWN) + a.mapped((a.text("size"), a.number(8))) + pickle.BUILD)).state == {"size": 8}


def test_a_state_for_an_unknown_class_itself_changes_nothing() -> None:
    state = a.mapped((a.text("name"), a.number(8)))
    value = run(a.whole(UNKNOWN + state + pickle.BUILD + a.tupled() + pickle.REDUCE))
    assert (value.name, value.state) == ("made.up.Thing", None)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("sys", "modules"),
        ("socket", "socket"), ("_socket", "socket"), ("importlib._bootstrap", "_gcd_import"), ("ctypes", "CDLL"),
        ("builtins", "eval"), ("builtins", "getattr"), ("__builtin__", "execfile"), ("builtins", "__import__"),
        ("pathlib", "os.system"), ("collections", "_sys.modules"), ("shutil", "rmtree"), ("_pickle", "loads"),
    ],
)  # fmt: skip
def test_hostile_names_are_refused_wherever_they_stand(module: str, name: str) -> None:
    with pytest.raises(UnsafeFileError, match="not executed") as caught:
        run(a.whole(a.name(module, name) + pickle.POP + a.number(1)))
    assert f"{module}.{name}" in str(caught.value)


@pytest.mark.parametrize(("module", "name"), [("scipy.signal", "kaiser"), ("osmium", "x"), ("torch.nn", "Module.io2")])
def test_names_that_only_resemble_hostile_ones_are_inert(module: str, name: str) -> None:
    assert type(run(a.whole(a.call(a.name(module, name))))) is Inert


def test_names_that_would_disturb_a_terminal_are_escaped_and_cut() -> None:
    with pytest.raises(UnsafeFileError) as caught:
        run(a.whole(a.name("os", "\x1b[31m\n" + "x" * 5000)))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


UNUSED = {
    "INT", "LONG", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "FLOAT", "PUT", "GET", "PERSID",
    "INST", "OBJ", "DUP", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip


@pytest.mark.parametrize("opcode", sorted({op.name for op in pickletools.opcodes}))
def test_instructions_that_no_checkpoint_uses_are_refused_by_name(opcode: str) -> None:
    code = next(op.code for op in pickletools.opcodes if op.name == opcode).encode("latin-1")
    message = ""
    try:
        run(code + bytes(16))
    except CorruptFileError as error:
        message = str(error)
    assert (f"no checkpoint uses the instruction {opcode}" in message) == (opcode in UNUSED)


# ---- damage and hostility ----


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_an_error_of_ours(data: bytes) -> None:
    with suppress(InputError):
        run(b"\x80\x04" + data)


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no stop": a.PROTO + a.number(1),
    "an empty stack": a.PROTO + a.STOP,
    "values left over": a.whole(a.number(1) + a.number(2)),
    "a mark left over": a.whole(pickle.MARK + a.number(1)),
    "no mark": a.whole(pickle.TUPLE),
    "values below the mark": a.whole(a.number(1) + a.number(2) + pickle.MARK + pickle.TUPLE2),
    "a memo entry that is not there": a.whole(pickle.LONG_BINGET + b"\xff\xff\xff\xff"),
    "a protocol of the future": b"\x80\x09N.",
    "a text that is not UTF-8": a.whole(pickle.SHORT_BINUNICODE + b"\x01\xff"),
    "a long text announced": a.whole(pickle.BINUNICODE8 + struct.pack("<Q", 1 << 62)),
    "long bytes announced": a.whole(pickle.BINBYTES8 + struct.pack("<Q", (1 << 64) - 1)),
    "a long frame announced": a.whole(pickle.FRAME + struct.pack("<Q", 1 << 40)),
    "an integer of negative length": a.whole(pickle.LONG4 + struct.pack("<i", -1)),
    "a list as a key": a.whole(a.mapped((a.listed(), a.number(1)))),
    "a key without a value": a.whole(pickle.EMPTY_DICT + pickle.MARK + a.text("x") + pickle.SETITEMS),
    "entries in a list": a.whole(a.listed() + a.text("x") + a.number(1) + pickle.SETITEM),
    "appending to a tuple": a.whole(a.tupled() + a.number(1) + pickle.APPEND),
    "a list in a set": a.whole(pickle.EMPTY_SET + pickle.MARK + a.listed() + pickle.ADDITEMS),
    "arguments by name for a known global": a.whole(
        a.name("builtins", "set") + a.tupled() + a.mapped((a.text("x"), a.number(1))) + pickle.NEWOBJ_EX
    ),
    "members in a dictionary": a.whole(a.mapped() + pickle.MARK + a.number(1) + pickle.ADDITEMS),
    "a call of a number": a.whole(a.number(1) + a.tupled() + pickle.REDUCE),
    "a call with a list": a.whole(a.name("builtins", "set") + a.listed() + pickle.REDUCE),
    "too many arguments": a.whole(a.call(a.name("builtins", "set"), a.number(1), a.number(2))),
    "a global named by a number": a.whole(a.number(1) + a.text("x") + pickle.STACK_GLOBAL),
    "a global without an end": a.PROTO + b"c" + b"x" * 5000,
    "a state for a dictionary": a.whole(a.mapped() + a.mapped() + pickle.BUILD),
    "a state for a stand-in": a.whole(a.name("builtins", "set") + a.mapped() + pickle.BUILD),
    "a persistent id": a.whole(a.text("x") + pickle.BINPERSID),
    "text beyond latin-1 as bytes": a.whole(a.call(a.name("_codecs", "encode"), a.text("\u20ac"))),
}


@pytest.mark.parametrize("what", BROKEN)
def test_damage_is_one_of_our_errors(what: str) -> None:
    with pytest.raises(CorruptFileError, match="file"):
        run(BROKEN[what])


@given(st.data())
def test_a_pickle_cut_anywhere_is_refused(data: st.DataObject) -> None:
    whole = pickle.dumps({"a": [1, 2.5, "text", b"bytes", (None, {1, 2})] * 3, "b": 1 << 99}, 4)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptFileError):
        run(whole[:cut])


def test_a_memo_index_costs_nothing() -> None:
    far = b"\xff\xff\xff\xff"
    assert run(a.whole(a.number(5) + pickle.LONG_BINPUT + far + pickle.LONG_BINGET + far + pickle.POP)) == 5


def test_nesting_is_unlimited_and_needs_no_recursion() -> None:
    value = run(b"\x80\x04" + pickle.EMPTY_LIST * 100_000 + pickle.APPEND * 99_999 + b".")
    depth = 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == 99_999


def test_steps_are_bounded() -> None:
    with pytest.raises(CorruptFileError, match="2,000,000 steps"):
        run(b"\x80\x04" + (pickle.NONE + pickle.POP) * 1_000_001 + b"N.")


def test_containers_spend_memory_for_what_they_are_larger_than_their_byte_in_the_file() -> None:
    with pytest.raises(CorruptFileError, match="memory"):
        run(a.whole(a.listed(pickle.EMPTY_SET * 200_000)))


def test_file_names_that_are_not_utf8_are_read() -> None:
    assert run(pickle.dumps("/data/\udcff", 4)) == "/data/\udcff"


def test_calls_spend_steps_for_the_lists_that_they_read() -> None:
    items = a.listed(*[pickle.SHORT_BINUNICODE + b"\x01x"] * 50_000) + pickle.MEMOIZE + pickle.POP
    again = a.name("builtins", "set") + pickle.BINGET + b"\x00" + pickle.TUPLE1 + pickle.REDUCE + pickle.POP
    with pytest.raises(CorruptFileError, match="steps"):
        run(a.whole(items + again * 1000 + pickle.NONE))


def test_decoding_one_text_repeatedly_is_bounded() -> None:
    body = a.text("x" * 3_000_000) + pickle.MEMOIZE + pickle.POP
    again = a.name("_codecs", "encode") + pickle.BINGET + b"\x00" + pickle.TUPLE1 + pickle.REDUCE + pickle.POP
    with pytest.raises(CorruptFileError, match="memory"):
        run(a.whole(body + again * 1000 + pickle.NONE))


def test_texts_that_grow_when_decoded_are_bounded() -> None:
    with pytest.raises(CorruptFileError, match="memory"):
        run(a.whole(a.listed(*[a.text("\U0001f600" + "x" * 1_000_000)] * 20)))


def test_only_the_first_numbers_are_keys_that_can_be_found() -> None:
    value = run(a.whole(a.mapped(*[(a.number(n), pickle.NONE) for n in range(5000)])))
    assert len(value) == 5000
    assert sum(type(key) is int for key in value) == 4096


@pytest.mark.parametrize(
    "key",
    [a.tupled(a.text("x")), pickle.BINFLOAT + bytes(8), a.raw(b"x"), a.call(UNKNOWN)],
    ids=["tuple", "float", "bytes", "inert"],
)
def test_keys_of_other_types_are_kept_apart_and_never_hashed(key: bytes) -> None:
    value = run(a.whole(a.mapped((key, a.number(1)), (key, a.number(2)), (a.text("x"), a.number(3)))))
    assert list(value.values()) == [1, 2, 3]
    assert value["x"] == 3


def test_bytes_in_another_encoding_and_huge_integers_are_inert() -> None:
    assert type(run(a.whole(a.call(a.name("_codecs", "encode"), a.text("x"), a.text("hex"))))) is Inert
    assert type(run(a.whole(pickle.LONG4 + struct.pack("<I", 1 << 20) + bytes(1 << 20)))) is Inert


def test_long_chains_of_inert_values_need_no_recursion() -> None:
    calls = a.call(UNKNOWN) + (pickle.EMPTY_TUPLE + pickle.REDUCE) * 100_000
    assert type(run(a.whole(calls))) is Inert
    first = a.call(UNKNOWN) + pickle.MEMOIZE
    states = (pickle.BINGET + b"\x00" + pickle.EMPTY_TUPLE + pickle.REDUCE) * 60_000 + pickle.BUILD * 60_000
    assert type(run(a.whole(first + states))) is Inert


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_of_the_standard_library_are_read_or_inert(protocol: int) -> None:
    value = {
        "path": PurePosixPath("/data/x"), "when": datetime(2020, 1, 1), "slice": slice(1, 2), "z": 1 + 2j,
        "counts": defaultdict(list, {"a": [1]}), "set": {1, 2.5, (3, 4)}, "ids": {(1, 2): 3}, "frozen": frozenset("x"),
    }  # fmt: skip
    read = run(pickle.dumps(value, protocol))
    assert list(read) == list(value)
    assert read["counts"] == {"a": [1]}
    assert len(read["set"]) == 3
    assert 1 in read["set"] and read["frozen"] == {"x"}
    assert [type(read[name]) for name in ("path", "when", "slice", "z")] == [Inert] * 4


def test_loads_do_not_share_values() -> None:
    call = a.whole(a.call(a.name("collections", "OrderedDict")))
    first = run(call)
    first["x"] = 1
    assert run(call) == {}
