"""JSON scalars, compared as JSON values: in Python, ``1 == True``, and both equal ``1.0``; strings beyond UTF-8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_NOT_A_SCALAR = ("", None)  # a list, an object or null: equals nothing that can be configured


def scalar_key(value: Any) -> tuple[str, Any]:
    """A scalar with its JSON type, so that equal keys mean equal JSON values."""
    match value:
        case bool():
            return "boolean", value
        case int() | float():
            return "number", value
        case str():
            return "string", value
        case _:
            return _NOT_A_SCALAR


def scalar_keys(values: Iterable[Any]) -> frozenset[tuple[str, Any]]:
    """The keys of several scalars."""
    return frozenset(map(scalar_key, values))


def has_surrogate(text: str) -> bool:
    """Whether there is half of a surrogate pair, which JSON and YAML can express and UTF-8 cannot."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
