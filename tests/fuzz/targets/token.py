"""A token is accepted only if its issuer signed exactly this token, and if every reader finds the same claims in it.

The input is a token. Where its first line names a key, it is what that key signs instead: the second line is the
header, the rest the claims.

* A denied token has a reason, and its cause quotes no part of the token.
* Of tokens that arrive as octets, only those are accepted that an issuer signed: never a forged one.
* PyJWT, given the issuer's key, accepts what is accepted here; and it satisfies a plain reading of the RFCs:
  algorithm, type, issuer, times, no marker of an ID token.
* The claims are the members of the payload, each of which occurs once.
* No token of three parts that PyJWT takes for a JWT is opaque.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import jwt

from authz_service.core.claims import Claims, ValidatedToken
from authz_service.core.errors import Rejected
from authz_service.tokens.attempt import LAST
from authz_service.tokens.jwt import jws
from fuzz.issuers import AUDIENCE, ISSUERS, LEEWAY, NOW, SIGNERS, signing_inputs
from fuzz.sidecar import now, sidecar

if TYPE_CHECKING:
    from support.signing import Signer

OUTCOMES = {
    *("accepted", "malformed_token", "unsupported_algorithm", "unknown_issuer", "unknown_key", "bad_signature"),
    *("expired", "not_yet_valid", "missing_claim", "invalid_claim", "id_token", "wrong_token_type"),
}
MAX_BYTES = 2048
_MIN_SECRET = 16  # characters; a shorter string may occur in a message by accident
_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
_MARKERS = {"nonce", "at_hash", "c_hash", "s_hash", "events"}
_OTHER_KINDS = {"id", "refresh", "offline", "logout"}
_SIGNATURE_ONLY: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "sub", "jti")}


def run(data: bytes) -> str:
    name, _, text = data.partition(b"\n")
    signer = SIGNERS.get(name.decode("latin-1"))
    if signer is None:
        return _run_token(data.decode("latin-1"))
    header, _, payload = text.partition(b"\n")
    return _run_signed(signer, header, payload)


def _run_token(token: str) -> str:
    claims, outcome = _claims(token)
    if claims is not None:
        assert token.rpartition(".")[0] in signing_inputs()
    if token.count(".") == 2 and _is_jwt_to_others(token):
        assert jws.is_jwt(token)
    return outcome


def _run_signed(signer: Signer, header: bytes, payload: bytes) -> str:
    token = signer.sign_json(header, payload)
    claims, outcome = _claims(token)
    if claims is None:
        return outcome
    head, members = _read(header), _read(payload)
    issuer = ISSUERS[signer.kid]
    _require_header(head, signer)
    _require_times(members)
    assert members["iss"] == issuer
    assert _MARKERS.isdisjoint(members)
    assert members.get("typ") is None or members["typ"].lower() not in _OTHER_KINDS
    assert members.get("token_use") is None or members["token_use"].lower() not in _OTHER_KINDS
    assert members == claims.raw
    assert claims.subject == (members.get("sub") or "")
    assert "\n" not in claims.subject + claims.client_id + claims.scope
    assert (AUDIENCE in claims.audiences) == (AUDIENCE in _listed(members.get("aud")))
    if head["alg"] == signer.algorithm:  # PyJWT does not know the other name of EdDSA
        assert jwt.decode(token, signer.key.public_key(), [signer.algorithm], _SIGNATURE_ONLY, issuer=issuer) == members
    return outcome


def _claims(token: str) -> tuple[Claims | None, str]:
    sidecar().clear_caches()
    try:
        found = sidecar().validator.validate(token, now(), None, LAST)
    except Rejected as rejected:
        quoted = [part for part in token.split(".") if len(part) >= _MIN_SECRET and part in rejected.cause]
        assert not [part for part in quoted if part not in _decoded(token)]  # a claim may contain one
        return None, rejected.reason.value
    assert isinstance(found, ValidatedToken)
    assert sidecar().validator.validate(token, now(), None, LAST) == found  # from the cache
    return found.claims, "accepted"


def _decoded(token: str) -> str:
    parts = (part.encode() + b"==" for part in token.split(".")[:2])
    return b" ".join(map(base64.urlsafe_b64decode, parts)).decode("latin-1")


def _is_jwt_to_others(token: str) -> bool:
    try:
        jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return False
    return True


def _read(text: bytes) -> dict[str, Any]:
    """The members, each of which is there once."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    read = json.loads(text.decode(), object_pairs_hook=members)
    assert isinstance(read, dict)
    return read


def _require_header(header: dict[str, Any], signer: Signer) -> None:
    assert header["alg"] in {signer.algorithm, "Ed25519" if signer.algorithm == "EdDSA" else signer.algorithm}
    assert header.get("kid") in {None, signer.kid}
    assert header.get("typ", "jwt").lower() in _TYPES
    assert header.keys().isdisjoint({"crit", "b64", "zip"})


def _require_times(members: dict[str, Any]) -> None:
    times = {name: members[name] for name in ("exp", "nbf", "iat") if members.get(name) is not None}
    assert not [time for time in times.values() if isinstance(time, bool) or not isinstance(time, int | float)]
    assert times["exp"] > NOW - LEEWAY
    assert max(times.get("nbf", 0), times.get("iat", 0)) <= NOW + LEEWAY


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
