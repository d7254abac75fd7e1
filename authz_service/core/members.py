"""Reading one member of a token: of the type that it must have, or refused.

Law: pure; nothing is converted. A member that is null is one that the token does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def text(members: Mapping[str, Any], name: str) -> str:
    """A text; empty where the token does not have it.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(Reason.INVALID_CLAIM, f"claim {name} is not a text")
    return value


def texts(members: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    """The texts in several members, each of which is one text or a list of them.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    for name in names:
        value = members.get(name)
        for item in value if isinstance(value, list) else () if value is None else (value,):
            if not isinstance(item, str):
                raise Rejected(Reason.INVALID_CLAIM, f"claim {name} is neither a text nor a list of texts")
            yield item


def number(members: Mapping[str, Any], name: str, absent: float) -> float:
    """A finite number that is no boolean (RFC 7519 section 2, NumericDate); ``absent`` where there is none.

    Raises:
        Rejected: ``invalid_claim`` for anything else.
    """
    value = members.get(name)
    if value is None:
        return absent
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Rejected(Reason.INVALID_CLAIM, f"claim {name} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise Rejected(Reason.INVALID_CLAIM, f"claim {name} is beyond all bounds") from None
