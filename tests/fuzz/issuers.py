"""Two issuers whose private keys are in the repository, so that a good token in the corpus stays good."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from support.dpop import access_token_hash
from support.signing import Signer, base64url

NOW = 1_800_000_000
MAIN, OTHER = "https://idp.example/", "https://other.example/"
AUDIENCE = "https://api.example/"
LEEWAY = 30  # seconds
_KEYS = json.loads(Path(__file__).with_name("keys.json").read_text())
_PARSERS: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


def _signer(jwk: dict[str, Any]) -> Signer:
    return Signer(jwk["alg"], jwk["kid"], _PARSERS[jwk["kty"]].from_jwk(jwk))


SIGNERS = {jwk["kid"]: _signer(jwk) for jwk in _KEYS}
# The publisher of each key. The stranger's key is not published.
ISSUERS = {"rs": MAIN, "es": MAIN, "ed": MAIN, "other": OTHER}


def published(issuer: str) -> bytes:
    """The issuer's key set."""
    return json.dumps({"keys": [SIGNERS[name].jwk() for name, owner in ISSUERS.items() if owner == issuer]}).encode()


def claims(issuer: str = MAIN, **changes: Any) -> dict[str, Any]:
    """The claims of a valid access token; None removes one."""
    own = {"iss": issuer, "sub": "alice", "aud": AUDIENCE, "client_id": "app", "iat": NOW, "exp": NOW + 600}
    return {name: value for name, value in (own | {"scope": "read"} | changes).items() if value is not None}


# Each good token in the corpus: the key that signed it, and its claims.
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "reader": ("ed", claims()),
    "reader-rs": ("rs", claims()),
    "reader-es": ("es", claims(scope=None, scp=["read", "write"], realm_access={"roles": ["user"]})),
    "reader-other": ("other", claims(OTHER, sub="bob")),
    "admin": ("ed", claims(sub="root", scope="admin read", tenant="acme")),
    "tenant": ("ed", claims(tenant="acme", groups=["a", "b"], auth_time=NOW - 60, acr="urn:mfa")),
}


@functools.cache
def tokens() -> dict[str, str]:
    """The tokens, signed again."""
    return {name: SIGNERS[key].sign(members) for name, (key, members) in GOOD.items()}


@functools.cache
def signing_inputs() -> dict[str, str]:
    """Everything that the issuers ever signed, with the token's name: a token with another signing input is forged."""
    return {token.rpartition(".")[0]: name for name, token in tokens().items()}


# The request and the token of the DPoP proofs in the corpus.
DPOP_HOST, DPOP_TARGET = "api.example", "/orders/%7e1?page=2"
DPOP_TOKEN = "header.claims.signature"
NONCE_KEY = bytes(32)


def dpop_header(name: str, **changes: Any) -> dict[str, Any]:
    """The header of a proof by this key; None removes a member."""
    signer = SIGNERS[name]
    own = {"typ": "dpop+jwt", "alg": signer.algorithm, "jwk": signer.jwk(kid=None, use=None)}
    return {member: value for member, value in (own | changes).items() if value is not None}


def dpop_claims(**changes: Any) -> dict[str, Any]:
    """The claims of a valid proof; None removes one."""
    ath = access_token_hash(DPOP_TOKEN)
    own = {"jti": "one", "htm": "GET", "htu": f"https://{DPOP_HOST}/orders/~1", "iat": NOW, "ath": ath}
    return {name: value for name, value in (own | changes).items() if value is not None}


@functools.cache
def dpop_proof() -> str:
    """The good proof in the corpus, signed again."""
    header, members = json.dumps(dpop_header("es")), json.dumps(dpop_claims())
    return SIGNERS["es"].sign_json(header.encode(), members.encode())


@functools.cache
def dpop_signing_inputs() -> frozenset[str]:
    """Everything that its key ever signed: a proof with another signing input is forged."""
    return frozenset({dpop_proof().rpartition(".")[0]})


def unsigned(header: str, payload: str) -> str:
    """A token with these two parts and a made-up signature."""
    return f"{base64url(header.encode())}.{base64url(payload.encode())}.AAAA"
