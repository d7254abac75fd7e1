"""Header compression (RFC 7541), on the side of who decodes.

Law: blocks are decoded in the order of their coming, each once, since each may change what the next one means (section
2.2). The time for one grows with its octets, and no further: ``hpack``'s own decoder copies all that follows a literal
with each of them, and 4 MB of small ones took it more than two minutes. Of ``hpack`` this takes the static table and
Huffman's code.

A proxy that traces sends fields with each call that it never sent before, and so changes the table with each: hence
what a block refers to is looked up, not made anew, and literals that come again are recognised by their octets.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from authz_service.transport.http2.fields import Field
from authz_service.transport.http2.frames import ConnectionFault, ErrorCode

MOST_FIELDS: Final = 1000  # of a block; a proxy's has a few dozen
_STATIC: Final = (None, *(Field(name, value) for name, value in HeaderTable.STATIC_TABLE))
_TABLE: Final = 4096  # octets of the dynamic table: the default, which our settings leave
_OVERHEAD: Final = 32  # octets for which an entry counts beside its own (section 4.1)
_INDEXED, _INCREMENTAL, _RESIZE = 0x80, 0x40, 0x20
_INDEX, _NAME_INCREMENTAL, _NAME, _SIZE, _LENGTH = 0x7F, 0x3F, 0x0F, 0x1F, 0x7F  # the prefix of a number: all bits set
_HUFFMAN, _MORE = 0x80, 0x80
_SHIFTS: Final = (0, 7, 14, 21, 28)  # of a number's octets behind its prefix: beyond 32 bits there is nothing to count
_REMEMBERED, _SHORT = 64, 256  # literals, and octets of each


class Decoder:
    """Decodes the blocks of one connection."""

    def __init__(self) -> None:
        self.changes = 0  # of the table: as long as none comes, the same octets mean the same
        self._entries: deque[Field] = deque()  # the newest is the last
        self._octets, self._most = 0, _TABLE
        self._literals: dict[bytes, Field] = {}  # those that refer to no entry, which might be another one later

    def decode(self, block: bytes) -> list[Field]:
        """The fields that a block stands for.

        Raises:
            ConnectionFault: when it can not be decoded, or stands for too many. Nothing after it could be decoded.
        """
        try:
            return self._decode(block)
        except (IndexError, HPACKError):  # it ends amid a field, refers to no entry, or is not Huffman's code
            raise _broken() from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        at, end, resized = 0, len(block), 0
        while at < end:
            first = block[at]
            if first >= _INDEXED:
                index, at = _number(block, at, _INDEX)
                fields.append(self._entry(index))
            elif first >= _INCREMENTAL:
                field, at = self._literal(block, at, _NAME_INCREMENTAL)
                fields.append(field)
                self._add(field)
            elif first >= _RESIZE:
                resized += 1
                size, at = _number(block, at, _SIZE)
                self._resize(size, amid=bool(fields))
            else:
                field, at = self._literal(block, at, _NAME)
                fields.append(field)
            if len(fields) + resized > MOST_FIELDS:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list of too many fields")
        return fields

    def _entry(self, index: int) -> Field:
        """Section 2.3.3."""
        field = _STATIC[index] if index < len(_STATIC) else self._entries[len(_STATIC) - index - 1]
        if field is None:
            raise _broken()
        return field

    def _literal(self, block: bytes, start: int, prefix: int) -> tuple[Field, int]:
        """Section 6.2."""
        index, at = _number(block, start, prefix)
        behind = at if index else _after_string(block, at)
        end = _after_string(block, behind)
        octets = block[start:end] if index < len(_STATIC) and end - start <= _SHORT else b""
        if (known := self._literals.get(octets)) is not None:
            return known, end
        field = Field(self._entry(index).name if index else _string(block, at), _string(block, behind))
        if octets:
            if len(self._literals) >= _REMEMBERED:
                self._literals.clear()
            self._literals[octets] = field
        return field, end

    # The dynamic table (section 4).

    def _add(self, field: Field) -> None:
        self.changes += 1
        self._entries.append(field)
        self._octets += _size(field)
        self._evict()

    def _resize(self, most: int, *, amid: bool) -> None:
        if amid or most > _TABLE:
            raise _broken()
        self.changes += 1
        self._most = most
        self._evict()

    def _evict(self) -> None:
        while self._octets > self._most:
            self._octets -= _size(self._entries.popleft())


def _size(field: Field) -> int:
    return len(field.name) + len(field.value) + _OVERHEAD


def _number(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """A number and where it ends (section 5.1)."""
    number = block[at] & prefix
    at += 1
    if number == prefix:
        for shift in _SHIFTS:
            octet = block[at]
            at += 1
            number += (octet & ~_MORE) << shift
            if octet < _MORE:
                return number, at
        raise _broken()
    return number, at


def _after_string(block: bytes, at: int) -> int:
    size, at = _number(block, at, _LENGTH)
    if at + size > len(block):
        raise _broken()
    return at + size


def _string(block: bytes, at: int) -> bytes:
    """Section 5.2."""
    size, start = _number(block, at, _LENGTH)
    octets = block[start : start + size]
    return decode_huffman(octets) if block[at] & _HUFFMAN else octets


def _broken() -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block can not be decoded")
