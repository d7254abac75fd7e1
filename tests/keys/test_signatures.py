"""Each algorithm verifies signatures that another implementation made, and no other algorithm does."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from authz_service.core import ml_dsa
from authz_service.keys import jwk
from authz_service.keys.signatures import ALGORITHMS
from support.signing import ML_DSA, Signer

MESSAGE = b"header.claims"
SIZES = {"ML-DSA-44": 2420, "ML-DSA-65": 3309, "ML-DSA-87": 4627}
# RFC 9964 appendix A: the thumbprints (RFC 7638) of the keys from a seed of zeros.
THUMBPRINTS = {
    "ML-DSA-44": "T4xl70S7MT6Zeq6r9V9fPJGVn76wfnXJ21-gyo0Gu6o",
    "ML-DSA-65": "Suiu29qbfuaBaR4Ats-c6XQBePB_OpAxAwcTR_0KXVM",
}


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS - ml_dsa.NAMES | ml_dsa.supported().keys()))
def test_an_algorithm_verifies_its_own_signatures_only(algorithm: str) -> None:
    signer = Signer(algorithm)
    key = jwk.parse(signer.jwk())
    signature = signer.signature(MESSAGE)
    assert key.verifies(algorithm, MESSAGE, signature)
    assert not key.verifies(algorithm, MESSAGE + b"x", signature)
    for changed in (b"", signature[:-1], signature + b"\0", bytes(len(signature)), b"\xff" * len(signature)):
        assert key.verifies(algorithm, MESSAGE, changed) is False
    same = {"EdDSA", algorithm} if algorithm in {"EdDSA", "Ed25519", "Ed448"} else {algorithm}
    same |= {"Ed25519"} if algorithm == "EdDSA" else set()
    for other in ALGORITHMS - same:
        assert not key.verifies(other, MESSAGE, signature)


@pytest.mark.parametrize("algorithm", sorted(ML_DSA))
def test_a_key_of_ml_dsa_is_written_as_in_the_standard(algorithm: str) -> None:
    key = ML_DSA[algorithm].from_seed_bytes(bytes(32))
    entry = Signer(algorithm, key=key).jwk()
    parsed = jwk.parse(entry)
    assert parsed.algorithms == {algorithm}
    assert len(key.sign(MESSAGE)) == SIZES[algorithm]
    members = json.dumps({name: entry[name] for name in ("alg", "kty", "pub")}, separators=(",", ":"), sort_keys=True)
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()
    assert thumbprint == THUMBPRINTS.get(algorithm, thumbprint)


def test_ml_dsa_is_supported_where_cryptography_has_it() -> None:
    assert set(ml_dsa.supported()) == set(ML_DSA)
