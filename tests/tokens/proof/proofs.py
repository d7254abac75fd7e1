"""The verifier of these tests, a request, and proofs for it."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.tokens.proof.dpop import DpopVerifier
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets
from support.dpop import DpopKey, access_token_hash, thumbprint

if TYPE_CHECKING:
    from authz_service.tokens.proof.dpop import ProofKey, VerifiedProof
    from authz_service.tokens.proof.nonce import Nonces

NOW = 1_800_000_000.0
LEEWAY = 5.0
MAX_AGE = 60.0
ALGORITHMS = ("ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256")
TOKEN = "header.claims.signature"
URL = "https://api.example.com/v1/orders"
REQUEST = Attributes("GET", "api.example.com", "/v1/orders?page=2", {})
OWNER, THIEF = DpopKey(), DpopKey(name="thief")

proof = functools.partial(OWNER.proof, "GET", URL, TOKEN, now=NOW)


def verifier(
    *, nonces: Nonces | None = None, max_entries: int = 1000, algorithms: tuple[str, ...] = ALGORITHMS
) -> DpopVerifier:
    return DpopVerifier(
        algorithms=algorithms,
        max_age=MAX_AGE,
        targets=Targets(),
        replays=ReplayCache(max_entries, MAX_AGE, lambda: None),
        nonces=nonces,
    )


def verified(
    each: str,
    by: DpopVerifier | None = None,
    *,
    jkt: str = OWNER.jkt,
    now: float = NOW,
    token: str = TOKEN,
    request: Attributes = REQUEST,
    known: ProofKey | None = None,
) -> VerifiedProof:
    digest = base64url.decode(jkt)
    return (by or verifier()).verify(each, request, token, digest, leeway=LEEWAY, now=now, known=known)


def json_proof(header: str | None = None, claims: str | None = None, key: DpopKey = OWNER) -> str:
    """A proof with exactly this JSON."""
    return key.sign_json((header or header_json(key)).encode(), (claims or claims_json()).encode())


def header_json(key: DpopKey = OWNER) -> str:
    return json.dumps({"typ": "dpop+jwt", "alg": key.algorithm, "jwk": key.jwk})


def claims_json(**changes: Any) -> str:
    members = {"jti": "one", "htm": "GET", "htu": URL, "iat": NOW, "ath": access_token_hash(TOKEN)}
    return json.dumps(members | changes)


def with_jwk(jwk: dict[str, Any], algorithm: str = "ES256") -> tuple[str, str]:
    """A proof with this key in its header, not signed with it, and the thumbprint of the key."""
    return proof(header_changes={"jwk": jwk, "alg": algorithm}), thumbprint(jwk)
