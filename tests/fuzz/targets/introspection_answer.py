"""An introspection response makes a token acceptable only if it has ``active``, and if a JWT with its claims would be.

The first octet chooses what the answer is about: an opaque token, or (an odd octet) a JWT that was verified before.

* A response is rejected unless it is one JSON object with one reading. Any such object leads to an outcome, never to
  another exception.
* An opaque token is acceptable only if ``active`` is exactly true, ``iss`` is the issuer where it is given, the token
  type is Bearer, the times hold, and there is no marker of an ID token.
* A verified JWT keeps its signed claims, and is acceptable only if the answer is about the same subject.
* No response is cached for longer than configured, and no active one past its ``exp``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from authz_service.config.model import IntrospectionSettings, Issuer
from authz_service.core import strict_json
from authz_service.tokens.introspection.response import IntrospectionResponse, VerifiedJwt, validate_response
from authz_service.tokens.jwt.claims import validate_claims
from fuzz.issuers import AUDIENCE, LEEWAY, MAIN, NOW, claims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.core.claims import Claims

OUTCOMES = {"opaque active", "jwt active", "inactive", "expired", "id_token", "invalid_claim", "not an object"}
MAX_BYTES = 2048
_MARKERS = {"nonce", "at_hash", "c_hash", "s_hash", "events"}


@functools.cache
def _issuer() -> tuple[Issuer, IntrospectionSettings, VerifiedJwt]:
    introspection = {
        "client_id": "api",
        "client_secret_file": "secret",
        "cache_ttl": "30s",
        "negative_cache_ttl": "10s",
    }
    issuer = Issuer.read({"issuer": MAIN, "name": "main", "audiences": [AUDIENCE], "introspection": introspection})
    assert issuer.introspection is not None
    header = {"alg": "EdDSA", "typ": "at+jwt"}
    return issuer, issuer.introspection, VerifiedJwt(header, validate_claims(issuer, header, claims(), NOW))


def run(data: bytes) -> str:
    is_jwt = bool(data[:1] and data[0] & 1)
    try:
        members = strict_json.loads(data[1:])
    except ValueError:
        return "not an object"
    if not isinstance(members, dict):
        return "not an object"
    issuer, settings, verified = _issuer()
    answer = validate_response(issuer, settings, members, verified if is_jwt else None, NOW)
    if isinstance(answer.outcome, tuple):
        assert answer.until <= NOW + settings.negative_cache_ttl
        return answer.outcome[0].value
    _require_active(answer, members)
    if is_jwt:
        added = {name: value for name, value in _present(members).items() if name != "active"}
        assert answer.outcome.claims.raw == added | dict(verified.claims.raw)
        assert _MARKERS.isdisjoint(added)
        assert {members.get("iss") or MAIN, members.get("sub") or "alice", members.get("client_id") or "app"} == {
            *(MAIN, "alice", "app")
        }
        return "jwt active"
    _require_acceptable(answer.outcome.claims, members)
    return "opaque active"


def _require_active(answer: IntrospectionResponse, members: dict[str, Any]) -> None:
    assert members["active"] is True
    assert answer.active
    assert answer.until <= NOW + 30
    if members.get("exp") is not None:
        assert not isinstance(members["exp"], bool)
        assert members["exp"] > NOW - LEEWAY
        assert answer.until <= members["exp"]


def _require_acceptable(outcome: Claims, members: dict[str, Any]) -> None:
    assert members.get("iss") in {None, MAIN}
    assert members.get("token_type") is None or members["token_type"].lower() == "bearer"
    assert members["exp"] is not None
    assert max(members.get("nbf") or 0, members.get("iat") or 0) <= NOW + LEEWAY
    assert _MARKERS.isdisjoint(members)
    assert outcome.subject == (members.get("sub") or "")
    assert outcome.subject.isprintable() or not outcome.subject.isascii()
    assert _present(outcome.raw) | {"iss": MAIN} == _present(members) | {"iss": MAIN}


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
