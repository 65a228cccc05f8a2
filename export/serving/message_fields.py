"""Count the fields of a protobuf message before it is parsed: a byte pair may become an object of a hundred bytes."""

from __future__ import annotations

from typing import Any

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not in proto3
MOST_VARINT = 10  # bytes


class TooManyFields(ValueError):
    """The message has more fields than allowed."""


def count_fields(content: bytes, message: Any, *, most: int) -> int:
    """Return the number of fields of a message and of the messages inside. ``message`` is its protobuf descriptor.

    Repeated numbers in their packed form are one field. Stops with TooManyFields after ``most``. Raises ValueError if
    the content is cut off or has a group.
    """
    found, waiting = 0, [(0, len(content), message)]
    while waiting:
        place, end, descriptor = waiting.pop()
        while place < end:
            found += 1
            if found > most:
                raise TooManyFields(f"more than {most} fields")
            tag, place = _varint(content, place, end)
            start, place = _value(content, place, end, tag & 7)
            field = descriptor.fields_by_number.get(tag >> 3)
            if field is not None and field.message_type is not None and tag & 7 == DELIMITED:
                waiting.append((start, place, field.message_type))
    return found


def _value(content: bytes, place: int, end: int, kind: int) -> tuple[int, int]:
    """Return where the value of a field starts and ends."""
    if kind == VARINT:
        after = _varint(content, place, end)[1]
    elif kind == DELIMITED:
        size, place = _varint(content, place, end)
        after = place + size
    elif kind in (FIXED64, FIXED32):
        after = place + (8 if kind == FIXED64 else 4)
    else:
        raise ValueError(f"wire type {kind}")
    if after > end:
        raise ValueError("the message is cut off")
    return place, after


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    """Return a number of variable length, and the place after it."""
    number = 0
    for shift in range(min(MOST_VARINT, end - place)):
        byte = content[place + shift]
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, place + shift + 1
    raise ValueError("a number has no end")
