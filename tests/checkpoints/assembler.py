"""Writes pickles instruction by instruction, including ones that no pickler writes."""

from __future__ import annotations

import pickle
import struct

PROTO = pickle.PROTO + b"\x04"
STOP = pickle.STOP
MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def raw(value: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def name(module: str, attribute: str) -> bytes:
    """Return a global as in protocol 4."""
    return text(module) + text(attribute) + pickle.STACK_GLOBAL


def listed(*values: bytes) -> bytes:
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(values) + pickle.APPENDS


def tupled(*values: bytes) -> bytes:
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def mapped(*pairs: tuple[bytes, bytes]) -> bytes:
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(key + value for key, value in pairs) + pickle.SETITEMS


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tupled(*arguments) + pickle.REDUCE


def whole(body: bytes) -> bytes:
    """Return a complete pickle with the value of ``body``."""
    return PROTO + body + STOP


def storage(
    data: bytes,
    *,
    kind: str = "FloatStorage",
    numel: int | None = None,
    announced: int | None = None,
    module: str = "torch",
    magic: int = MAGIC,
    little: bytes = pickle.NEWTRUE,
) -> bytes:
    """Return the stream that torch.save wrote for one storage before its zip format."""
    count = len(data) // 4 if numel is None else numel
    key = tupled(text("storage"), name(module, kind), text("7"), text("cpu"), number(count), pickle.NONE)
    return b"".join(
        [
            whole(number(magic)),
            whole(number(1001)),
            whole(mapped((text("protocol_version"), number(1001)), (text("little_endian"), little))),
            whole(key + pickle.BINPERSID),
            whole(listed(text("7"))),
            struct.pack("<q", count if announced is None else announced),
            data,
        ]
    )


def tensor(
    stream: bytes, *, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, via: str = "torch.storage"
) -> bytes:
    """Return a call of torch's rebuild function on a nested stream."""
    sizes, strides = (tupled(*map(number, values)) for values in (size, stride))
    load = call(name(via, "_load_from_bytes"), raw(stream))
    hooks = call(name("collections", "OrderedDict"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, load, number(offset), sizes, strides, pickle.NEWFALSE, hooks)


def module(class_name: str, *, parameters: bytes = pickle.EMPTY_DICT, modules: bytes = pickle.EMPTY_DICT) -> bytes:
    """Return a persistent module."""
    state = mapped(
        (text("_parameters"), parameters),
        (text("_buffers"), pickle.EMPTY_DICT),
        (text("_modules"), modules),
    )
    meta = mapped((text("class_name"), text(class_name)), (text("version"), number(6)), (text("state"), state))
    return call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def snapshot(generator: bytes) -> bytes:
    """Return a snapshot with this value under G_ema."""
    return whole(mapped((text("G_ema"), generator)))
