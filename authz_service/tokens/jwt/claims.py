"""Validating what a verified token says, against its issuer's settings.

Law: pure; the kind of the token first, then its claims. A claim of another type than its own is refused, never
converted. Whether the audience is this API is the rule's question.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.core.claims import Claims
from authz_service.core.errors import Rejected
from authz_service.core.members import SCOPE_TOKEN, numeric_date, optional_str, strings
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt.token_kind import require_access_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from authz_service.config.model import Issuer

    _Header = Mapping[str, Any] | None  # an opaque token has none

_RFC9068_CLAIMS = ("iss", "exp", "aud", "sub", "client_id", "iat", "jti")  # section 2.2
# What each is by RFC 7519 section 4.1, RFC 8693 section 4.3 and OpenID Connect Core section 2, whoever looks at it.
_STRINGS = ("sub", "jti", "client_id", "azp")
_NUMBERS = ("exp", "nbf", "iat")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def validate_claims(issuer: Issuer, header: _Header, members: Mapping[str, Any], now: float) -> Claims:
    """The claims of a token whose signature was verified; or, without a header, those that its issuer told of it.

    Raises:
        Rejected: with the reason that the first unfit claim gives.
    """
    for _, require in REQUIREMENTS:
        require(issuer, header, members, now)
    scopes = frozenset(_scopes(members, issuer.scope_claims))
    return Claims(
        issuer=issuer.label,
        subject=_plain_text(members, "sub"),
        client_id=next(filter(None, (_plain_text(members, name) for name in issuer.client_claims)), ""),
        audiences=frozenset(strings(members, issuer.audience_claims)),
        scopes=scopes,
        scope=" ".join(sorted(scopes)),
        raw=members,
    )


def valid_until(issuer: Issuer, claims: Claims) -> float:
    """Until when the claims stay valid, in seconds since the epoch."""
    until = numeric_date(claims.raw, "exp", 0.0) + issuer.leeway
    if issuer.max_token_age is not None:
        until = min(until, numeric_date(claims.raw, "iat", 0.0) + issuer.max_token_age + issuer.leeway)
    return until


def _require_issuer(issuer: Issuer, _header: _Header, members: Mapping[str, Any], _now: float) -> None:
    if members.get("iss") != issuer.issuer:
        raise Rejected(Reason.UNKNOWN_ISSUER, "iss is not the issuer that vouches for the token")


def _require_kind(issuer: Issuer, header: _Header, members: Mapping[str, Any], _now: float) -> None:
    require_access_token(issuer, header, members)


def _require_types(issuer: Issuer, _header: _Header, members: Mapping[str, Any], _now: float) -> None:
    for name in dict.fromkeys((*_STRINGS, *issuer.client_claims)):
        optional_str(members, name)
    for name in _NUMBERS:
        numeric_date(members, name, 0.0)
    for _ in strings(members, dict.fromkeys(("aud", *issuer.audience_claims, *issuer.scope_claims))):
        pass


def _require_claims(issuer: Issuer, _header: _Header, members: Mapping[str, Any], _now: float) -> None:
    required = _RFC9068_CLAIMS if issuer.access_token_profile == "rfc9068" else ()
    _require_present(members, (*issuer.required_claims, *required))


def _require_present(members: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if members.get(name) is None:
            raise Rejected(Reason.MISSING_CLAIM, f"claim {name} is missing")


def _require_times(issuer: Issuer, _header: _Header, members: Mapping[str, Any], now: float) -> None:
    """RFC 7519 sections 4.1.4 to 4.1.6; ``exp`` itself is the first moment at which the token is not valid."""
    if now >= numeric_date(members, "exp", now) + issuer.leeway:
        raise Rejected(Reason.EXPIRED, "exp has passed")
    if now < numeric_date(members, "nbf", now) - issuer.leeway:
        raise Rejected(Reason.NOT_YET_VALID, "nbf has not come")
    if now < numeric_date(members, "iat", now) - issuer.leeway:
        raise Rejected(Reason.NOT_YET_VALID, "iat has not come")
    if issuer.max_token_age is not None:
        _require_present(members, ("iat",))
        if now >= numeric_date(members, "iat", now) + issuer.max_token_age + issuer.leeway:
            raise Rejected(Reason.TOO_OLD, "iat is longer ago than max_token_age")


# In this order; what kind of token it is tells an operator most, so it comes before its times.
REQUIREMENTS = (
    ("iss", _require_issuer),
    ("kind of token", _require_kind),
    ("required claims", _require_claims),
    ("types of claims", _require_types),
    ("times", _require_times),
)


def _plain_text(members: Mapping[str, Any], name: str) -> str:
    """A text that will stand in headers, metadata and access logs, and so cannot be one that splits them."""
    value = optional_str(members, name)
    if _CONTROL.search(value):
        raise Rejected(Reason.INVALID_CLAIM, f"claim {name} holds a control character")
    return value


def _scopes(members: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    """The scopes in several claims: a list's items as they are, a text split at spaces and at nothing else.

    What is no scope-token is left out: nothing can require it, and one with a space in it would turn into two on its
    way to the upstream.
    """
    for name in names:
        split = isinstance(members.get(name), str)
        for item in strings(members, (name,)):
            yield from filter(SCOPE_TOKEN.fullmatch, item.split(" ") if split else (item,))
