"""The header section of a request (RFC 9113 section 8, gRPC over HTTP/2).

Invariants: there is a ``RequestHeaders`` for every field block that can be decoded: a request that cannot be served is
answered, not reset. Results are cached. A field block that left the dynamic table unchanged has the same meaning until
the table changes, so it is recognized by its octets; others are recognized by the fields that are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from authz_service.transport.http2.compression import Decoder, FieldBlock
from authz_service.transport.http2.fields import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    GRPC_ENCODING,
    GRPC_TIMEOUT,
    METHOD,
    PATH,
    PSEUDO,
    SCHEME,
    TRACEPARENT,
    USED,
    Field,
)
from authz_service.transport.http2.frames import ErrorCode, Http2StreamError

_MAX_CACHED = 32  # results: a proxy repeats a handful
_MAX_CACHED_OCTETS = 1024  # of one key
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT_DIGITS = 8
_LENGTH_DIGITS = 18  # more than any request needs; ``int`` itself raises for thousands of them
_OK, _METHOD_NOT_ALLOWED, _UNSUPPORTED_MEDIA_TYPE = 200, 405, 415
# Markers among the used fields.
_LATE: Final = Field(b"late", None)  # a pseudo-header field follows a regular one
_TOO_LONG: Final = Field(b"too-long", None)  # the header list was cut


@dataclass(slots=True)
class RequestHeaders:
    """What the header section of a request means. Results are cached, so nothing changes one."""

    path: bytes  # empty if there is none, or if it is ambiguous
    http_status: int  # 200, or the status that refuses a request which is not gRPC
    timeout: float | None  # seconds
    encoding: bytes  # of compressed messages
    content_length: int | None
    error: str = ""  # why the request cannot be served; it holds nothing that the peer sent
    traceparent: str = ""  # of the caller's span, as it was sent; empty if there is none, or more than one
    malformed: bool = False  # as RFC 9113 section 8.1.1 defines it: the stream is reset after the response

    def with_traceparent(self, traceparent: str) -> RequestHeaders:
        """The same with the caller's span."""
        return RequestHeaders(
            self.path,
            self.http_status,
            self.timeout,
            self.encoding,
            self.content_length,
            self.error,
            traceparent,
            self.malformed,
        )


class HeadersReader:
    """Reads the field blocks of one connection. Every method raises ``Http2ConnectionError`` for an invalid one."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._by_octets: dict[bytes, RequestHeaders] = {}  # valid until the dynamic table changes
        self._changes = 0  # of the table, as of that cache
        self._by_fields: dict[tuple[Field, ...], RequestHeaders] = {}

    def read(self, octets: bytes) -> RequestHeaders:
        """The headers of a request, from a complete field block."""
        cached = self._by_octets.get(octets)
        return self._read_new(octets) if cached is None else cached

    def decode(self, octets: bytes) -> FieldBlock:
        """Decode any complete field block."""
        return self.finish(self._decoder.decode(octets))

    def begin(self) -> FieldBlock:
        """A field block that arrives in fragments. No other one may be decoded before it is finished."""
        return FieldBlock(self._decoder)

    def finish(self, block: FieldBlock) -> FieldBlock:
        """The field block, after its last fragment."""
        block.end()
        if self._changes != self._decoder.changes:
            self._changes = self._decoder.changes
            self._by_octets.clear()
        return block

    def headers_of(self, block: FieldBlock) -> RequestHeaders:
        """The headers of a request, from a finished field block."""
        used, traceparents = _used_fields(block)
        headers = self._by_fields.get(used)
        if headers is None:
            headers = _headers_from(used)
            if sum(field.octets for field in used) <= _MAX_CACHED_OCTETS:
                _cache(self._by_fields, used, headers)
        if len(traceparents) == 1 and (value := traceparents[0].value):  # another one in each request of a trace
            return headers.with_traceparent(value.decode("latin-1"))
        return headers

    def _read_new(self, octets: bytes) -> RequestHeaders:
        before = self._changes
        headers = self.headers_of(self.decode(octets))
        if self._changes == before and len(octets) <= _MAX_CACHED_OCTETS:
            _cache(self._by_octets, octets, headers)
        return headers


def _cache(results: dict[Any, RequestHeaders], key: object, headers: RequestHeaders) -> None:
    if len(results) >= _MAX_CACHED:
        results.clear()
    results[key] = headers


def _used_fields(block: FieldBlock) -> tuple[tuple[Field, ...], list[Field]]:
    """The used fields with markers, and those of the trace."""
    used: list[Field] = []
    traceparents: list[Field] = []
    regular = late = False
    for field in block.fields:
        if field.pseudo:
            late = late or regular
            used.append(field)
        else:
            regular = True
            if field.used:
                used.append(field)
            elif field.name == TRACEPARENT:
                traceparents.append(field)
    if late:
        used.append(_LATE)
    if block.too_long:
        used.append(_TOO_LONG)
    return tuple(used), traceparents


def _headers_from(used: tuple[Field, ...]) -> RequestHeaders:
    values = {field.name: field.value or b"" for field in used}
    paths = {field.value for field in used if field.name == PATH}
    malformed = "" if _TOO_LONG in used else _why_malformed(used, values)
    return RequestHeaders(
        path=values[PATH] if len(paths) == 1 else b"",
        http_status=_http_status(values.get(METHOD, b""), values.get(CONTENT_TYPE, b"")),
        timeout=_timeout(values.get(GRPC_TIMEOUT)),
        encoding=values.get(GRPC_ENCODING, b"identity"),
        content_length=_content_length(values.get(CONTENT_LENGTH, b"")),
        error=malformed or _why_too_long(used),
        malformed=bool(malformed) or any(field.malformed for field in used),
    )


def _why_malformed(used: tuple[Field, ...], values: dict[bytes, bytes]) -> str:
    """Sections 8.1.1 and 8.3: what makes it ambiguous which request this is."""
    pseudo = [field.name for field in used if field.pseudo]
    lengths = {field.value for field in used if field.name == CONTENT_LENGTH}
    if _LATE in used:
        return "a pseudo-header field follows a regular field"
    if not PSEUDO.issuperset(pseudo):
        return "an unknown pseudo-header field"
    if len(set(pseudo)) < len(pseudo):
        return "a repeated pseudo-header field"
    if not (values.keys() >= {METHOD, SCHEME, PATH} and values[PATH]):
        return "a pseudo-header field is missing"
    if len(lengths) > 1 or (lengths and _content_length(values[CONTENT_LENGTH]) is None):
        return "content-length is not a number of octets"
    return ""


def _why_too_long(used: tuple[Field, ...]) -> str:
    if _TOO_LONG in used:
        return "a header list that is too long"
    if any(field.value is None and field.name in USED for field in used):
        return "a header field that is too long"
    return ""


def require_trailers(block: FieldBlock) -> None:
    """Section 8.1.

    Raises:
        Http2StreamError: when trailers are malformed. Well-formed ones are ignored.
    """
    if any(field.pseudo or field.malformed for field in block.fields):
        raise Http2StreamError(ErrorCode.PROTOCOL_ERROR, "malformed trailers")


def _http_status(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return _METHOD_NOT_ALLOWED
    media_type = content_type.partition(b";")[0].strip()
    is_grpc = media_type == b"application/grpc" or media_type.startswith(b"application/grpc+")
    return _OK if is_grpc else _UNSUPPORTED_MEDIA_TYPE


def _timeout(value: bytes | None) -> float | None:
    """``grpc-timeout`` in seconds; None if it is missing or invalid, for the servicer's own deadline."""
    if value is None or not value[:-1].isdigit() or len(value) > _TIMEOUT_DIGITS + 1 or value[-1:] not in _UNITS:
        return None
    return int(value[:-1]) * _UNITS[value[-1:]]


def _content_length(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= _LENGTH_DIGITS else None
