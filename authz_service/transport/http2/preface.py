"""Recognizes what a client speaks from the first octets that it sends."""

from __future__ import annotations

from typing import Final

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.transport.http2.frames import PREFACE, ErrorCode, Http2ConnectionError

_TLS_HANDSHAKE: Final = b"\x16"  # the content type of a ClientHello's record
_TLS_MAJOR: Final = b"\x03"
_METHODS: Final = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH ")
LONGEST: Final = len(PREFACE)  # octets, after which all is known


class NotHttp2Error(Http2ConnectionError):
    """The connection does not begin with HTTP/2's preface."""

    def __init__(self, data: bytes) -> None:
        """``data`` is what was received instead."""
        self.failure, cause = _problem(data)
        super().__init__(ErrorCode.PROTOCOL_ERROR, cause)


def is_tls(data: bytes) -> bool:
    """Whether a connection begins like TLS."""
    return data[:1] == _TLS_HANDSHAKE and data[1:2] in {b"", _TLS_MAJOR}


def spoken_in(data: bytes) -> str:
    """What a client without TLS speaks, for the log."""
    if data.startswith(_METHODS):
        return "HTTP/1.1"
    return "HTTP/2" if PREFACE.startswith(data[:LONGEST]) else "an unknown protocol"


def _problem(data: bytes) -> tuple[ConnectionFailure, str]:
    if is_tls(data):
        return ConnectionFailure.TLS, "TLS instead of the HTTP/2 connection preface"
    if data.startswith(_METHODS):
        return ConnectionFailure.HTTP1, "HTTP/1.1 instead of the HTTP/2 connection preface"
    return ConnectionFailure.NOT_HTTP2, "the HTTP/2 connection preface is missing"
