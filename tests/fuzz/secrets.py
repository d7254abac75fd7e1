"""What must not be found again in a message, a log line or an answer."""

from __future__ import annotations

_MIN_LENGTH = 16  # characters; a shorter string may be there by accident


def is_secret(text: str, data: bytes) -> bool:
    """Whether nothing but this place of an input can have brought a string into an output.

    Words of our own are not: they hold no digit, and what the input holds twice may be quoted from the other place.
    """
    is_no_word = len(text) >= _MIN_LENGTH and text.isascii() and any(map(str.isdigit, text))
    return is_no_word and data.count(text.encode()) == 1
