"""Base64url without padding (RFC 7515 section 2). Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Final

# Translates to base64's own alphabet. The two characters that only base64 has, and padding, become invalid.
_TO_BASE64: Final = bytes.maketrans(b"-_+/=", b"+/\0\0\0")
_PADDING: Final = (b"", b"", b"==", b"=")  # by the characters beyond a multiple of four; one alone is an error
# The last of those characters has unused bits, which are zero (RFC 4648 section 3.5).
_LAST: Final = ("", "", "AQgw", "AEIMQUYcgkosw048")


def encode(data: bytes) -> str:
    """Encode bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(encoded: str) -> bytes:
    """Decode strictly: padding, other characters and nonzero trailing bits are errors, so each value has one encoding.

    Raises:
        ValueError: for any other string; the message does not quote it.
    """
    beyond = len(encoded) % 4
    try:
        data = binascii.a2b_base64(encoded.encode("ascii").translate(_TO_BASE64) + _PADDING[beyond], strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64url") from None
    if beyond and encoded[-1] not in _LAST[beyond]:
        raise ValueError("not canonical base64url")
    return data
