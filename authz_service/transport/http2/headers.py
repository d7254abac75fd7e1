"""Header blocks: what a request's say (RFC 9113 section 8, gRPC over HTTP/2), and those that answers are made of.

Invariants: a block that left the decoder's table as it was means the same as long as the table stays as it is, so it is
recognized by its octets: for decoding depends on nothing else. Of others, what is read is recognized by its fields.
Whatever a block says, there is a ``Head`` for it: a call that cannot be read is answered, not reset.

Answers are never added to the peer's table, so they are the same octets for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from urllib.parse import quote

from authz_service.transport.http2.compression import Block, Decoder
from authz_service.transport.http2.fields import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    GRPC_ENCODING,
    GRPC_TIMEOUT,
    METHOD,
    PATH,
    PSEUDO,
    READ,
    SCHEME,
    Field,
)
from authz_service.transport.http2.frames import ErrorCode, StreamFault

_REMEMBERED, _MAX_OCTETS = 32, 1024  # blocks, and octets of each: a proxy repeats a handful
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT_DIGITS = 8
_LENGTH_DIGITS = 18  # of a number that no request reaches; Python itself refuses to read one of thousands
_OK, _NOT_ALLOWED, _UNSUPPORTED = 200, 405, 415
# Instead of a field, among those that are read.
_LATE: Final = Field(b"late", None)  # pseudo-header fields that come after others
_TOO_LONG: Final = Field(b"too-long", None)  # more than are read


class Status(IntEnum):
    """How a gRPC call ends."""

    OK = 0
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Head:
    """What the header block of a request says."""

    path: bytes  # nothing where there is none, or none that is certain
    http_status: int  # 200, or what refuses it since it is no gRPC
    timeout: float | None  # seconds
    encoding: bytes  # of compressed messages
    content_length: int | None
    fault: str = ""  # why the request cannot be read; it holds nothing that the peer sent
    malformed: bool = False  # in RFC 9113's words (section 8.1.1): its stream is reset, once it has been answered


class HeaderBlocks:
    """Reads the header blocks of one connection. All of it raises ``ConnectionFault`` where one cannot be decoded."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._blocks: dict[bytes, Head] = {}  # by their octets, as long as the table is what it was
        self._changes = 0  # of the table, when they were remembered
        self._heads: dict[tuple[Field, ...], Head] = {}  # by what is read of them

    def head(self, octets: bytes) -> Head:
        """What a request's block says."""
        known = self._blocks.get(octets)
        return self._new(octets) if known is None else known

    def decoded(self, octets: bytes) -> Block:
        """Any block that is there as a whole."""
        return self.ended(self._decoder.decode(octets))

    def begun(self) -> Block:
        """A block that comes in parts. Until it has ended there is no other one."""
        return Block(self._decoder)

    def ended(self, block: Block) -> Block:
        """The block, of which nothing more will come."""
        block.end()
        if self._changes != self._decoder.changes:
            self._changes = self._decoder.changes
            self._blocks.clear()
        return block

    def head_of(self, block: Block) -> Head:
        """What a block that has ended says as a request's."""
        read = _read(block)
        head = self._heads.get(read)
        if head is None:
            head = _head_of(read)
            if sum(field.octets for field in read) <= _MAX_OCTETS:
                _remember(self._heads, read, head)
        return head

    def _new(self, octets: bytes) -> Head:
        before = self._changes
        head = self.head_of(self.decoded(octets))
        if self._changes == before and len(octets) <= _MAX_OCTETS:
            _remember(self._blocks, octets, head)
        return head


def _remember(heads: dict[Any, Head], key: object, head: Head) -> None:
    if len(heads) >= _REMEMBERED:
        heads.clear()
    heads[key] = head


def _read(block: Block) -> tuple[Field, ...]:
    """The fields that say something that matters."""
    read: list[Field] = []
    plain = late = False
    for field in block.fields:
        if not field.pseudo:
            plain = True
        elif plain:
            late = True
        if field.read:
            read.append(field)
    if late:
        read.append(_LATE)
    if block.too_long:
        read.append(_TOO_LONG)
    return tuple(read)


def _head_of(read: tuple[Field, ...]) -> Head:
    said = {field.name: field.value or b"" for field in read}
    paths = {field.value for field in read if field.name == PATH}
    malformed = "" if _TOO_LONG in read else _why_malformed(read, said)
    return Head(
        path=said[PATH] if len(paths) == 1 else b"",
        http_status=_http_status(said.get(METHOD, b""), said.get(CONTENT_TYPE, b"")),
        timeout=_seconds(said.get(GRPC_TIMEOUT)),
        encoding=said.get(GRPC_ENCODING, b"identity"),
        content_length=_length(said.get(CONTENT_LENGTH, b"")),
        fault=malformed or _why_unread(read),
        malformed=bool(malformed) or any(field.malformed for field in read),
    )


def _why_malformed(read: tuple[Field, ...], said: dict[bytes, bytes]) -> str:
    """Sections 8.1.1 and 8.3: what leaves open which request it is."""
    pseudo = [field.name for field in read if field.pseudo]
    lengths = {field.value for field in read if field.name == CONTENT_LENGTH}
    if _LATE in read:
        return "a pseudo-header field that is late"
    if not PSEUDO.issuperset(pseudo):
        return "a pseudo-header field that is unknown"
    if len(set(pseudo)) < len(pseudo):
        return "a pseudo-header field that is repeated"
    if not (said.keys() >= {METHOD, SCHEME, PATH} and said[PATH]):
        return "a pseudo-header field is missing"
    if len(lengths) > 1 or (lengths and _length(said[CONTENT_LENGTH]) is None):
        return "content-length is no number of octets"
    return ""


def _why_unread(read: tuple[Field, ...]) -> str:
    if _TOO_LONG in read:
        return "a header list that is too long"
    if any(field.value is None and field.name in READ for field in read):
        return "a header field that is too long"
    return ""


def require_trailers(trailers: Block) -> None:
    """Section 8.1.

    Raises:
        StreamFault: when they are malformed. Beyond that they say nothing that matters.
    """
    if any(field.pseudo or field.malformed for field in trailers.fields):
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a field that may not be at the end")


def _http_status(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return _NOT_ALLOWED
    kind = content_type.partition(b";")[0].strip()
    return _OK if kind == b"application/grpc" or kind.startswith(b"application/grpc+") else _UNSUPPORTED


def _seconds(timeout: bytes | None) -> float | None:
    """What ``grpc-timeout`` says; None, for the servicer's own deadline, where it says nothing that can be read."""
    if (
        timeout is None
        or not timeout[:-1].isdigit()
        or len(timeout) > _TIMEOUT_DIGITS + 1
        or timeout[-1:] not in _UNITS
    ):
        return None
    return int(timeout[:-1]) * _UNITS[timeout[-1:]]


def _length(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= _LENGTH_DIGITS else None


# What answers are made of.

_MORE = 0x80
_ONE_OCTET = 127  # the longest string whose length fits beside the bit for Huffman, which is not used


def _string(value: bytes) -> bytes:
    """RFC 7541 section 5.2, without Huffman's code."""
    size = len(value)
    if size < _ONE_OCTET:
        return bytes((size,)) + value
    octets, rest = [_ONE_OCTET], size - _ONE_OCTET
    while rest > _ONE_OCTET:  # seven bits each, and one that says whether more come
        octets.append(rest & _ONE_OCTET | _MORE)
        rest >>= 7
    return bytes((*octets, rest)) + value


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block that changes no table: literals without indexing (RFC 7541 section 6.2.2)."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


RESPONSE: Final = b"\x88" + block((b"content-type", b"application/grpc"))  # 0x88 is :status 200 of the static table


def trailers(status: Status, message: str = "") -> bytes:
    """The block at a call's end. ``message`` is percent-encoded, as gRPC wants it."""
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", quote(message, safe=" !#$&'()*+,/:;=?@[]").encode()))
    return block(*fields)


def not_grpc(status: int) -> bytes:
    """The whole answer to a request that is no gRPC."""
    return block((b":status", b"%d" % status))
