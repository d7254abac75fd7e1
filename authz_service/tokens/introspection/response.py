"""Validating an introspection response (RFC 7662 section 2.2).

No I/O, and no decision about a request: a result holds for every rule.

Invariants:
- ``active`` must be exactly ``true``, and alone accepts no token: the response for an opaque token passes the
  validation of a JWT's claims, and one for a verified JWT does not contradict it.
- The members of a response are added to the claims of a verified JWT that lacks them, and never replace one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from authz_service.core.claims import Identity, ValidatedToken
from authz_service.core.confirmation import IGNORED
from authz_service.core.errors import Rejected
from authz_service.core.members import numeric_date, optional_str
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt.claims import identity_of, valid_until, validate_claims

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz_service.config.model import IntrospectionSettings, Issuer
    from authz_service.core.claims import Claims


Refusal: TypeAlias = tuple[Reason, str, Identity | None]  # reason, cause, and the identity in an active response


class VerifiedJwt(NamedTuple):
    """A JWT whose signature was verified."""

    header: Mapping[str, Any]
    claims: Claims


@dataclass(frozen=True, slots=True)
class IntrospectionResponse:
    """A response, validated: the token, or why it is rejected."""

    active: bool  # as the server responded; an active token may be rejected all the same
    outcome: ValidatedToken | Refusal
    since: float  # seconds since the epoch: when it was received
    until: float  # when it leaves the cache

    def token(self) -> ValidatedToken:
        """The validated token.

        Raises:
            Rejected: if it is rejected.
        """
        if isinstance(self.outcome, tuple):
            reason, cause, identity = self.outcome
            rejected = Rejected(reason, cause)
            rejected.identity = identity
            raise rejected
        return self.outcome


@dataclass(frozen=True, slots=True)
class IntrospectionFailure:
    """No response, and why. Another request may succeed after ``retry_after`` seconds."""

    cause: str
    retry_after: int


IntrospectionResult = IntrospectionResponse | IntrospectionFailure


def validate_response(
    issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any], verified: VerifiedJwt | None, now: float
) -> IntrospectionResponse:
    """Validate a response body. ``verified`` is None for an opaque token."""
    active = body.get("active") is True
    outcome: Refusal
    body = _present_members(issuer, settings, body)
    try:
        if active and verified is None:
            return _validate_opaque(issuer, settings, body, now)
        if active and verified is not None:
            return _validate_verified(issuer, settings, body, verified, now)
        outcome = Reason.INACTIVE, f"{issuer.label}: active is not true in the introspection response", None
    except Rejected as rejected:
        outcome = rejected.reason, rejected.cause, identity_of(issuer, body)
    return IntrospectionResponse(active, outcome, since=now, until=now + settings.negative_cache_ttl)


def _present_members(issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop members that are null: all but ``active`` are optional, and many servers write null for an absent one.

    An absent member meets no condition and no requirement. The markers of other kinds of tokens count even when null.
    Some servers write an ``exp`` of 0 for a token that does not expire.
    """
    markers = (*issuer.id_token_markers, "events")
    present = {name: value for name, value in body.items() if value is not None or name in markers}
    exp = present.get("exp")
    if settings.exp == "optional" and exp == 0 and not isinstance(exp, bool):
        del present["exp"]
    return present


def _validate_opaque(
    issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any], now: float
) -> IntrospectionResponse:
    members = dict(body)
    if "iss" not in members:  # optional in a response, and the server is the issuer's
        members["iss"] = issuer.issuer
    token_type = optional_str(members, "token_type").lower() if "token_type" in members else "bearer"
    if token_type not in {"bearer", "dpop"}:
        raise Rejected(Reason.WRONG_TOKEN_TYPE, "token_type in the introspection response is neither DPoP nor Bearer")
    claims = validate_claims(issuer, None, members, now)
    _require_dpop_key(members, claims)
    until = min(now + settings.cache_ttl, numeric_date(members, "exp", math.inf), valid_until(issuer, claims))
    return IntrospectionResponse(active=True, outcome=ValidatedToken(claims), since=now, until=until)


def _validate_verified(
    issuer: Issuer, settings: IntrospectionSettings, body: Mapping[str, Any], verified: VerifiedJwt, now: float
) -> IntrospectionResponse:
    """The JWT's claims, and those that only the response has. A response that contradicts them is about another token.

    Providers issue JWTs without audience, subject and roles, which only the response has (Keycloak's lightweight access
    tokens). The signature proves that the issuer made the token, and the response comes from the same issuer.
    """
    own = verified.claims
    expected = {
        "iss": issuer.issuer,
        "sub": own.subject,
        "client_id": own.client_id,
        "cnf": own.raw.get("cnf"),
    }
    for name, value in expected.items():
        seen = body.get(name)
        if value and seen is not None and seen != value:
            raise Rejected(Reason.INACTIVE, f"{name} in the introspection response differs from the JWT's")
    expires = numeric_date(body, "exp", now + settings.cache_ttl)
    if now >= expires + issuer.leeway:
        raise Rejected(Reason.INACTIVE, f"exp in the introspection response has passed (leeway {issuer.leeway:g} s)")
    added = {name: value for name, value in body.items() if value is not None and name != "active"}
    claims = validate_claims(issuer, verified.header, added | dict(own.raw), now, kid=own.kid)
    if own.client_id and claims.client_id != own.client_id:  # an added claim comes before the JWT's in client_claims
        raise Rejected(Reason.INACTIVE, "the client in the introspection response differs from the JWT's")
    _require_dpop_key(body, claims)
    until = min(now + settings.cache_ttl, expires, valid_until(issuer, claims))
    return IntrospectionResponse(active=True, outcome=ValidatedToken(claims), since=now, until=until)


def _require_dpop_key(body: Mapping[str, Any], claims: Claims) -> None:
    """Reject a token of type DPoP whose key is not named: it must not pass as a bearer token."""
    confirmation = claims.confirmation
    named = confirmation is not None and (confirmation == IGNORED or confirmation.jkt is not None)
    if not named and str(body.get("token_type")).lower() == "dpop":
        cause = "token_type in the introspection response is DPoP, and cnf.jkt is missing"
        raise Rejected(Reason.WRONG_TOKEN_TYPE, cause)


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
