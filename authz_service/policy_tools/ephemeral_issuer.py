"""Keys that live for one run, and tokens signed with them on the fly.

Law: nothing is read and nothing is written; no key leaves the process. A published key set goes through the same parser
as a provider's, and a token is made by hand, so that a case may make a bad one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from authz_service.core import base64url
from authz_service.keys import keyset
from authz_service.keys.source import Fetched

if TYPE_CHECKING:
    from authz_service.config.model import Issuer, Settings
    from authz_service.policy_tools.cases import Token

_KID = "throwaway"
_LIFETIME = 3600.0  # seconds: longer than any run
_EXPIRES_IN = 300  # seconds: what access tokens commonly live
_RSA_BITS = 2048  # the least that is accepted, and the quickest to make
# The quickest to make first.
_BY_PREFERENCE = ("EdDSA", "ES256", "ES384", "ES512", "RS256", "PS256", "RS384", "PS384", "RS512", "PS512")
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_RELATIVE = re.compile(r"([+-]?)([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIMES = ("exp", "nbf", "iat", "auth_time")


class EphemeralIssuer:
    """One issuer with a key of its own: a key source, and a signer. Another key is a stranger's."""

    def __init__(self, issuer: Issuer, settings: Settings) -> None:
        self._issuer = issuer
        self._audience = _audience(issuer, settings)
        self.algorithm = next(name for name in _BY_PREFERENCE if name in issuer.algorithms)
        self._signing = get_default_algorithms()[self.algorithm]
        self._keys = {who: _private_key(self.algorithm) for who in ("issuer", "stranger")}

    async def fetch(self, *, have_keys: bool) -> Fetched:  # noqa: ARG002 - the signature is KeySource's
        """The key set that the issuer would publish."""
        public = self._keys["issuer"].public_key()
        jwk = _writer(self.algorithm).to_jwk(public, as_dict=True) | {"kid": _KID, "use": "sig"}
        jwk.pop("key_ops", None)
        return Fetched(keyset.parse(json.dumps({"keys": [jwk]}).encode(), 1), _LIFETIME)

    async def close(self) -> None:
        """Nothing is held open."""

    def token(self, token: Token, now: float) -> str:
        """A good access token, but for what the case changes."""
        header = _without_null({"alg": self.algorithm, "kid": _KID, "typ": "at+jwt"} | token.header)
        claims = _without_null(self._claims(token, now))
        signing_input = ".".join(base64url.encode(json.dumps(part).encode()) for part in (header, claims))
        signature = self._signing.sign(signing_input.encode(), self._keys[token.signed_by])
        return f"{signing_input}.{base64url.encode(signature)}"

    def _claims(self, token: Token, now: float) -> dict[str, Any]:
        said = {name: _moment(value, now) if name in _TIMES else value for name, value in token.claims.items()}
        own: dict[str, Any] = {
            "iss": self._issuer.issuer,
            "sub": "test-subject",
            "iat": int(now),
            "exp": int(now) + _EXPIRES_IN,
        }
        if self._audience is not None and said.keys().isdisjoint(self._issuer.audience_claims):
            own[self._issuer.audience_claims[0]] = self._audience
        if self._issuer.access_token_profile == "rfc9068":
            own = {"client_id": "test-client", "jti": "test"} | own
        return own | said


def _audience(issuer: Issuer, settings: Settings) -> str | None:
    """The issuer's first audience; where it has none, the first that a rule names for its tokens."""
    named = (
        audience
        for rule in settings.rules
        if rule.require.issuers is None or issuer.label in rule.require.issuers
        for audience in rule.require.audiences or ()
    )
    return next(iter((*issuer.audiences, *named)), None)


def _moment(value: Any, now: float) -> Any:
    """A time that is written relative to now, as -5m; anything else is what the case wants there."""
    match = _RELATIVE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    seconds = float(match[2]) * _SECONDS[match[3]]
    return int(now - seconds if match[1] == "-" else now + seconds)


def _without_null(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _private_key(algorithm: str) -> Any:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)


def _writer(algorithm: str) -> Any:
    return {"Ed": OKPAlgorithm, "ES": ECAlgorithm}.get(algorithm[:2], RSAAlgorithm)
