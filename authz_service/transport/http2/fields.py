"""One header field, and whether it may stand in a request (RFC 9113 sections 8.2 and 8.3).

Law: a field is judged when it is made, and not again when a later block refers to it. What depends on the fields around
it is ``headers.py``'s.
"""

from __future__ import annotations

import re
from typing import Final

CONTENT_LENGTH: Final = b"content-length"
CONTENT_TYPE: Final = b"content-type"
GRPC_ENCODING: Final = b"grpc-encoding"
GRPC_TIMEOUT: Final = b"grpc-timeout"
METHOD: Final = b":method"
PATH: Final = b":path"
SCHEME: Final = b":scheme"
_PSEUDO = frozenset({METHOD, PATH, SCHEME, b":authority"})
_READ = _PSEUDO | {CONTENT_LENGTH, CONTENT_TYPE, GRPC_ENCODING, GRPC_TIMEOUT}
_OF_A_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_NOT_IN_VALUES = re.compile(rb"[\0\r\n]")


class Field:
    """A name and its value. Two are the same only if they are one object: which is what a table gives again."""

    __slots__ = ("fault", "name", "pseudo", "read", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name: Final = name
        self.value: Final = value
        self.pseudo: Final = name[:1] == b":"
        self.read: Final = name in _READ  # whether it says something that matters
        self.fault: Final = _fault(name, value)  # why it may not be; it holds nothing that the peer sent


def _fault(name: bytes, value: bytes) -> str | None:
    if not _NAME.fullmatch(name) or _NOT_IN_VALUES.search(value) or value.strip(b" \t") != value:
        return "a field that is not well-formed"
    if name[:1] == b":":
        return None if name in _PSEUDO else "a pseudo-header field that is unknown"
    if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
        return "a field that is of HTTP/1.1 connections"
    return None
