"""Header compression (RFC 7541), on the side of who decodes.

Invariants: blocks are decoded in the order of their coming, each once, since each may change what the next one means
(section 2.2). The time for one grows with its octets, and no further: ``hpack``'s own decoder copies all that follows a
literal with each of them, and 4 MB of small ones took it more than two minutes. Of ``hpack`` this takes the static
table and Huffman's code.

A proxy that traces sends fields with each call that it never sent before, and so changes the table with each: hence
what a block refers to is looked up, not made anew, and literals that come again are recognized by their octets. Some of
those fields are the client's, up to 60 KiB of them, so a string is decoded only where somebody needs it: because its
field is read, because the table must know its length, or because it is short. A longer one is never found to be broken
code, which harms nobody, since it is never read either.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hpack.table import HeaderTable

from authz_service.transport.http2 import huffman
from authz_service.transport.http2.fields import READ, Field
from authz_service.transport.http2.frames import ConnectionFault, ErrorCode

# A list of more octets (RFC 9113 section 6.5.2) is too long to be read; nor are more octets of Huffman's code decoded
# for one. A call of Envoy's has a few hundred, and what it copies of a client's headers: 60 KiB, unless told otherwise.
MAX_HEADER_LIST: Final = 96 << 10
MAX_FIELDS_BEYOND: Final = 1024  # behind that end: they are only decoded for what they do to the table
_MAX_RESIZES: Final = 64  # of the table, in front of a block: two can say all
_STATIC: Final = (None, *(Field(name, value) for name, value in HeaderTable.STATIC_TABLE))
_TABLE: Final = 4096  # octets of the dynamic table: the default, which our settings leave
# A longer string is never decoded: it has more characters than any entry, also where each takes the longest code.
MAX_STRING: Final = _TABLE * huffman.MAX_CODE // 8
_INDEXED, _INCREMENTAL, _RESIZE = 0x80, 0x40, 0x20
_INDEX, _NAME_INCREMENTAL, _NAME, _SIZE, _LENGTH = 0x7F, 0x3F, 0x0F, 0x1F, 0x7F  # the prefix of a number: all bits set
_HUFFMAN, _MORE = 0x80, 0x80
_SHIFTS: Final = (0, 7, 14, 21, 28)  # of a number's octets behind its prefix: beyond 32 bits there is nothing to count
_REMEMBERED, _SHORT = 32, 256  # literals, and octets of each; and of a string that is decoded though nobody needs it


class Decoder:
    """Decodes the blocks of one connection."""

    def __init__(self) -> None:
        self.changes = 0  # of the table: as long as none comes, the same octets mean the same
        self._entries: deque[Field] = deque()  # the newest is the last
        self._octets, self._most = 0, _TABLE
        self.literals: dict[bytes, Field] = {}  # those that refer to no entry, which might be another one later

    def decode(self, octets: bytes) -> Block:
        """A block that is there as a whole.

        Raises:
            ConnectionFault: when it cannot be decoded, or stands for too much. Nothing after it could be decoded.
        """
        block = Block(self)
        block.feed(octets)
        block.end()
        return block

    def entry(self, index: int) -> Field:
        """What an index refers to (section 2.3.3).

        Raises:
            ConnectionFault: when it refers to nothing.
        """
        try:
            field = _STATIC[index] if index < len(_STATIC) else self._entries[len(_STATIC) - index - 1]
        except IndexError:
            field = None
        if field is None:
            raise _broken()
        return field

    # The dynamic table (section 4).

    def add(self, field: Field) -> None:
        """A new entry. One that is too long to be decoded is larger than the table, and so empties it."""
        self.changes += 1
        if field.value is None:
            self._entries.clear()
            self._octets = 0
            return
        self._entries.append(field)
        self._octets += field.octets
        self._evict()

    def resize(self, most: int) -> None:
        """Another size.

        Raises:
            ConnectionFault: when it is more than we allow.
        """
        if most > _TABLE:
            raise _broken()
        self.changes += 1
        self._most = most
        self._evict()

    def _evict(self) -> None:
        while self._octets > self._most:
            self._octets -= self._entries.popleft().octets


class Block:
    """A header block, decoded as its parts come.

    Where a part ends amid a field, its beginning waits for the next one: twice ``MAX_STRING`` at most, since nothing is
    kept of a longer string.
    """

    __slots__ = ("_beyond", "_decoder", "_huffman", "_resized", "_rest", "_skip", "fields", "octets")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rest = b""
        self._skip = 0  # octets of a string that are still to come, and that nobody needs
        self._huffman = MAX_HEADER_LIST  # octets of it that may still be decoded
        self._resized = self._beyond = 0
        self.octets = 0  # of the list
        self.fields: list[Field] = []  # those that are not beyond its end

    @property
    def too_long(self) -> bool:
        """Whether the list is longer than one that is read. It was decoded all the same, for the sake of the table."""
        return self.octets > MAX_HEADER_LIST

    def feed(self, part: bytes) -> None:
        """Take the next part.

        Raises:
            ConnectionFault: as ``Decoder.decode``.
        """
        if self._skip:
            part, self._skip = part[self._skip :], max(self._skip - len(part), 0)
        block = self._rest + part if self._rest else part
        self._rest = b""
        decoder, fields, octets = self._decoder, self.fields, self.octets
        at, start, end = 0, 0, len(block)
        try:
            while at < end:
                start, first = at, block[at]
                if first >= _INDEXED:
                    index, at = _number(block, at, _INDEX)
                    field = decoder.entry(index)
                elif first >= _INCREMENTAL:
                    field, at = self._literal(block, at, _NAME_INCREMENTAL)
                    decoder.add(field)
                elif first >= _RESIZE:
                    size, at = _number(block, at, _SIZE)
                    self._resize(size, amid=octets > 0)
                    continue
                else:
                    field, at = self._literal(block, at, _NAME)
                octets += field.octets
                if octets > MAX_HEADER_LIST:
                    self._count_beyond()
                else:
                    fields.append(field)
        except IndexError:  # the part ends amid a field
            self._rest = block[start:]
        self.octets = octets

    def end(self) -> None:
        """There is no more of it.

        Raises:
            ConnectionFault: when it ends amid a field.
        """
        if self._rest or self._skip:
            raise _broken()

    def _resize(self, size: int, *, amid: bool) -> None:
        """Section 4.2: at the beginning of the block alone."""
        if amid:
            raise _broken()
        self._resized += 1
        if self._resized > _MAX_RESIZES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "sizes of the table without end")
        self._decoder.resize(size)

    def _count_beyond(self) -> None:
        self._beyond += 1
        if self._beyond > MAX_FIELDS_BEYOND:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list without end")

    def _literal(self, block: bytes, start: int, prefix: int) -> tuple[Field, int]:
        """Section 6.2."""
        index, at = _number(block, start, prefix)
        behind = at if index else _after_name(block, at)
        size, value_at = _number(block, behind, _LENGTH)
        end = value_at + size
        if end > len(block):
            if size <= MAX_STRING:
                raise IndexError
            self._skip, end = end - len(block), len(block)
        literals = self._decoder.literals
        octets = block[start:end] if index < len(_STATIC) and end - start <= _SHORT else b""
        if (known := literals.get(octets)) is not None:
            return known, end
        like = self._decoder.entry(index) if index else None
        name = self._decoded(block, at) if like is None else like.name
        wanted = prefix == _NAME_INCREMENTAL or name in READ
        worth = MAX_STRING if wanted else min(_SHORT, self._huffman)
        field = Field(name, self._decoded(block, behind) if size <= worth else None, size, like)
        if octets and field.value is not None:
            if len(literals) >= _REMEMBERED:
                literals.clear()
            literals[octets] = field
        return field, end

    def _decoded(self, block: bytes, at: int) -> bytes:
        """The string that begins here (section 5.2)."""
        size, start = _number(block, at, _LENGTH)
        octets = block[start : start + size]
        if block[at] < _HUFFMAN:
            return octets
        self._huffman -= size
        if self._huffman < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "more of Huffman's code than a header list is long")
        try:
            return huffman.decode(octets)
        except ValueError:
            raise _broken() from None


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


def _after_name(block: bytes, at: int) -> int:
    """Where a name ends, which is there as a whole."""
    size, at = _number(block, at, _LENGTH)
    if size > MAX_STRING:
        raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a field name without end")
    if at + size > len(block):
        raise IndexError
    return at + size


def _broken() -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be decoded")
