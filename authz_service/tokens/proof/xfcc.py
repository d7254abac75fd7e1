"""Parses ``x-forwarded-client-cert``, in which proxies describe the client certificates of their connections. Pure.

The header is a list of elements separated by commas; each proxy appends one. An element consists of pairs such as
``Hash=...``, separated by semicolons. A value may be in double quotes, and a backslash in it escapes the next
character: Envoy puts a subject there as RFC 2253 writes it. It does not quote URI and DNS names, so a proxy must not
send them (``uri`` and ``dns`` of ``set_current_client_cert_details``) if its CA signs names with commas or semicolons.

Invariants:
- The whole header matches the grammar, or it is malformed: nothing before a proxy's element moves its boundaries.
- The work is linear in the length of the header.
"""

from __future__ import annotations

import re

_MAX_LENGTH = 65536  # characters: more than Envoy's default limit for all headers of a request
_MAX_ELEMENTS = 100
_MAX_PAIRS = 1000  # of one element: a certificate may have hundreds of DNS names
_REPEATABLE = frozenset({"by", "uri", "dns"})  # Envoy adds a pair for each such name of a certificate

# Possessive throughout, so that a match never backtracks. A value without quotes has no character that a reader could
# take for syntax, except "=": Envoy does not quote URIs.
_KEY = r"[A-Za-z][A-Za-z0-9_-]*+"
_QUOTED = r'"[^"\\\x00-\x1f\x7f]*+(?:\\[^\x00-\x1f\x7f][^"\\\x00-\x1f\x7f]*+)*+"'
_VALUE = rf'(?:{_QUOTED}|[^"\\,;\x00-\x20\x7f]*+)'
_ELEMENT = rf"{_KEY}={_VALUE}(?:;{_KEY}={_VALUE}){{0,{_MAX_PAIRS - 1}}}+"
_PAIRS = re.compile(rf"({_KEY})=({_VALUE})")
_ELEMENTS = re.compile(_ELEMENT)
_HEADER = re.compile(rf"[ \t]*+{_ELEMENT}[ \t]*+(?:,[ \t]*+{_ELEMENT}[ \t]*+){{0,{_MAX_ELEMENTS - 1}}}+")


def element(header: str, position: int) -> dict[str, str] | None:
    """The pairs of one element, counted from the right: 1 is the last. None if there are fewer elements.

    Keys are lower-case, and values have no quotes, but keep their backslashes. Of repeated keys, the first one counts.

    Raises:
        ValueError: if the header is malformed, or the element has a key twice; the message does not quote it.
    """
    if len(header) > _MAX_LENGTH or not _HEADER.fullmatch(header):
        raise ValueError("malformed")
    elements = _ELEMENTS.findall(header)
    if position > len(elements):
        return None
    pairs: dict[str, str] = {}
    for name, value in _PAIRS.findall(elements[-position]):
        key = name.lower()
        if key not in pairs:
            pairs[key] = value[1:-1] if value.startswith('"') else value
        elif key not in _REPEATABLE:
            raise ValueError("malformed: an element has a key twice")
    return pairs
