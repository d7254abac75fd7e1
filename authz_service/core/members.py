"""Reads members of a token with the type that they must have.

Pure; converts nothing. A member that is null is present and has the wrong type: ``"nbf": null`` is not the same as no
``nbf``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCOPE_TOKEN = re.compile(r"[!\x23-\x5B\x5D-\x7E]+")  # one scope (RFC 6749 section 3.3)
_ABSENT = object()
_JSON_TYPES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def optional_str(members: Mapping[str, Any], name: str) -> str:
    """A string; empty if the token does not have the member.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    value = members.get(name, "")
    if not isinstance(value, str):
        raise _of_wrong_type(name, value, "a string")
    return value


def strings(members: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    """The strings in several members, each of which is a string or a list of strings.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    for name in names:
        value = members.get(name, ())
        if isinstance(value, str):
            yield value
        elif not isinstance(value, (list, tuple)):
            raise _of_wrong_type(name, value, "a string or a list of strings")
        else:
            for item in value:
                if not isinstance(item, str):
                    raise _of_wrong_type(f"{name}[]", item, "a string")
                yield item


def numeric_date(members: Mapping[str, Any], name: str, absent: float) -> float:
    """A finite number (RFC 7519 section 2, NumericDate); ``absent`` if the token does not have the member.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    value = members.get(name, _ABSENT)
    if value is _ABSENT:
        return absent
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _of_wrong_type(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise Rejected(Reason.INVALID_CLAIM, f"claim {name} is too large a number") from None


def _of_wrong_type(name: str, value: object, expected: str) -> Rejected:
    return Rejected(Reason.INVALID_CLAIM, f"claim {name} is {_JSON_TYPES[type(value)]}, not {expected}")
