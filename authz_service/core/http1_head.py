"""Collects the heads of HTTP/1.1 messages from a peer whose bytes may be hostile.

Owns how large a header section may be, and which bytes it may hold. It does not parse messages.

The bounds protect the parser: h11's regular expressions take time quadratic in the length of some malformed lines.
"""

from __future__ import annotations

import re

from authz_service.core.errors import BadMessage

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_END_OVERLAP = 2  # bytes of _END_OF_HEAD that may have come with the previous read
# A recipient must not accept a bare CR (RFC 9112 section 2.2), and may reject folded lines (RFC 9112 section 5.2) and
# control characters (RFC 9110 section 5.5).
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n[ \t]")


class HeadBuffer:
    """Collects bytes until they hold a whole head: start line, header fields and the empty line after them."""

    def __init__(self, max_bytes: int, max_lines: int) -> None:
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._data = bytearray()
        self._searched = 0  # bytes that hold no end of a head

    def __bool__(self) -> bool:
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        """Append what the peer sent."""
        self._data += data

    def take(self) -> bytes | None:
        """Remove and return the first head; None while it is incomplete.

        Raises:
            BadMessage: if it is too large or holds forbidden bytes.
        """
        end = _END_OF_HEAD.search(self._data, self._searched)
        size = end.end() if end else len(self._data)
        if size > self._max_bytes:
            raise BadMessage(f"has a header section of more than {self._max_bytes} bytes", too_large=True)
        if end is None:
            self._searched = max(0, size - _END_OVERLAP)
            return None
        head = bytes(self._data[:size])
        del self._data[:size]
        self._searched = 0
        if head.count(b"\n") > self._max_lines:
            raise BadMessage(f"has a header section of more than {self._max_lines} lines", too_large=True)
        if _FORBIDDEN.search(head):
            raise BadMessage("has control characters or a folded line in its header section")
        return head

    def take_remaining(self) -> bytes:
        """Remove and return what follows the heads that were taken."""
        remaining = bytes(self._data)
        self._data.clear()
        self._searched = 0
        return remaining
