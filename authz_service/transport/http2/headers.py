"""Header blocks: what a request's say (RFC 9113 section 8, gRPC over HTTP/2), and those that answers are made of.

Law: a block is decoded once in the order of its coming, since each may change what the next one means (RFC 7541
section 2.2). A block that left the decoder's table as it was means the same as long as the table stays as it is, so it
is recognised by its octets: for decoding depends on nothing else.

Answers are never added to the peer's table, so they are the same octets for ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from urllib.parse import quote

from hpack import Decoder, HPACKError

from authz_service.transport.http2.frames import ConnectionFault, ErrorCode, StreamFault
from authz_service.transport.http2.representations import representations

# A tracing Envoy copies the client's tracestate into the call, up to the 8 MiB of headers that it can be made to take.
MOST_LIST: Final = 16 << 20  # octets of a header list
MOST_FIELDS: Final = 1000  # of a header list; a proxy's has a few dozen
_SHORT = 4096  # octets of a block that is decoded in one go
_REMEMBERED = 64  # blocks that are short: a proxy repeats a handful
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT_DIGITS = 8
_LENGTH_DIGITS = 18  # of a number that no request reaches; Python itself refuses to read one of thousands
_OF_A_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_NO_VALUE = re.compile(rb"[\0\r\n]")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OK, _NOT_ALLOWED, _UNSUPPORTED = 200, 405, 415


class Status(IntEnum):
    """How a gRPC call ends."""

    OK = 0
    NOT_FOUND = 5
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Head:
    """What the header block of a request says."""

    path: bytes
    http_status: int  # 200, or what refuses it since it is no gRPC
    timeout: float | None  # seconds
    encoding: bytes  # of compressed messages
    content_length: int | None


class HeaderBlocks:
    """Reads the header blocks of one connection."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MOST_LIST)
        self._heads: dict[bytes, Head] = {}

    def head(self, block: bytes) -> Head:
        """What a request's block says.

        Raises:
            ConnectionFault: when it can not be decoded; nothing after it could.
            StreamFault: when it is malformed.
        """
        known = self._heads.get(block)
        return self._new(block) if known is None else known

    def decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of any other block.

        Raises:
            ConnectionFault: as above.
        """
        self._heads.clear()  # it may have changed the table, and is too rare to find out
        return self._fields(block)

    def _new(self, block: bytes) -> Head:
        before = self._table()
        fields = self._fields(block)
        changed = self._table() != before
        if changed:
            self._heads.clear()
        head = _head_of(fields)
        if not changed and len(block) <= _SHORT and len(self._heads) < _REMEMBERED:
            self._heads[block] = head
        return head

    def _table(self) -> tuple[object, ...]:
        """All that decoding depends on beside the octets."""
        table = self._decoder.header_table
        return (table.maxsize, *table.dynamic_entries)

    def _fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        fields: list[tuple[bytes, bytes]] = []
        try:
            for number, part in enumerate((block,) if len(block) <= _SHORT else representations(block)):
                decoded = self._decoder.decode(part, raw=True)
                if fields and not decoded:
                    raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "the table is resized amid a header block")
                fields += decoded
                if max(number, len(fields)) > MOST_FIELDS:  # a resizing is no field, and takes its time as well
                    raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list of too many fields")
        except HPACKError:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block can not be decoded") from None
        return fields


def _head_of(fields: list[tuple[bytes, bytes]]) -> Head:
    pseudo: dict[bytes, bytes] = {}
    plain: dict[bytes, bytes] = {}
    for name, value in fields:
        _well_formed(name, value)
        if name.startswith(b":"):
            if name not in _PSEUDO or name in pseudo or plain:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a pseudo-header field that is unknown, repeated or late")
            pseudo[name] = value
        else:
            _allowed(name, value)
            if name == b"content-length" and plain.get(name, value) != value:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "several lengths of one content")
            plain[name] = value
    if not (pseudo.keys() >= {b":method", b":scheme", b":path"} and pseudo[b":path"]):
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a pseudo-header field is missing")
    return Head(
        path=pseudo[b":path"],
        http_status=_http_status(pseudo[b":method"], plain.get(b"content-type", b"")),
        timeout=_seconds(plain.get(b"grpc-timeout")),
        encoding=plain.get(b"grpc-encoding", b"identity"),
        content_length=_length(plain.get(b"content-length")),
    )


def require_trailers(fields: list[tuple[bytes, bytes]]) -> None:
    """Section 8.1.

    Raises:
        StreamFault: when they are malformed. Beyond that they say nothing that matters.
    """
    for name, value in fields:
        _well_formed(name, value)
        if name.startswith(b":"):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a pseudo-header field at the end")


def _well_formed(name: bytes, value: bytes) -> None:
    """Section 8.2.1."""
    if not _NAME.fullmatch(name) or _NO_VALUE.search(value) or value.strip(b" \t") != value:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a field that is not well-formed")


def _allowed(name: bytes, value: bytes) -> None:
    """Section 8.2.2."""
    if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a field that is of HTTP/1.1 connections")


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


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "content-length is no number of octets")
    return int(value)


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
