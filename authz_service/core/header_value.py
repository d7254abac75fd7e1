"""Encodes a claim's JSON value as the value of a header.

Pure. Three encodings are named in the configuration: ``csv``, ``json`` and ``base64url-json``. Without one, a list is
encoded as ``csv``, and a string is sent as it is.

Invariants: an encoded value has no control characters, no outer whitespace, and at most ``MAX_VALUE_BYTES`` bytes. A
list reads as the items that the token contains, no more and no fewer.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from authz_service.core import base64url
from authz_service.core.scalars import has_surrogate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_VALUE_BYTES = 8000  # many servers accept header lines of 8 KiB, with the name in them
_SURELY_FITS = MAX_VALUE_BYTES // 4  # characters; UTF-8 has at most four bytes for each

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class UnencodableError(Exception):
    """The value cannot be encoded. The message says why, without the value."""


def encode(value: Any, encoding: str | None) -> str:
    """The value of a header; empty if there is nothing to send.

    Raises:
        UnencodableError: if the encoding cannot express the value, or the result is too long.
    """
    text = value if encoding is None and isinstance(value, str) else _ENCODERS[encoding](value)
    if not (text.isascii() and text.isprintable()) and (_CONTROL.search(text) or has_surrogate(text)):
        raise UnencodableError("a control character")
    if text != text.strip():
        raise UnencodableError("whitespace at its start or end")
    if len(text) > _SURELY_FITS and (size := len(text.encode())) > MAX_VALUE_BYTES:
        raise UnencodableError(f"{size} bytes, at most {MAX_VALUE_BYTES} are sent")
    return text


def _plain(value: Any) -> str:
    return _csv(value) if isinstance(value, list) else _scalar(value)


def _scalar(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case _:
            raise UnencodableError("an object, a list or null where a string, a number or a boolean is expected")


def _csv(value: Any) -> str:
    """The items joined by commas; a value that is not a list counts as its only item."""
    if value in ("", []):
        return ""
    return ",".join(map(_item, value if isinstance(value, list) else [value]))


def _item(value: Any) -> str:
    text = _scalar(value)
    if not text:
        raise UnencodableError("an empty item")
    if "," in text:
        raise UnencodableError("an item with a comma")
    if text != text.strip():
        raise UnencodableError("an item with whitespace at its start or end")
    return text


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))  # in ASCII


def _base64url_json(value: Any) -> str:
    return base64url.encode(_json(value).encode())


_ENCODERS: Mapping[str | None, Callable[[Any], str]] = {
    None: _plain,
    "csv": _csv,
    "json": _json,
    "base64url-json": _base64url_json,
}
