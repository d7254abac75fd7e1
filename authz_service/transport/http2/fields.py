"""One field line: whether it matters, and whether a request may contain it (RFC 9113 sections 8.2 and 8.3).

Invariants: a field is validated when it is made, not again when a later block refers to it. Its value is validated only
if it is used: a tracing Envoy copies values from the client into the request unchanged, so refusing a request for the
value of any other field would let the client decide whether it is answered. Rules that involve several fields are in
``headers.py``.
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
TRACEPARENT: Final = b"traceparent"  # not in USED: whatever its value is, the request is served
PSEUDO: Final = frozenset({METHOD, PATH, SCHEME, b":authority"})
USED: Final = PSEUDO | {CONTENT_LENGTH, CONTENT_TYPE, GRPC_ENCODING, GRPC_TIMEOUT}  # the names whose values matter
OVERHEAD: Final = 32  # octets for which a field counts in addition to its own (RFC 7541 section 4.1)
_CONNECTION_SPECIFIC = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_TE = b"te"


class Field:
    """A name and a value, compared by identity: a dynamic table returns the same object again."""

    __slots__ = ("malformed", "name", "octets", "pseudo", "used", "value")

    def __init__(self, name: bytes, value: bytes | None, octets: int = 0, same_name: Field | None = None) -> None:
        """``value`` is None if it was not decoded; ``octets`` is then its encoded length.

        ``same_name`` is a validated field with this name.
        """
        self.name: Final = name
        self.value: Final = value
        self.octets: Final = OVERHEAD + len(name) + (octets if value is None else len(value))
        if same_name is None or name == _TE:
            self.pseudo = name[:1] == b":"
            self.malformed = _is_malformed(name, value)
            self.used = self.pseudo or self.malformed or name in USED
        else:
            self.pseudo, self.malformed, self.used = same_name.pseudo, same_name.malformed, same_name.used


def _is_malformed(name: bytes, value: bytes | None) -> bool:
    """Whether no request may contain it, which no client makes a proxy send."""
    return not _NAME.fullmatch(name) or name in _CONNECTION_SPECIFIC or (name == _TE and value != b"trailers")
