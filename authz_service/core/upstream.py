"""The headers by which the protected service learns who calls.

Law: pure. A header named here never reaches the upstream with a value that the client sent: it is overwritten from the
claims, or removed. A value that could split or disguise a header is refused, not cleaned.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.core.errors import Rejected
from authz_service.core.headers import FOLDABLE, folded
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.core.claims import Claims

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class UpstreamHeaders:
    """The ``upstream`` part of the settings, compiled."""

    def __init__(self, headers: Mapping[str, str], *, forward_authorization: bool) -> None:
        """``headers`` maps a lower-case header name to the claim that fills it."""
        self._claims = tuple(headers.items())
        self._names = frozenset(headers)
        self._folded = frozenset(map(folded, headers))
        self._lengths = frozenset(map(len, headers))
        self._plain = not FOLDABLE.search("".join(headers))  # so that only a name that folding changes can be like one
        self._always_removed: tuple[str, ...] = () if forward_authorization else ("authorization",)
        self._all_removed = self._always_removed + tuple(headers)

    def without_claims(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        """What to remove from a request that goes through without a token."""
        return self._all_removed + self.disguised(sent)

    def from_claims(self, claims: Claims) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        """What to overwrite and what to remove on a request with a token, beside what is ``disguised``.

        Raises:
            Rejected: ``invalid_claim``, when a claim cannot be a header's value.
        """
        overwrite: list[tuple[str, str]] = []
        remove = self._always_removed
        for name, claim in self._claims:
            value = _value(claims, claim)
            if value:
                overwrite.append((name, value))
            else:
                remove += (name,)
        return tuple(overwrite), remove

    def disguised(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        """Headers sent as ``x_auth_subject``: servers that follow CGI read them as ``x-auth-subject``."""
        if self._plain and not FOLDABLE.search("".join(sent)):
            return ()
        return tuple(
            name
            for name in sent
            # Folding keeps the length, and is dear: few names have to be folded.
            if len(name) in self._lengths and name not in self._names and folded(name) in self._folded
        )


def _value(claims: Claims, claim: str) -> str:
    """The header value for a claim; empty where the token does not have it."""
    match claim:
        case "sub":
            value = claims.subject
        case "client_id":
            value = claims.client_id
        case "scope":
            return claims.scope  # made of scope-tokens, which fit a header as they are
        case _:
            value = _text(claims.members.get(claim), claim)
    if _UNFIT.search(value) or value != value.strip():
        raise Rejected(Reason.INVALID_CLAIM, f"claim {claim!r} cannot be sent in a header: a control or outer space")
    return value


def _text(value: Any, claim: str) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case list() if all(isinstance(item, str) and item and "," not in item for item in value):
            return ",".join(value)
        case _:
            raise Rejected(Reason.INVALID_CLAIM, f"claim {claim!r} cannot be sent in a header: not a text or a list")
