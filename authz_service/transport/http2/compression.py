"""HPACK (RFC 7541): decoding the field blocks of requests, and encoding those of responses.

Invariants: field blocks are decoded in the order of their arrival, each once, because each may change the dynamic table
(section 2.2). The time for one grows linearly with its octets: copying the rest of a block for each literal would take
minutes for 4 MB of short ones.

A tracing proxy sends new fields with every request, and so changes the table every time. Therefore the fields that a
block refers to are looked up, not created again, and repeated literals are recognized by their octets. Some of those
fields come from the client and have up to 60 KiB, so a string is decoded only if it is needed: its field is used, the
table needs its length, or it is short. Invalid Huffman code in a longer string goes unnoticed, and does no harm,
because nothing reads it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from authz_service.transport.http2 import huffman
from authz_service.transport.http2.fields import USED, Field
from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError
from authz_service.transport.http2.static_table import STATIC_TABLE

# A longer header list (RFC 9113 section 6.5.2) makes a request unserved, and no more octets of Huffman code are decoded
# for one. Envoy sends a few hundred octets, plus what it copies from the client: at most 60 KiB by default.
MAX_HEADER_LIST: Final = 96 << 10
MAX_EXCESS_FIELDS: Final = 1024  # beyond that length: they are decoded only for their effect on the table
_MAX_RESIZES: Final = 64  # of the table, at the beginning of a block: a sender needs two
_STATIC: Final = (Field(b"", b""), *(Field(name, value) for name, value in STATIC_TABLE))  # index 0 is not used
_STATIC_SIZE: Final = len(_STATIC)
_MAX_TABLE: Final = 4096  # octets of the dynamic table: the default, which our settings do not change
# A longer string is never decoded: even with the longest codes it exceeds any entry of the table.
MAX_STRING: Final = _MAX_TABLE * huffman.MAX_CODE // 8
_INDEXED, _INCREMENTAL, _RESIZE = 0x80, 0x40, 0x20
_INDEX, _NAME_INCREMENTAL, _NAME, _SIZE, _LENGTH = 0x7F, 0x3F, 0x0F, 0x1F, 0x7F  # masks of an integer's prefix
_DYNAMIC: Final = _INDEXED + _STATIC_SIZE  # the first octet of the newest entry's index, if the index is in one octet
_LONG_INDEX: Final = _INDEXED | _INDEX  # the first octet of an index that takes several
_HUFFMAN, _MORE = 0x80, 0x80
_SHIFTS: Final = (0, 7, 14, 21, 28)  # of the octets behind an integer's prefix; no integer needs more than 32 bits
_MAX_LITERALS = 32  # that are cached
_SHORT = 256  # octets of a literal that is cached, and of a string that is decoded although nothing needs it
_ONE_OCTET = 127  # shorter strings have a length of one octet


class Decoder:
    """The decoding state of one connection."""

    def __init__(self) -> None:
        self.changes = 0  # of the dynamic table: between two of them, the same octets have the same meaning
        self.entries: deque[Field] = deque()  # of the dynamic table; the newest is the last
        self._octets = 0
        self._max_octets = _MAX_TABLE
        self.literals: dict[bytes, Field] = {}  # those that do not refer to the dynamic table

    def decode(self, octets: bytes) -> FieldBlock:
        """Decode a complete field block.

        Raises:
            Http2ConnectionError: when it is invalid or represents too much. No later block could be decoded.
        """
        block = FieldBlock(self)
        block.feed(octets)
        block.end()
        return block

    def entry(self, index: int) -> Field:
        """The entry with this index (section 2.3.3).

        Raises:
            Http2ConnectionError: when there is none.
        """
        if 0 < index < _STATIC_SIZE:
            return _STATIC[index]
        if 0 <= index - _STATIC_SIZE < len(self.entries):
            return self.entries[_STATIC_SIZE - 1 - index]
        raise _invalid_block()

    # The dynamic table (section 4).

    def add(self, field: Field) -> None:
        """Add an entry. One that is too long to be decoded is larger than the table, and so empties it."""
        self.changes += 1
        if field.value is None:
            self.entries.clear()
            self._octets = 0
            return
        self.entries.append(field)
        self._octets += field.octets
        self._evict()

    def resize(self, max_octets: int) -> None:
        """Change the table's maximum size.

        Raises:
            Http2ConnectionError: when it exceeds our limit.
        """
        if max_octets > _MAX_TABLE:
            raise _invalid_block()
        self.changes += 1
        self._max_octets = max_octets
        self._evict()

    def _evict(self) -> None:
        while self._octets > self._max_octets:
            self._octets -= self.entries.popleft().octets


class FieldBlock:
    """A field block, decoded as its fragments arrive.

    The beginning of a field that is cut by the end of a fragment is buffered: at most twice ``MAX_STRING``, because
    longer strings are skipped.
    """

    __slots__ = ("_decoder", "_excess", "_huffman_left", "_resizes", "_skip", "_tail", "fields", "octets")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._tail = b""  # of the last fragment, not decoded yet
        self._skip = 0  # octets of a skipped string that are still to come
        self._huffman_left = MAX_HEADER_LIST  # octets of Huffman code that may still be decoded
        self._resizes = self._excess = 0
        self.octets = 0  # of the header list
        self.fields: list[Field] = []  # up to the maximum length

    @property
    def too_long(self) -> bool:
        """Whether the header list exceeds the maximum. It was decoded all the same, for its effect on the table."""
        return self.octets > MAX_HEADER_LIST

    def feed(self, fragment: bytes) -> None:
        """Decode the next fragment.

        Raises:
            Http2ConnectionError: as ``Decoder.decode``.
        """
        block = self._begun(fragment)
        decoder, fields, octets = self._decoder, self.fields, self.octets
        entries = decoder.entries
        indexed = _DYNAMIC + len(entries)  # the first octet with an index that is not in the table
        at, start, end = 0, 0, len(block)
        try:
            while at < end:
                first = block[at]
                if _DYNAMIC <= first < indexed and first != _LONG_INDEX:  # nearly every field
                    field = entries[_DYNAMIC - 1 - first]
                    at += 1
                elif first >= _INDEXED:
                    start = at
                    index, at = _integer(block, at, _INDEX)
                    field = decoder.entry(index)
                else:
                    start = at
                    literal, at = self._not_indexed(block, at, after_field=octets > 0)
                    indexed = _DYNAMIC + len(entries)
                    if literal is None:
                        continue
                    field = literal
                octets += field.octets
                if octets > MAX_HEADER_LIST:
                    self._count_excess()
                else:
                    fields.append(field)
        except IndexError:  # the fragment ends within a field
            self._tail = block[start:]
        self.octets = octets

    def _begun(self, fragment: bytes) -> bytes:
        """The fragment behind the buffered octets, without those that are skipped."""
        if self._skip:
            fragment, self._skip = fragment[self._skip :], max(self._skip - len(fragment), 0)
        block = self._tail + fragment if self._tail else fragment
        self._tail = b""
        return block

    def _not_indexed(self, block: bytes, at: int, *, after_field: bool) -> tuple[Field | None, int]:
        """A literal field line, or no field but a new size of the table, and where it ends."""
        first = block[at]
        if first >= _INCREMENTAL:
            field, at = self._literal(block, at, _NAME_INCREMENTAL)
            self._decoder.add(field)
            return field, at
        if first < _RESIZE:
            return self._literal(block, at, _NAME)
        size, at = _integer(block, at, _SIZE)
        self._resize(size, after_field=after_field)
        return None, at

    def end(self) -> None:
        """The block is complete.

        Raises:
            Http2ConnectionError: when it ends within a field.
        """
        if self._tail or self._skip:
            raise _invalid_block()

    def _resize(self, size: int, *, after_field: bool) -> None:
        """Only allowed at the beginning of a block (section 4.2)."""
        if after_field:
            raise _invalid_block()
        self._resizes += 1
        if self._resizes > _MAX_RESIZES:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many dynamic table size updates")
        self._decoder.resize(size)

    def _count_excess(self) -> None:
        self._excess += 1
        if self._excess > MAX_EXCESS_FIELDS:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a header list has too many fields")

    def _literal(self, block: bytes, start: int, prefix: int) -> tuple[Field, int]:
        """A literal field line (section 6.2) and where it ends."""
        index, at = _integer(block, start, prefix)
        value_start = at if index else _end_of_name(block, at)
        is_huffman, size, value_at = block[value_start] & _HUFFMAN, block[value_start] & _LENGTH, value_start + 1
        if size == _LENGTH:
            size, value_at = _integer(block, value_start, _LENGTH)
        end = value_at + size
        if end > len(block):
            if size <= MAX_STRING:
                raise IndexError
            self._skip, end = end - len(block), len(block)
        literals = self._decoder.literals
        octets = block[start:end] if index < _STATIC_SIZE and end - start <= _SHORT else b""
        if octets and (cached := literals.get(octets)) is not None:
            return cached, end
        same_name = self._decoder.entry(index) if index else None
        name = self._name(block, at) if same_name is None else same_name.name
        needed = prefix == _NAME_INCREMENTAL or name in USED
        max_size = MAX_STRING if needed else min(_SHORT, self._huffman_left)
        value = None
        if size <= max_size:
            value = block[value_at:end]
            if is_huffman:
                value = self._decoded(value)
        field = Field(name, value, size, same_name)
        if octets and value is not None:
            if len(literals) >= _MAX_LITERALS:
                literals.clear()
            literals[octets] = field
        return field, end

    def _name(self, block: bytes, at: int) -> bytes:
        """The string literal that begins here (section 5.2)."""
        size, start = _integer(block, at, _LENGTH)
        octets = block[start : start + size]
        return self._decoded(octets) if block[at] >= _HUFFMAN else octets

    def _decoded(self, octets: bytes) -> bytes:
        self._huffman_left -= len(octets)
        if self._huffman_left < 0:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a field block has too much Huffman code")
        try:
            return huffman.decode(octets)
        except ValueError:
            raise _invalid_block() from None


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """An integer and where it ends (section 5.1)."""
    number = block[at] & prefix
    at += 1
    if number == prefix:
        for shift in _SHIFTS:
            octet = block[at]
            at += 1
            number += (octet & ~_MORE) << shift
            if octet < _MORE:
                return number, at
        raise _invalid_block()
    return number, at


def _end_of_name(block: bytes, at: int) -> int:
    """Where a literal name ends, which must be complete."""
    size, at = _integer(block, at, _LENGTH)
    if size > MAX_STRING:
        raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a field name is too long")
    if at + size > len(block):
        raise IndexError
    return at + size


def _invalid_block() -> Http2ConnectionError:
    return Http2ConnectionError(ErrorCode.COMPRESSION_ERROR, "a field block cannot be decoded")


# Encoding.


def encode(*fields: tuple[bytes, bytes]) -> bytes:
    """A field block that leaves the peer's dynamic table alone: literals without indexing (section 6.2.2)."""
    return b"".join(b"\x00" + _encode_string(name) + _encode_string(value) for name, value in fields)


def _encode_string(value: bytes) -> bytes:
    """A string literal (section 5.2) without Huffman code."""
    size = len(value)
    if size < _ONE_OCTET:
        return bytes((size,)) + value
    octets, rest = [_ONE_OCTET], size - _ONE_OCTET
    while rest > _ONE_OCTET:  # seven bits in each octet
        octets.append(rest & _ONE_OCTET | _MORE)
        rest >>= 7
    return bytes((*octets, rest)) + value
