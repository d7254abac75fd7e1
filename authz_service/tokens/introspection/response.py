"""What an introspection server says of a token (RFC 7662 section 2.2), judged like a token.

Law: pure. ``active`` allows nothing by itself: it must be exactly true, and then all that an issuer's settings want of
a token is wanted of the answer. What is made of an answer holds for every rule, and is never a decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz_service.core.claims import ValidatedToken
from authz_service.core.errors import Rejected
from authz_service.core.members import numeric_date, optional_str
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt.claims import valid_until, validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz_service.config.model import Introspection, Issuer
    from authz_service.core.claims import Claims


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a token by introspection: the validated token, or why it was refused."""

    active: bool  # whether the server said so; a token that is active may be unacceptable all the same
    outcome: ValidatedToken | tuple[Reason, str]
    since: float  # seconds since the epoch
    until: float  # it is not remembered from here on

    def token(self) -> ValidatedToken:
        """The token, if it is acceptable.

        Raises:
            Rejected: with the reason why it is not.
        """
        if isinstance(self.outcome, tuple):
            raise Rejected(*self.outcome)
        return self.outcome


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The server could not be asked, and why. Asking again may help after ``retry_after`` seconds."""

    cause: str
    retry_after: int


def judge(
    issuer: Issuer, settings: Introspection, said: Mapping[str, Any], verified: Claims | None, now: float
) -> Answer:
    """What becomes of what the server said; ``verified`` are the claims of a JWT whose signature was verified."""
    active = said.get("active") is True
    said = _without_nulls(issuer, said)
    try:
        if active and verified is None:
            return _of_opaque(issuer, settings, said, now)
        if active and verified is not None:
            return _of_verified(issuer, settings, said, verified, now)
        outcome = Reason.INACTIVE, f"{issuer.label} does not say that the token is active"
    except Rejected as rejected:
        outcome = rejected.reason, rejected.cause
    return Answer(active, outcome, since=now, until=now + settings.negative_cache_ttl)


def _without_nulls(issuer: Issuer, said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The members that an answer has. All but ``active`` are optional, and many a server writes null for none.

    Taken for absent, a null meets no condition and lifts none that is required; what marks another kind of token marks
    it even so.
    """
    marks = (*issuer.id_token_markers, "events")
    return {name: value for name, value in said.items() if value is not None or name in marks}


def _of_opaque(issuer: Issuer, settings: Introspection, said: Mapping[str, Any], now: float) -> Answer:
    members = dict(said)
    if "iss" not in members:  # optional in an answer, whose sender is known
        members["iss"] = issuer.issuer
    if "token_type" in members and optional_str(members, "token_type").lower() != "bearer":
        raise Rejected(Reason.WRONG_TOKEN_TYPE, "token_type in the answer is not Bearer")
    claims = validate(issuer, None, members, now)
    until = min(now + settings.cache_ttl, numeric_date(members, "exp", now), valid_until(issuer, claims))
    return Answer(active=True, outcome=ValidatedToken(claims), since=now, until=until)


def _of_verified(
    issuer: Issuer, settings: Introspection, said: Mapping[str, Any], verified: Claims, now: float
) -> Answer:
    """Who it is stands in the JWT; an answer that speaks of somebody else does not speak of this token."""
    known = {"iss": issuer.issuer, "sub": verified.subject, "client_id": verified.client_id}
    for name, value in known.items():
        told = said.get(name)
        if value and told is not None and told != value:
            raise Rejected(Reason.INACTIVE, f"{name} in the answer is not the token's")
    expires = numeric_date(said, "exp", now + settings.cache_ttl)
    if now >= expires + issuer.leeway:
        raise Rejected(Reason.INACTIVE, "exp in the answer has passed")
    return Answer(
        active=True, outcome=ValidatedToken(verified), since=now, until=min(now + settings.cache_ttl, expires)
    )


def conclude(answers: Sequence[Answer | Unavailable]) -> ValidatedToken:
    """What several servers make of one token: the first that says it is active decides.

    Raises:
        Rejected: ``introspection_unavailable`` where nobody says so and somebody could not be asked; else ``inactive``,
            or why the token that is active is not acceptable.
    """
    for answer in answers:
        if isinstance(answer, Answer) and answer.active:
            return answer.token()
    missing = [answer for answer in answers if isinstance(answer, Unavailable)]
    if missing:
        wait = min(answer.retry_after for answer in missing)
        raise Rejected(Reason.INTROSPECTION_UNAVAILABLE, missing[0].cause, retry_after=wait)
    told = {answer.outcome[1] for answer in answers if isinstance(answer, Answer) and isinstance(answer.outcome, tuple)}
    raise Rejected(Reason.INACTIVE, "; ".join(sorted(told)))
