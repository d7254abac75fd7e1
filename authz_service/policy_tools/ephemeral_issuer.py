"""Issuers with keys for one run, and tokens signed with them.

Reads and writes no files; no key leaves the process. The key set goes through the same parser as a provider's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from authz_service.config.units import seconds_of
from authz_service.keys import keyset
from authz_service.keys.source import Fetched
from authz_service.policy_tools.signing_key import SigningKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.config.model import Issuer, Settings
    from authz_service.core.claim_path import ClaimPath
    from authz_service.policy_tools.cases import CaseToken

_KID = "ephemeral"
_TENANT = "test-tenant"
_LIFETIME = 3600.0  # seconds: longer than any run
_EXPIRES_IN = 300  # seconds, a common lifetime of access tokens
_TIMES = ("exp", "nbf", "iat", "auth_time")


class EphemeralIssuer:
    """One issuer with a generated key: a key source and a signer. A second key plays a stranger."""

    def __init__(self, issuer: Issuer, settings: Settings) -> None:
        self._issuer = issuer
        self._audience = _audience(issuer, settings)
        self._keys = {signer: SigningKey(issuer.algorithms) for signer in ("issuer", "stranger")}

    async def fetch(self, *, have_keys: bool) -> Fetched:  # noqa: ARG002 - the signature is KeySource's
        """The issuer's key set."""
        published = self._keys["issuer"].public_jwk | {"kid": _KID, "use": "sig"}
        return Fetched(keyset.parse(json.dumps({"keys": [published]}).encode(), 1), _LIFETIME)

    async def close(self) -> None:
        """See KeySource. There is nothing to close."""

    def token(self, token: CaseToken, now: float, confirmation: Mapping[str, str] | None = None) -> str:
        """A valid access token with the changes of the case, bound to its sender by ``confirmation``."""
        key = self._keys[token.signed_by]
        header = _without_null({"alg": key.algorithm, "kid": _KID, "typ": self._typ()} | token.header)
        return key.jwt(header, _without_null(self._claims(token, now, confirmation)))

    def _iss(self, given: dict[str, Any]) -> str:
        """The issuer; that of the case's tenant, or of the first one, if there are several."""
        template, tenant = self._issuer.template, given.get("tid")
        if template is None:
            return self._issuer.issuer
        return template.filled(tenant if isinstance(tenant, str) else next(iter(self._issuer.tenants), _TENANT))

    def _typ(self) -> str:
        types = self._issuer.token_types
        return "at+jwt" if "at+jwt" in self._issuer.accepted_types else types[0]

    def _claims(self, token: CaseToken, now: float, confirmation: Mapping[str, str] | None) -> dict[str, Any]:
        given = {name: _time(value, now) if name in _TIMES else value for name, value in token.claims.items()}
        default: dict[str, Any] = {
            "iss": self._iss(given),
            "sub": "test-subject",
            "iat": int(now),
            "exp": int(now) + _EXPIRES_IN,
        }
        paths = self._issuer.audience_claims
        if self._audience is not None and given.keys().isdisjoint(path.names[0] for path in paths):
            default |= _nested(paths[0], self._audience)
        if self._issuer.access_token_profile == "rfc9068":
            default = {"client_id": "test-client", "jti": "test"} | default
        if confirmation is not None:
            default["cnf"] = confirmation
            if isinstance(own := given.get("cnf"), dict):
                given["cnf"] = {**confirmation, **own}
        return default | given


def _audience(issuer: Issuer, settings: Settings) -> str | None:
    """The issuer's first audience; if it has none, the first that a rule sets for its tokens."""
    named = (
        audience
        for rule in settings.rules
        if rule.require.allows_issuer(issuer.label)
        for part in rule.require.parts()
        if part.allows_issuer(issuer.label)
        for audience in part.audiences or ()
    )
    return next(iter((*issuer.audiences, *named)), None)


def _nested(path: ClaimPath, value: str) -> dict[str, Any]:
    """Claims with this value at the path."""
    *outer, last = path.names
    claims: dict[str, Any] = {last: value}
    for name in reversed(outer):
        claims = {name: claims}
    return claims


def _time(value: Any, now: float) -> Any:
    """A time relative to now, such as -5m; any other value is used unchanged."""
    if not isinstance(value, str):
        return value
    try:
        seconds = seconds_of(value[1:] if value[:1] in {"+", "-"} else value)
    except ValueError:
        return value
    return int(now - seconds if value[0] == "-" else now + seconds)


def _without_null(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
