"""Reads members of a token with the type that they must have.

Pure; converts nothing. A member that is null is present and has the wrong type: ``"nbf": null`` is not the same as no
``nbf``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.core.claim_path import NotAnObjectError
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from authz_service.core.claim_path import ClaimPath

SCOPE_TOKEN = re.compile(r"[!\x23-\x5B\x5D-\x7E]+")  # one scope (RFC 6749 section 3.3)
_NUMBERS = frozenset({int, float})  # and not bool, which is a subclass of int
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


def optional_str_at(members: Mapping[str, Any], path: ClaimPath) -> str:
    """As ``optional_str``, for the member at a path."""
    names = path.names
    value = members.get(names[0], "") if len(names) == 1 else _find(members, path, "")  # one name, nearly always
    if not isinstance(value, str):
        raise _of_wrong_type(path.text, value, "a string")
    return value


def strings(members: Mapping[str, Any], paths: Iterable[ClaimPath]) -> list[str]:
    """The strings in several members, each of which is a string or a list of strings.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    found: list[str] = []
    for path in paths:
        names = path.names
        value = members.get(names[0], ()) if len(names) == 1 else _find(members, path, ())
        if isinstance(value, str):
            found.append(value)
        elif not isinstance(value, (list, tuple)):
            raise _of_wrong_type(path.text, value, "a string or a list of strings")
        else:
            for item in value:
                if not isinstance(item, str):
                    raise _of_wrong_type(f"{path}[]", item, "a string")
            found += value
    return found


def _find(members: Mapping[str, Any], path: ClaimPath, absent: object) -> Any:
    try:
        return path.find(members, absent)
    except NotAnObjectError:
        cause = f"claim {path} cannot be read: the path leads through a value that is not an object"
        raise Rejected(Reason.INVALID_CLAIM, cause) from None


def numeric_date(members: Mapping[str, Any], name: str, absent: float) -> float:
    """A finite number (RFC 7519 section 2, NumericDate); ``absent`` if the token does not have the member.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    value = members.get(name, absent)
    if type(value) not in _NUMBERS:
        raise _of_wrong_type(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise Rejected(Reason.INVALID_CLAIM, f"claim {name} is too large a number") from None


def _of_wrong_type(name: str, value: object, expected: str) -> Rejected:
    return Rejected(Reason.INVALID_CLAIM, f"claim {name} is {_JSON_TYPES[type(value)]}, not {expected}")
