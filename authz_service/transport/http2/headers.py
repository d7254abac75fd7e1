"""Header blocks: what a request's say (RFC 9113 section 8, gRPC over HTTP/2), and those that answers are made of.

Law: a block that left the decoder's table as it was means the same as long as the table stays as it is, so it is
recognised by its octets: for decoding depends on nothing else. Of others, what is read is recognised by its fields.

Answers are never added to the peer's table, so they are the same octets for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from authz_service.transport.http2.compression import Decoder
from authz_service.transport.http2.fields import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    GRPC_ENCODING,
    GRPC_TIMEOUT,
    METHOD,
    PATH,
    SCHEME,
)
from authz_service.transport.http2.frames import ErrorCode, StreamFault

if TYPE_CHECKING:
    from authz_service.transport.http2.fields import Field

# A tracing Envoy copies the client's tracestate into the call, up to the 8 MiB of headers that it can be made to take.
MOST_LIST: Final = 16 << 20  # octets of a header list
_REMEMBERED, _LONGEST = 64, 4096  # blocks, and octets of each: a proxy repeats a handful
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT_DIGITS = 8
_LENGTH_DIGITS = 18  # of a number that no request reaches; Python itself refuses to read one of thousands
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
        self._decoder = Decoder()
        self._blocks: dict[bytes, Head] = {}  # by their octets, as long as the table is what it was
        self._changes = 0  # of the table, when they were remembered
        self._heads: dict[tuple[Field, ...], Head] = {}  # by what is read of them

    def head(self, block: bytes) -> Head:
        """What a request's block says.

        Raises:
            ConnectionFault: when it can not be decoded; nothing after it could.
            StreamFault: when it is malformed.
        """
        known = self._blocks.get(block)
        return self._new(block) if known is None else known

    def decoded(self, block: bytes) -> list[Field]:
        """The fields of any block.

        Raises:
            ConnectionFault: as above.
        """
        fields = self._decoder.decode(block)
        if self._changes != self._decoder.changes:
            self._changes = self._decoder.changes
            self._blocks.clear()
        return fields

    def _new(self, block: bytes) -> Head:
        before = self._changes
        read = _read(self.decoded(block))
        head = self._heads.get(read) or _head_of(read)
        if len(block) <= _LONGEST:
            _remember(self._heads, read, head)
            if self._changes == before:
                _remember(self._blocks, block, head)
        return head


def _remember(heads: dict[Any, Head], key: object, head: Head) -> None:
    if len(heads) >= _REMEMBERED and key not in heads:
        heads.clear()
    heads[key] = head


def _read(fields: list[Field]) -> tuple[Field, ...]:
    """Those that say something that matters."""
    read: list[Field] = []
    plain = False
    for field in fields:
        if field.fault is not None:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, field.fault)
        if not field.pseudo:
            plain = True
        elif plain:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a pseudo-header field that is late")
        if field.read:
            read.append(field)
    return tuple(read)


def _head_of(read: tuple[Field, ...]) -> Head:
    said: dict[bytes, bytes] = {}
    for field in read:
        if said.get(field.name, field.value) != field.value and field.name == CONTENT_LENGTH:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "several lengths of one content")
        if field.pseudo and field.name in said:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a pseudo-header field that is repeated")
        said[field.name] = field.value
    if not (said.keys() >= {METHOD, SCHEME, PATH} and said[PATH]):
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a pseudo-header field is missing")
    return Head(
        path=said[PATH],
        http_status=_http_status(said[METHOD], said.get(CONTENT_TYPE, b"")),
        timeout=_seconds(said.get(GRPC_TIMEOUT)),
        encoding=said.get(GRPC_ENCODING, b"identity"),
        content_length=_length(said.get(CONTENT_LENGTH)),
    )


def require_trailers(fields: list[Field]) -> None:
    """Section 8.1.

    Raises:
        StreamFault: when they are malformed. Beyond that they say nothing that matters.
    """
    for field in fields:
        if field.pseudo or field.fault is not None:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, field.fault or "a pseudo-header field at the end")


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
