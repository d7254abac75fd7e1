"""Base64url without padding (RFC 7515 section 2). Pure."""

from __future__ import annotations

import base64
import binascii


def encode(data: bytes) -> str:
    """Encode bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(encoded: str) -> bytes:
    """Decode strictly: padding, other characters and nonzero trailing bits are errors, so each value has one encoding.

    Raises:
        ValueError: for any other string; the message does not quote it.
    """
    try:
        ascii_bytes = encoded.encode("ascii")
        decoded = base64.b64decode(ascii_bytes + b"=" * (-len(ascii_bytes) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != ascii_bytes:
        raise ValueError("not canonical base64url")
    return decoded
