"""Validating an introspection response (RFC 7662 section 2.2).

No I/O, and no decision about a request: a result holds for every rule.

Invariants:
- ``active`` must be exactly ``true``, and alone accepts no token: the response for an opaque token passes the
  validation of a JWT's claims, and one for a verified JWT does not contradict it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz_service.core.claims import ValidatedToken
from authz_service.core.errors import Rejected
from authz_service.core.members import numeric_date, optional_str
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt.claims import valid_until, validate_claims

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz_service.config.model import IntrospectionSettings, Issuer
    from authz_service.core.claims import Claims


@dataclass(frozen=True, slots=True)
class IntrospectionResponse:
    """A response, validated: the token, or why it is rejected."""

    active: bool  # as the server responded; an active token may be rejected all the same
    outcome: ValidatedToken | tuple[Reason, str]
    since: float  # seconds since the epoch: when it was received
    until: float  # when it leaves the cache

    def token(self) -> ValidatedToken:
        """The validated token.

        Raises:
            Rejected: if it is rejected.
        """
        if isinstance(self.outcome, tuple):
            raise Rejected(*self.outcome)
        return self.outcome


@dataclass(frozen=True, slots=True)
class IntrospectionFailure:
    """No response, and why. Another request may succeed after ``retry_after`` seconds."""

    cause: str
    retry_after: int


IntrospectionResult = IntrospectionResponse | IntrospectionFailure


def validate_response(
    issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any], verified: Claims | None, now: float
) -> IntrospectionResponse:
    """Validate a response body. ``verified`` are the claims of a JWT whose signature was verified, None if opaque."""
    active = body.get("active") is True
    body = _without_nulls(issuer, body)
    try:
        if active and verified is None:
            return _validate_opaque(issuer, settings, body, now)
        if active and verified is not None:
            return _validate_verified(issuer, settings, body, verified, now)
        outcome = Reason.INACTIVE, f"{issuer.label}: active is not true in the introspection response"
    except Rejected as rejected:
        outcome = rejected.reason, rejected.cause
    return IntrospectionResponse(active, outcome, since=now, until=now + settings.negative_cache_ttl)


def _without_nulls(issuer: Issuer, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop members that are null: all but ``active`` are optional, and many servers write null for an absent one.

    An absent member meets no condition and no requirement. The markers of other kinds of tokens count even when null.
    """
    markers = (*issuer.id_token_markers, "events")
    return {name: value for name, value in body.items() if value is not None or name in markers}


def _validate_opaque(
    issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any], now: float
) -> IntrospectionResponse:
    members = dict(body)
    if "iss" not in members:  # optional in a response, and the server is the issuer's
        members["iss"] = issuer.issuer
    if "token_type" in members and optional_str(members, "token_type").lower() != "bearer":
        raise Rejected(Reason.WRONG_TOKEN_TYPE, "token_type in the introspection response is not Bearer")
    claims = validate_claims(issuer, None, members, now)
    until = min(now + settings.cache_ttl, numeric_date(members, "exp", now), valid_until(issuer, claims))
    return IntrospectionResponse(active=True, outcome=ValidatedToken(claims), since=now, until=until)


def _validate_verified(
    issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any], verified: Claims, now: float
) -> IntrospectionResponse:
    """The JWT's own claims apply. A response that contradicts them is about another token."""
    expected = {"iss": issuer.issuer, "sub": verified.subject, "client_id": verified.client_id}
    for name, value in expected.items():
        seen = body.get(name)
        if value and seen is not None and seen != value:
            raise Rejected(Reason.INACTIVE, f"{name} in the introspection response differs from the JWT's")
    expires = numeric_date(body, "exp", now + settings.cache_ttl)
    if now >= expires + issuer.leeway:
        raise Rejected(Reason.INACTIVE, f"exp in the introspection response has passed (leeway {issuer.leeway:g} s)")
    until = min(now + settings.cache_ttl, expires)
    return IntrospectionResponse(active=True, outcome=ValidatedToken(verified), since=now, until=until)


def conclude(results: Sequence[IntrospectionResult]) -> ValidatedToken:
    """Combine the results of several servers for one token: the first active response decides.

    Raises:
        Rejected: ``introspection_unavailable`` if no response is active and a server failed; else ``inactive``, or the
            reason why the active token is rejected.
    """
    for result in results:
        if isinstance(result, IntrospectionResponse) and result.active:
            return result.token()
    failures = [result for result in results if isinstance(result, IntrospectionFailure)]
    if failures:
        wait = min(failure.retry_after for failure in failures)
        raise Rejected(Reason.INTROSPECTION_UNAVAILABLE, failures[0].cause, retry_after=wait)
    outcomes = [result.outcome for result in results if isinstance(result, IntrospectionResponse)]
    causes = {outcome[1] for outcome in outcomes if isinstance(outcome, tuple)}
    raise Rejected(Reason.INACTIVE, "; ".join(sorted(causes)))
