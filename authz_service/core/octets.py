"""Tables to check that bytes are all among the allowed ones: ``octets.translate(table) == octets``.

A table changes every byte that is not allowed. ``bytes.translate`` takes a tenth of the time of a regular expression.
"""

from __future__ import annotations


def only(allowed: str) -> bytes:
    """The table of these ASCII characters, without NUL."""
    characters = allowed.encode("ascii")
    return bytes(octet if octet in characters else octet == 0 for octet in range(256))
