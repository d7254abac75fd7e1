"""What the security events of one verified SET (RFC 8417) revoke.

Pure. The caller has verified signature, ``typ``, ``iss``, ``aud`` and ``jti``.

Invariants:
- Only CAEP session-revoked and RISC account-disabled, account-purged and sessions-revoked (deprecated) revoke. Other
  types are valid and revoke nothing.
- An event revokes tokens issued up to its time, which is at most the SET's ``iat``: never those of a later login.
- A subject that does not name a user or a session is refused: it would revoke too much, or nothing.
- A session is revoked by its id, which is unique at its issuer, whatever names the user beside it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.tokens.revocation.revocations import Revocation, TokenParts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.telemetry.issuer_metrics import SecurityEventType

SESSION_REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
ACCOUNT_DISABLED = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
ACCOUNT_PURGED = "https://schemas.openid.net/secevent/risc/event-type/account-purged"
SESSIONS_REVOKED = "https://schemas.openid.net/secevent/risc/event-type/sessions-revoked"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"
STREAM_UPDATED = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated"
_REVOKING: dict[str, SecurityEventType] = {
    SESSION_REVOKED: "session-revoked",
    ACCOUNT_DISABLED: "account-disabled",
    ACCOUNT_PURGED: "account-purged",
    SESSIONS_REVOKED: "sessions-revoked",
}
REVOKING_TYPES = frozenset(_REVOKING.values())
_STATUSES = frozenset({"enabled", "paused", "disabled"})  # SSF 1.0 section 8.1.2
MAX_EVENTS = 16  # of one SET
_ALL_SESSIONS = "ALL"  # Keycloak's id for all sessions of the user
_MAX_ID = 512  # characters of an identifier
_MAX_TIME = 1e18  # a larger integer might not fit a float
_MAX_ALIASES = 16  # RFC 9493 section 3.2.8


class UnusableEventError(Exception):
    """A SET whose events cannot be applied. The message quotes nothing of it."""


class SecurityEvent(NamedTuple):
    """One event of a SET."""

    type: SecurityEventType
    revocations: tuple[Revocation, ...] = ()
    status: str = ""  # of the stream, of a stream-updated event: enabled, paused, disabled; else empty


def events_of(claims: Mapping[str, Any], issuer: str, tenant: str = "") -> tuple[SecurityEvent, ...]:
    """The events of a SET with these claims, which revoke tokens of ``tenant`` only if there is one.

    Raises:
        UnusableEventError: if an event that revokes is malformed, or has a subject that is not supported.
    """
    events, issued_at = claims.get("events"), claims.get("iat")
    if not isinstance(events, dict) or not 1 <= len(events) <= MAX_EVENTS:
        raise UnusableEventError(f"events is not an object with 1 to {MAX_EVENTS} members")
    until = _time("iat", issued_at)
    return tuple(_event(uri, payload, claims, until, issuer, tenant) for uri, payload in events.items())


def _event(
    uri: str, payload: object, claims: Mapping[str, Any], issued_at: float, issuer: str, tenant: str
) -> SecurityEvent:
    kind = _REVOKING.get(uri)
    if kind is not None:
        return SecurityEvent(kind, _revocations(payload, claims, issued_at, issuer, tenant, kind))
    if uri == VERIFICATION:
        return SecurityEvent("verification")
    if uri == STREAM_UPDATED:
        return SecurityEvent("stream-updated", status=_status(payload))
    return SecurityEvent("other")


def _status(payload: object) -> str:
    status = payload.get("status") if isinstance(payload, dict) else None
    if isinstance(status, dict):
        status = status.get("status")  # Keycloak 26.7 nests the response of its status endpoint
    return status if isinstance(status, str) and status in _STATUSES else ""


def _revocations(
    payload: object, claims: Mapping[str, Any], issued_at: float, issuer: str, tenant: str, kind: str
) -> tuple[Revocation, ...]:
    if not isinstance(payload, dict):
        raise UnusableEventError("an event is not an object")
    time = _time("event_timestamp", payload.get("event_timestamp", issued_at))
    # Up to, with the second of the event: the iat of a token has no fraction. Milliseconds become the SET's own time.
    before = math.nextafter(min(time, issued_at), math.inf)
    subject = claims.get("sub_id", payload.get("subject"))  # the latter in drafts before SSF 1.0
    return tuple(Revocation(parts._replace(issuer=tenant), before, kind) for parts in _subjects(subject, issuer))


def _subjects(subject: object, issuer: str) -> tuple[TokenParts, ...]:
    """A subject with each of its aliases."""
    if isinstance(subject, dict) and subject.get("format") == "aliases":
        identifiers = subject.get("identifiers")
        if not isinstance(identifiers, list) or not 1 <= len(identifiers) <= _MAX_ALIASES:
            raise UnusableEventError(f"identifiers is not a list of 1 to {_MAX_ALIASES} subjects")
        named = [each for each in identifiers if _is_own_and_simple(each, issuer)]
        if not named:
            raise UnusableEventError("no alias is of this issuer and has a format that is supported")
        return tuple(_subject(each, issuer) for each in named)
    return (_subject(subject, issuer),)


def _is_own_and_simple(subject: object, issuer: str) -> bool:
    match subject:
        case {"format": "iss_sub", "iss": iss}:
            return bool(iss == issuer)
        case {"format": "iss_sub" | "opaque"}:
            return True
    return False


def _subject(subject: object, issuer: str) -> TokenParts:
    if not isinstance(subject, dict):
        raise UnusableEventError("the subject is missing or not an object")
    # Keycloak and drafts write complex subjects without a format.
    if subject.get("format", "complex") != "complex":
        user, session = _user(subject, issuer), _ALL_SESSIONS
    else:
        members = subject.keys() - {"format"}
        if not members & {"user", "session"} or not members <= {"user", "session", "tenant"}:
            raise UnusableEventError("a complex subject must have a user or session, and at most a tenant beside them")
        user = _user(subject["user"], issuer) if "user" in members else ""
        session = _session(subject["session"]) if "session" in members else _ALL_SESSIONS
    if session != _ALL_SESSIONS:
        return TokenParts(session=session)  # without its user: Keycloak's lightweight tokens do not name one
    if not user:
        raise UnusableEventError("the user's format is not supported, or a member is missing")
    return TokenParts(subject=user)


def _user(subject: object, issuer: str) -> str:
    """The ``sub`` of the user's tokens, empty where the format does not say."""
    match subject:
        case {"format": "iss_sub", "iss": iss, "sub": sub}:
            if iss != issuer:
                raise UnusableEventError("the subject is of another issuer")
            return _identifier(sub)
        case {"format": "opaque", "id": identifier}:
            return _identifier(identifier)
    return ""


def _session(subject: object) -> str:
    match subject:
        case {"format": "opaque", "id": identifier}:
            return _identifier(identifier)
    raise UnusableEventError("the session's format is not opaque, or its id is missing")


def _identifier(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_ID:
        raise UnusableEventError(f"an identifier is not a string of 1 to {_MAX_ID} characters")
    return value


def _time(name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_TIME:
        return float(value)
    raise UnusableEventError(f"{name} is not a time")
