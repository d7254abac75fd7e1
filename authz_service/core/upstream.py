"""The headers that carry the caller's identity to the upstream.

Invariants: a configured header never reaches the upstream with a value that the client sent: it is overwritten from the
claims, or removed. A claim that could split or disguise a header is refused, not cleaned.
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
        self._plain = not FOLDABLE.search("".join(headers))  # then only a name that folding changes can spoof one
        self._always_removed: tuple[str, ...] = () if forward_authorization else ("authorization",)
        self._all_removed = self._always_removed + tuple(headers)

    def for_token(self, claims: Claims) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        """The headers to overwrite and those to remove on a request with a token, besides the ``spoofed`` ones.

        Raises:
            Rejected: ``invalid_claim``, if a claim cannot be the value of a header.
        """
        overwrite: list[tuple[str, str]] = []
        remove = self._always_removed
        for name, claim in self._claims:
            value = _header_value(claims, claim)
            if value:
                overwrite.append((name, value))
            else:
                remove += (name,)
        return tuple(overwrite), remove

    def without_token(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        """The headers to remove on a request that passes without a token."""
        return self._all_removed + self.spoofed(sent)

    def spoofed(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        """Headers such as ``x_auth_subject``, which servers that follow CGI read as ``x-auth-subject``."""
        if self._plain and not FOLDABLE.search("".join(sent)):
            return ()
        return tuple(
            name
            for name in sent
            # Folding keeps the length and is expensive: few names have to be folded.
            if len(name) in self._lengths and name not in self._names and folded(name) in self._folded
        )


def _header_value(claims: Claims, claim: str) -> str:
    """The value of the header for a claim; empty if the token lacks it."""
    match claim:
        case "sub":
            value = claims.subject
        case "client_id":
            value = claims.client_id
        case "scope":
            return claims.scope  # made of scope-tokens, which are valid in a header
        case _:
            value = _as_string(claims.raw.get(claim), claim)
    if _UNFIT.search(value) or value != value.strip():
        raise Rejected(
            Reason.INVALID_CLAIM, f"claim {claim!r} cannot be sent in a header: it has a control or outer whitespace"
        )
    return value


def _as_string(value: Any, claim: str) -> str:
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
            raise Rejected(
                Reason.INVALID_CLAIM,
                f"claim {claim!r} cannot be sent in a header: it must be a string, a number, a boolean, or a list of "
                "strings without commas",
            )
