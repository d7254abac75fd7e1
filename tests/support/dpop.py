"""DPoP proofs (RFC 9449), valid and with any part wrong, and the tokens that are bound to their keys.

Proofs are built without a JOSE library, which would refuse to build an invalid one.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING, Any

from support.signing import Signer, base64url

if TYPE_CHECKING:
    from collections.abc import Mapping

# The members that are hashed for a thumbprint, in the order of RFC 7638 section 3.2 and RFC 8037 section 2.
_THUMBPRINT_MEMBERS = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "AKP": ("alg", "kty", "pub"),
}

# The examples of RFC 7638 section 3.1 and RFC 8037 appendix A.3.
RFC_THUMBPRINTS: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjB"
            "ZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8"
            "KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_"
            "xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29",
        },
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    ),
    (
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    ),
)


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The JWK's SHA-256 thumbprint, in base64url."""
    members = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}
    return base64url(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def access_token_hash(token: str) -> str:
    """The ``ath`` of a proof for this token."""
    return base64url(hashlib.sha256(token.encode()).digest())


class DpopKey:
    """A client's key."""

    def __init__(self, algorithm: str = "ES256", name: str = "client") -> None:
        """Another ``name`` is another key; the keys are the same for the whole test run."""
        self.signer = Signer(algorithm, f"dpop-{name}")

    @property
    def algorithm(self) -> str:
        return self.signer.algorithm

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        return self.signer.jwk(kid=None, use=None)

    @property
    def jkt(self) -> str:
        """The ``cnf.jkt`` of a token that is bound to this key."""
        return thumbprint(self.jwk)

    @property
    def cnf(self) -> dict[str, Any]:
        """The ``cnf`` of a token that is bound to this key."""
        return {"jkt": self.jkt}

    def proof(
        self,
        method: str,
        url: str,
        token: str | None,
        *,
        now: float,
        jti: str | None = None,
        nonce: str | None = None,
        header_changes: Mapping[str, Any] | None = None,
        claim_changes: Mapping[str, Any] | None = None,
        sign_with: DpopKey | None = None,
    ) -> str:
        """A proof for one request, with these changes; a change to None removes the member.

        Without ``token`` it has no ``ath``, as at a token endpoint. Without ``jti`` it has a random one. ``sign_with``
        signs in place of the key in the header.
        """
        header = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk}
        claims = {
            "jti": jti or secrets.token_urlsafe(16),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": int(now),
            "ath": None if token is None else access_token_hash(token),
            "nonce": nonce,
        }
        return (sign_with or self).sign_json(
            _json_without_null(header, header_changes), _json_without_null(claims, claim_changes)
        )

    def sign_json(self, header: bytes, claims: bytes) -> str:
        """A JWS with exactly this JSON."""
        return self.signer.sign_json(header, claims)


def _json_without_null(members: Mapping[str, Any], changes: Mapping[str, Any] | None) -> bytes:
    changed = {**members, **(changes or {})}
    return json.dumps({name: value for name, value in changed.items() if value is not None}).encode()
