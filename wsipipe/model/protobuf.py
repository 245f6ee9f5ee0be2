"""The fields of a protobuf message, without its schema and without copying them.

A file of networks is one message of up to 2 GB; a memory map of it is read only where it is looked at.

Source: `Protocol Buffers, Encoding <https://protobuf.dev/programming-guides/encoding/>`_.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTHS = {FIXED64: 8, FIXED32: 4}
"""Bytes of a value of fixed width, by its wire type."""
LONGEST_VARINT = 10
"""Bytes of a 64-bit number, 7 bits in each."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    """Its number in the schema."""
    value: int | memoryview
    """A whole number (unsigned), or the bytes of a text, a submessage or a value of fixed width."""
    record: memoryview
    """The field as it stands in the message, with its number."""


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of ``message``, in their order.

    Raises
    ------
    ValueError
        If it is not a protobuf message, or is truncated.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        number, wire_type = key >> 3, key & 7
        value: int | memoryview
        if wire_type == VARINT:
            value, at = _read_varint(message, at)
        else:
            if wire_type == BYTES:
                length, at = _read_varint(message, at)
            elif wire_type in WIDTHS:
                length = WIDTHS[wire_type]
            else:
                raise ValueError(f"wire type {wire_type} at byte {start}")
            value, at = message[at : at + length], at + length
        if number == 0 or at > len(message):
            raise ValueError(f"field {number} at byte {start} does not end within the message")
        yield Field(number, value, message[start:at])


def submessages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The bytes of each field ``number`` of ``message`` that has bytes."""
    for field in fields(message):
        if field.number == number and isinstance(field.value, memoryview):
            yield field.value


def text(message: memoryview, number: int) -> str:
    """The last text that field ``number`` has, as protobuf has it; empty if there is none."""
    found = ""
    for value in submessages(message, number):
        found = str(value, "utf-8")
    return found


def whole_number(message: memoryview, number: int) -> int | None:
    """The last number that field ``number`` has, None if there is none."""
    found = None
    for field in fields(message):
        if field.number == number and isinstance(field.value, int):
            found = field.value
    return found


def text_field(number: int, content: bytes) -> bytes:
    """Field ``number`` with ``content``: a text, or a submessage."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at byte ``at``, and where it ends."""
    value = 0
    for place in range(LONGEST_VARINT):
        if at + place >= len(message):
            raise ValueError(f"a number at byte {at} does not end within the message")
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"a number at byte {at} has more than {LONGEST_VARINT} bytes")


def _varint(value: int) -> bytes:
    """``value``, 0 or more, as a varint."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
