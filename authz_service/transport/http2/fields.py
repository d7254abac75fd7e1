"""One header field: what of it matters, and whether it may stand in a request (RFC 9113 sections 8.2 and 8.3).

Invariants: a field is judged when it is made, and not again when a later block refers to it. Its value is judged only
where it is read: a tracing Envoy copies values of the client into the call untrimmed, so to refuse a call for the value
of any other field would let the client decide whether it is answered. What depends on the fields around it is
``headers.py``'s.
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
PSEUDO: Final = frozenset({METHOD, PATH, SCHEME, b":authority"})
READ: Final = PSEUDO | {CONTENT_LENGTH, CONTENT_TYPE, GRPC_ENCODING, GRPC_TIMEOUT}  # whose values say something
OVERHEAD: Final = 32  # octets for which a field counts beside its own (RFC 7541 section 4.1)
_OF_A_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_TE = b"te"


class Field:
    """A name and its value. Two are the same only if they are one object: which is what a table gives again."""

    __slots__ = ("malformed", "name", "octets", "pseudo", "read", "value")

    def __init__(self, name: bytes, value: bytes | None, octets: int = 0, like: Field | None = None) -> None:
        """``value`` is None where it was not decoded; then ``octets`` is its length as it was sent.

        ``like`` is a field of the same name, which need not be judged again.
        """
        self.name: Final = name
        self.value: Final = value
        self.octets: Final = OVERHEAD + len(name) + (octets if value is None else len(value))
        if like is None or name == _TE:
            self.pseudo = name[:1] == b":"
            self.malformed = _malformed(name, value)  # though nothing that is read depends on it
            self.read = self.pseudo or self.malformed or name in READ  # whether it says something that matters
        else:
            self.pseudo, self.malformed, self.read = like.pseudo, like.malformed, like.read


def _malformed(name: bytes, value: bytes | None) -> bool:
    """By its name, or by a value that is the protocol's own: which no client makes a proxy send."""
    return not _NAME.fullmatch(name) or name in _OF_A_CONNECTION or (name == _TE and value != b"trailers")
