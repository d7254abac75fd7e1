"""Parses JSON that has exactly one reading (RFC 8259 with the restrictions of RFC 7493, I-JSON).

Pure. Refuses what the standard parser guesses (UTF-16, duplicate members, NaN, lone surrogates): what one party signed,
another must not read differently.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_DIGITS = 40  # more than any count, time or identifier in use
_MAX_DEPTH = 32  # levels; known providers' tokens and key sets have at most 6
_WHITE_SPACE = " \t\n\r"


def loads(data: bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: if the text is not JSON in UTF-8, has duplicate members, a number that is not finite or has more
            than 40 digits, a lone surrogate, or nests deeper than 32 levels. The message quotes nothing of the text.
    """
    try:
        text = data.decode("utf-8", "strict").strip(_WHITE_SPACE)
        value, end = _scan(text, 0)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (StopIteration, json.JSONDecodeError):
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(text):
        raise ValueError("not JSON")
    # Strict UTF-8 has no surrogates, only an escape does; and there is at most one level more than opening brackets.
    if "\\u" in text or text.count("{") + text.count("[") >= _MAX_DEPTH:
        _inspect(value)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a duplicate member")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number that is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number with too many digits")
    return int(text)


def _no_constant(_text: str) -> NoReturn:
    raise ValueError("NaN or Infinity")


_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
).scan_once  # type: ignore[attr-defined]  # raw_decode, without its own message for an error


def _inspect(value: Any) -> None:
    """Check every string and the depth, without recursion."""
    layer = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                _require_encodable(item)
        if not below:
            return
        layer = below
    raise ValueError("nested too deeply")


def _require_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate") from None
