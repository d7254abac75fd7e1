"""A DPoP proof is accepted only if the key of the token signed exactly this proof, for this token and request.

The input is a proof. Where its first line names a key, it is what that key signs instead: the second line is the
header, the rest the claims. Tokens are bound to the key of that name, otherwise to the key ``es``.

* A refused proof has one of three reasons, and its cause quotes no part of the proof.
* Of proofs that arrive as octets, only those are accepted that the key signed: never a forged one.
* An accepted proof satisfies a plain reading of RFC 9449, and PyJWT verifies it with the key in its header.
* It is accepted once. The key that was parsed before changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jwt

from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.proof.dpop import DpopVerifier, VerifiedProof
from authz_service.tokens.proof.nonce import Nonces
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets
from fuzz.issuers import DPOP_HOST, DPOP_TARGET, DPOP_TOKEN, NONCE_KEY, NOW, SIGNERS, dpop_signing_inputs
from fuzz.secrets import is_secret
from support.dpop import access_token_hash, thumbprint
from support.plain_url import plain_uri, plain_url, requested_url

if TYPE_CHECKING:
    from authz_service.tokens.proof.dpop import ProofKey

OUTCOMES = {"accepted", "accepted with a nonce", "invalid_proof"}
MAX_BYTES = 2048
_MAX_AGE, _LEEWAY, _LIFETIME = 60.0, 5.0, 300.0
_ALGORITHMS = ("ES256", "EdDSA", "Ed25519", "RS256", "PS256")
_REQUEST = Attributes("GET", DPOP_HOST, DPOP_TARGET, {})
_TARGETS = Targets()
_NONCES = Nonces(NONCE_KEY, _LIFETIME)


def run(data: bytes) -> str:
    name, _, text = data.partition(b"\n")
    signer = SIGNERS.get(name.decode("latin-1"))
    if signer is None:
        proof, key = data.decode("latin-1"), SIGNERS["es"]
    else:
        header, _, claims = text.partition(b"\n")
        proof, key = signer.sign_json(header, claims), signer
    jkt = thumbprint(key.jwk(kid=None, use=None))
    outcome, found = _verified(proof, jkt, data)
    if found is None:
        return outcome
    if signer is None:
        assert proof.rpartition(".")[0] in dpop_signing_inputs()
    _require_plain(proof, jkt)
    assert found.key is not None
    known_outcome, known = _verified(proof, jkt, data, found.key)
    assert known_outcome == outcome
    assert known is not None
    assert known.key is found.key
    with_nonce, _ = _verified(proof, jkt, data, nonces=_NONCES)
    assert with_nonce in {"accepted", "nonce_required"}
    return "accepted with a nonce" if with_nonce == "accepted" else "accepted"


def _verified(
    proof: str, jkt: str, data: bytes, known: ProofKey | None = None, nonces: Nonces | None = None
) -> tuple[str, VerifiedProof | None]:
    replays = ReplayCache(10, _MAX_AGE, lambda: None)
    verifier = DpopVerifier(algorithms=_ALGORITHMS, max_age=_MAX_AGE, targets=_TARGETS, replays=replays, nonces=nonces)
    digest = base64url.decode(jkt)
    try:
        found = verifier.verify(proof, _REQUEST, DPOP_TOKEN, digest, leeway=_LEEWAY, now=NOW, known=known)
    except Rejected as rejected:
        assert rejected.reason in {Reason.INVALID_PROOF, Reason.NONCE_REQUIRED}
        assert len(replays) == 0
        _require_closed(rejected.cause, proof, data)
        return rejected.reason.value, None
    try:
        verifier.verify(proof, _REQUEST, DPOP_TOKEN, digest, leeway=_LEEWAY, now=NOW, known=found.key)
    except Rejected as rejected:
        assert rejected.reason is Reason.REPLAYED_PROOF
    else:
        raise AssertionError("a proof was accepted twice")
    return "accepted", found


def _require_closed(cause: str, proof: str, data: bytes) -> None:
    assert cause.isprintable()
    assert not [part for part in proof.split(".") if is_secret(part, data) and part in cause]
    for place in range(len(data) - 23):
        text = data[place : place + 24].decode("latin-1")
        assert not (is_secret(text, data) and text in cause and DPOP_HOST not in text)


def _require_plain(proof: str, jkt: str) -> None:
    header, claims = jwt.get_unverified_header(proof), _claims(proof)
    assert header["typ"].lower() in {"dpop+jwt", "application/dpop+jwt"}
    assert header["alg"] in _ALGORITHMS
    assert header.keys().isdisjoint({"crit", "b64", "enc", "zip"})
    assert header["jwk"].keys().isdisjoint({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
    assert thumbprint(header["jwk"]) == jkt
    assert claims["htm"] == "GET"
    assert plain_url(plain_uri(claims["htu"])) == requested_url(DPOP_HOST, DPOP_TARGET)
    assert claims["ath"] == access_token_hash(DPOP_TOKEN)
    assert isinstance(claims["jti"], str)
    assert claims["jti"]
    times = {name: claims[name] for name in ("iat", "exp", "nbf") if name in claims}
    assert not [time for time in times.values() if isinstance(time, bool) or not isinstance(time, (int, float))]
    assert NOW - _MAX_AGE <= times["iat"] <= NOW + _LEEWAY
    assert times.get("exp", NOW) > NOW - _LEEWAY
    assert times.get("nbf", NOW) <= NOW + _LEEWAY
    algorithm = "EdDSA" if header["alg"] == "Ed25519" else header["alg"]
    numbers = {name: header["jwk"][name] for name in ("kty", "crv", "x", "y", "n", "e") if name in header["jwk"]}
    verifier = jwt.get_algorithm_by_name(algorithm)
    signing_input, _, signature = proof.rpartition(".")
    material: Any = jwt.PyJWK(numbers, algorithm).key
    assert verifier.verify(signing_input.encode(), material, jwt.utils.base64url_decode(signature))


def _claims(proof: str) -> dict[str, Any]:
    """The members, each of which is there once."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    read = json.loads(jwt.utils.base64url_decode(proof.split(".")[1]), object_pairs_hook=members)
    assert isinstance(read, dict)
    return read
