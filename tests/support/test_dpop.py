"""The DPoP proofs of the tests are those of RFC 9449, and their thumbprints those of the RFCs that define them."""

from __future__ import annotations

import jwt
import pytest

from support.dpop import RFC_THUMBPRINTS, DpopKey, access_token_hash, thumbprint

_NOW = 1_800_000_000


def test_thumbprints_are_those_of_the_rfcs() -> None:
    for jwk, expected in RFC_THUMBPRINTS:
        assert thumbprint(jwk) == expected


def test_thumbprint_and_token_hash_are_those_of_rfc_9449() -> None:
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    }
    assert thumbprint(jwk) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    assert access_token_hash(token) == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256"])
def test_a_proof_is_signed_by_the_key_in_its_header(algorithm: str) -> None:
    key = DpopKey(algorithm)
    proof = key.proof("GET", "https://api.example/a?q#f", "token", now=_NOW + 0.5, jti="j", nonce="n")
    header = jwt.get_unverified_header(proof)
    assert header == {"typ": "dpop+jwt", "alg": algorithm, "jwk": key.jwk}
    public = jwt.PyJWK(key.jwk, algorithm="EdDSA" if algorithm == "Ed25519" else algorithm).key
    signing_input, _, signature = proof.rpartition(".")
    if algorithm in {"EdDSA", "Ed25519"}:
        public.verify(jwt.utils.base64url_decode(signature), signing_input.encode())
    else:
        jwt.decode(proof, public, algorithms=[algorithm], options={"verify_iat": False})
    assert jwt.decode(proof, options={"verify_signature": False}) == {
        "jti": "j",
        "htm": "GET",
        "htu": "https://api.example/a",
        "iat": _NOW,
        "ath": access_token_hash("token"),
        "nonce": "n",
    }


def test_changes_set_and_remove_members_and_another_key_signs() -> None:
    owner, thief = DpopKey(), DpopKey(name="thief")
    assert owner.jkt != thief.jkt
    proof = owner.proof(
        *("GET", "https://api.example/", None),
        now=_NOW,
        header_changes={"typ": None, "kid": "k"},
        claim_changes={"jti": None, "iat": "soon"},
        sign_with=thief,
    )
    assert jwt.get_unverified_header(proof) == {"alg": "ES256", "jwk": owner.jwk, "kid": "k"}
    public = jwt.PyJWK(thief.jwk).key
    claims = jwt.decode(proof, public, algorithms=["ES256"], options={"verify_iat": False})
    assert claims == {"htm": "GET", "htu": "https://api.example/", "iat": "soon"}
