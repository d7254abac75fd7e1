"""The client's side of a connection for one unary gRPC call, as far as a health check needs it.

Invariants: a response is bounded, in octets and in work. What is neither a response nor part of one is an error: the
server is not trusted to be the one that was meant. It sends no acknowledgments, because the connection ends with the
call.
"""

from __future__ import annotations

import re
from typing import Final

from authz_service.transport.http2 import frames
from authz_service.transport.http2.compression import Decoder, encode
from authz_service.transport.http2.frames import (
    HEADER,
    HEADER_BYTES,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    PREFACE,
    Http2ConnectionError,
    Http2StreamError,
)
from authz_service.transport.http2.grpc_framing import PREFIX_BYTES, prefixed

_STREAM: Final = 1
_MAX_OCTETS: Final = 64 << 10  # of everything that is received
_PREFACE: Final = PREFACE + frames.settings({frames.SETTINGS_ENABLE_PUSH: 0})
_OF_CONNECTION: Final = frozenset({frames.SETTINGS, frames.PING, frames.GOAWAY})
_OF_STREAM: Final = frozenset({frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.CONTINUATION})
_GRPC: Final = b"application/grpc"
_CODE: Final = re.compile(rb"[0-9]{1,2}")


class CallFailedError(Exception):
    """The server does not speak gRPC over HTTP/2, or did not respond. The message holds nothing that it sent."""


class StatusError(CallFailedError):
    """The call ended with a gRPC status other than OK."""


class UnaryCall:
    """One call on a new connection."""

    def __init__(self, path: bytes, message: bytes, *, encrypted: bool) -> None:
        """``encrypted`` is whether the connection uses TLS."""
        block = encode(
            (b":method", b"POST"),
            (b":scheme", b"https" if encrypted else b"http"),
            (b":path", path),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"authz-service"),
        )
        headers = frames.frame(frames.HEADERS, frames.END_HEADERS, _STREAM, block)
        data = frames.frame(frames.DATA, frames.END_STREAM, _STREAM, prefixed(message))
        self.request: Final = _PREFACE + headers + data
        self.response: bytes | None = None  # the message, once it is complete
        self._buffer = b""
        self._octets = 0
        self._settings_received = False
        self._block: bytes | None = None  # a field block that is not complete
        self._block_ends_stream = False
        self._decoder = Decoder()
        self._fields: dict[bytes, bytes | None] = {}
        self._body = b""

    def receive(self, octets: bytes) -> None:
        """Handle what the server sent.

        Raises:
            CallFailedError: if it is not the response to a call, or the call failed.
        """
        if self.response is not None:
            return
        self._octets += len(octets)
        if self._octets > _MAX_OCTETS:
            raise CallFailedError("the response is too long")
        try:
            self._handle(self._buffer + octets)
        except (Http2ConnectionError, Http2StreamError) as error:
            raise CallFailedError(str(error)) from None

    def _handle(self, octets: bytes) -> None:
        at = 0
        while self.response is None and len(octets) - at >= HEADER_BYTES:
            high, low, kind, flags, stream_id = HEADER.unpack_from(octets, at)
            end = at + HEADER_BYTES + (high << 16 | low)
            self._require_valid(kind, flags, stream_id & MAX_STREAM_ID, high << 16 | low)
            if len(octets) < end:
                break
            self._frame(kind, flags, octets[at + HEADER_BYTES : end])
            at = end
        self._buffer = octets[at:]

    def _require_valid(self, kind: int, flags: int, stream_id: int, size: int) -> None:
        """Reject what cannot be a frame as soon as its header is there: another protocol may never send the rest."""
        if size > MAX_FRAME_SIZE:
            raise CallFailedError("a frame is too long")
        if not self._settings_received and (kind != frames.SETTINGS or flags & frames.ACK):
            raise CallFailedError("the first frame is not SETTINGS")
        if self._block is not None and kind != frames.CONTINUATION:
            raise CallFailedError("another frame within a field block")
        if (kind in _OF_CONNECTION and stream_id) or (kind in _OF_STREAM and stream_id != _STREAM):
            raise CallFailedError("a frame on another stream")

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        match kind:
            case frames.DATA:
                self._body += frames.without_padding(payload, flags)
                if flags & frames.END_STREAM:
                    raise CallFailedError("a response without trailers")
            case frames.HEADERS:
                payload = frames.without_priority(frames.without_padding(payload, flags), flags, _STREAM)
                self._block, self._block_ends_stream = b"", bool(flags & frames.END_STREAM)
                self._continue_block(flags, payload)
            case frames.CONTINUATION:
                self._continue_block(flags, payload)
            case frames.RST_STREAM:
                raise CallFailedError("the stream was reset")
            case frames.SETTINGS:
                self._settings_received = True
            case frames.GOAWAY if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID < _STREAM or any(payload[4:8]):
                raise CallFailedError("the connection was refused")
            case frames.PUSH_PROMISE:
                raise CallFailedError("PUSH_PROMISE")
            case _:  # of no consequence
                pass

    def _continue_block(self, flags: int, fragment: bytes) -> None:
        if self._block is None:
            raise CallFailedError("CONTINUATION without a field block")
        self._block += fragment
        if flags & frames.END_HEADERS:
            self._fields.update((field.name, field.value) for field in self._decoder.decode(self._block).fields)
            self._block = None
            if self._block_ends_stream:
                self.response = self._complete()

    def _complete(self) -> bytes:
        """The message of a response that has ended."""
        content_type, code = (self._fields.get(name) or b"" for name in (b"content-type", b"grpc-status"))
        if self._fields.get(b":status") != b"200" or not content_type.startswith(_GRPC) or not _CODE.fullmatch(code):
            raise CallFailedError("a response that is not gRPC")
        if int(code):
            raise StatusError(f"gRPC status {int(code)}")
        message = self._body[PREFIX_BYTES:]
        if prefixed(message) != self._body:
            raise CallFailedError("a response that is not one message")
        return message
