"""Issuers with keys for one run, and tokens signed with them.

Reads and writes no files; no key leaves the process. The key set goes through the same parser as a provider's. Tokens
are built without a JOSE library, so that a case can build an invalid one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from authz_service.config.units import seconds_of
from authz_service.core import base64url, ml_dsa
from authz_service.keys import jwk, keyset
from authz_service.keys.source import Fetched

if TYPE_CHECKING:
    from authz_service.config.model import Issuer, Settings
    from authz_service.core.claim_path import ClaimPath
    from authz_service.policy_tools.cases import CaseToken

_KID = "ephemeral"
_TENANT = "test-tenant"
_LIFETIME = 3600.0  # seconds: longer than any run
_EXPIRES_IN = 300  # seconds, a common lifetime of access tokens
_RSA_BITS = 2048  # the minimum that is accepted, and the fastest to generate
# The fastest to generate first.
_BY_PREFERENCE = (
    *("EdDSA", "Ed25519", "ES256", "Ed448", "ES384", "ES512", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"),
    *("RS256", "PS256", "RS384", "PS384", "RS512", "PS512"),
)
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_ALGORITHMS = get_default_algorithms()
_TIMES = ("exp", "nbf", "iat", "auth_time")


class EphemeralIssuer:
    """One issuer with a generated key: a key source and a signer. A second key plays a stranger."""

    def __init__(self, issuer: Issuer, settings: Settings) -> None:
        self._issuer = issuer
        self._audience = _audience(issuer, settings)
        self.algorithm = next(name for name in _BY_PREFERENCE if name in issuer.algorithms)
        self._keys = {signer: _private_key(self.algorithm) for signer in ("issuer", "stranger")}

    async def fetch(self, *, have_keys: bool) -> Fetched:  # noqa: ARG002 - the signature is KeySource's
        """The issuer's key set."""
        public = self._keys["issuer"].public_key()
        published = jwk.members_of(public) | {"kid": _KID, "use": "sig"}
        return Fetched(keyset.parse(json.dumps({"keys": [published]}).encode(), 1), _LIFETIME)

    async def close(self) -> None:
        """See KeySource. There is nothing to close."""

    def token(self, token: CaseToken, now: float) -> str:
        """A valid access token with the changes of the case."""
        header = _without_null({"alg": self.algorithm, "kid": _KID, "typ": self._typ()} | token.header)
        claims = _without_null(self._claims(token, now))
        signing_input = ".".join(base64url.encode(json.dumps(part).encode()) for part in (header, claims))
        signature = _signature(self.algorithm, self._keys[token.signed_by], signing_input.encode())
        return f"{signing_input}.{base64url.encode(signature)}"

    def _iss(self, given: dict[str, Any]) -> str:
        """The issuer; that of the case's tenant, or of the first one, if there are several."""
        template, tenant = self._issuer.template, given.get("tid")
        if template is None:
            return self._issuer.issuer
        return template.filled(tenant if isinstance(tenant, str) else next(iter(self._issuer.tenants), _TENANT))

    def _typ(self) -> str:
        types = self._issuer.token_types
        return "at+jwt" if "at+jwt" in self._issuer.accepted_types else types[0]

    def _claims(self, token: CaseToken, now: float) -> dict[str, Any]:
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


def _private_key(algorithm: str) -> Any:
    if algorithm in {"EdDSA", "Ed25519"}:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if algorithm in ml_dsa.SUPPORTED:
        return ml_dsa.SUPPORTED[algorithm].private_key_type.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)


def _signature(algorithm: str, key: Any, message: bytes) -> bytes:
    if algorithm[:2] in {"Ed", "ML"}:
        signature: bytes = key.sign(message)
        return signature
    return _ALGORITHMS[algorithm].sign(message, key)
