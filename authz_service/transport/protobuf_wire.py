"""Protobuf's wire format, for messages of a few strings and numbers that need no generated code.

Invariants: decoding is linear in the length of a message, and those from peers are short. Groups are refused: proto3
has none.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_TYPE_BITS: Final = 3
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_NUMBER: Final = (1 << 29) - 1
_MAX_VARINT: Final = (1 << 64) - 1
_MORE: Final = 0x80
_LONG_KEY: Final = _MORE >> _TYPE_BITS  # the first field number whose key has two octets
_DOUBLE: Final = struct.Struct("<d").pack
_SHIFTS: Final = range(0, 70, 7)  # of a varint's octets
_MAX_BYTES: Final = 4096  # of a message from a peer, which contains one name or number


class InvalidMessageError(ValueError):
    """A message that cannot be decoded."""


def bounded(message: bytes) -> bytes:
    """A message from a peer.

    Raises:
        InvalidMessageError: if it is longer than any that has a meaning.
    """
    if len(message) > _MAX_BYTES:
        raise InvalidMessageError("the message is too long")
    return message


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of each field: an integer for a varint, octets for a string. Fixed sizes are skipped.

    Raises:
        InvalidMessageError: if the message is invalid.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> _TYPE_BITS, key & (1 << _TYPE_BITS) - 1
        if not 0 < number <= _MAX_NUMBER:
            raise InvalidMessageError("invalid field number")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == _LENGTH:
            size, at = _varint(message, at)
            start, at = at, at + size
            yield number, message[start:at]
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        else:
            raise InvalidMessageError("invalid wire type")
    if at > end:
        raise InvalidMessageError("the message ends within a field")


def string_field(message: bytes, number: int) -> str:
    """The value of a string field, empty if it is absent. Of repeated ones, the last one counts.

    Raises:
        InvalidMessageError: if the message is invalid.
    """
    found = ""
    for each, value in fields(message):
        if each == number and isinstance(value, bytes):
            found = text(value)
    return found


def text(value: bytes) -> str:
    """The text of a string.

    Raises:
        InvalidMessageError: if it is not UTF-8.
    """
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidMessageError("a string is not UTF-8") from None


def number_field(message: bytes, number: int) -> int:
    """The value of an unsigned field, 0 if it is absent. Of repeated ones, the last one counts.

    Raises:
        InvalidMessageError: if the message is invalid.
    """
    found = 0
    for each, value in fields(message):
        if each == number and isinstance(value, int):
            found = value
    return found


def encode_string(number: int, value: bytes) -> bytes:
    """A field that is a string, octets or a message."""
    size = len(value)
    if size < _MORE and number < _LONG_KEY:  # most are: the key and the length have one octet each
        return b"%c%c%b" % (number << _TYPE_BITS | _LENGTH, size, value)
    return _encode(number << _TYPE_BITS | _LENGTH) + _encode(len(value)) + value


def encode_number(number: int, value: int) -> bytes:
    """A field that is a number, which must not be negative."""
    return _encode(number << _TYPE_BITS | _VARINT) + _encode(value)


def encode_double(number: int, value: float) -> bytes:
    """A field that is a double."""
    return _encode(number << _TYPE_BITS | _FIXED64) + _DOUBLE(value)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = 0
    for shift, octet in zip(_SHIFTS, message[at : at + len(_SHIFTS)], strict=False):
        at += 1
        value |= (octet & ~_MORE) << shift
        if octet < _MORE:
            return value & _MAX_VARINT, at
    raise InvalidMessageError("invalid number")


def _encode(value: int) -> bytes:
    """A varint."""
    if value < _MORE:
        return b"%c" % value
    if value < _MORE << 7:
        return b"%c%c" % (value & 0x7F | _MORE, value >> 7)
    octets = []
    while value >= _MORE:
        octets.append(value & 0x7F | _MORE)
        value >>= 7
    return bytes((*octets, value))
