"""The cost of a DPoP proof beside that of its signature, with a key that is cached with the token and without."""

from __future__ import annotations

import hashlib
import json
import time
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.keys import jwk
from authz_service.keys.signatures import VERIFIERS
from authz_service.tokens.proof.dpop import DpopVerifier
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets
from bench.subject import HOST, PATH

PROOFS = 1000  # in one round
ROUNDS = 5
MICRO = 1e6
TOKEN = "a" * 700  # of usual length
REQUEST = Attributes("GET", HOST, PATH, {})


class Client:
    """A client with a key of its own."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._jti = count()
        self._key: Any
        if algorithm == "ES256":
            self._key = ec.generate_private_key(ec.SECP256R1())
            members = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        elif algorithm == "EdDSA":
            self._key = ed25519.Ed25519PrivateKey.generate()
            members = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        else:
            self._key = rsa.generate_private_key(65537, 2048)
            members = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self.jwk: dict[str, Any] = {name: value for name, value in members.items() if name != "key_ops"}
        self.thumbprint = jwk.thumbprint(self.jwk)

    def proof(self) -> str:
        """A valid proof."""
        claims = {
            "jti": f"{next(self._jti):022}",
            "htm": "GET",
            "htu": f"https://{HOST}{PATH.partition('?')[0]}",
            "iat": int(time.time()),
            "ath": base64url.encode(hashlib.sha256(TOKEN.encode()).digest()),
        }
        parts = ({"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk}, claims)
        signing_input = ".".join(base64url.encode(json.dumps(part).encode()) for part in parts)
        signature = get_default_algorithms()[self.algorithm].sign(signing_input.encode(), self._key)
        return f"{signing_input}.{base64url.encode(signature)}"


def dpop_proofs() -> None:
    """Print the costs, each the best of several rounds, in which the three alternate."""
    print("A DPoP proof, beside its signature (CPU, best of 5)")
    for algorithm in ("ES256", "EdDSA", "RS256"):
        signature, known, first = map(min, zip(*(_round(Client(algorithm)) for _ in range(ROUNDS)), strict=True))
        print(
            f"  {algorithm}  signature alone {signature:5.1f} µs   proof, key cached {known:5.1f} µs"
            f" (ratio {known / signature:4.2f})   first proof {first:5.1f} µs"
        )


def _round(client: Client) -> tuple[float, float, float]:
    """Microseconds for verifying a signature, a proof with a cached key, and a proof without."""
    replays = ReplayCache(100_000, 60, lambda: None)
    verifier = DpopVerifier(algorithms=[client.algorithm], max_age=60, targets=Targets(), replays=replays)
    now = time.time()

    def verify(proof: str, known: Any) -> Any:
        return verifier.verify(proof, REQUEST, TOKEN, client.thumbprint, leeway=30, now=now, known=known).key

    known = verify(client.proof(), None)
    proofs = [client.proof() for _ in range(2 * PROOFS)]
    signed = [proof.rpartition(".") for proof in proofs[:PROOFS]]
    pairs = [(signing_input.encode(), base64url.decode(signature)) for signing_input, _, signature in signed]
    started = time.process_time()
    for signing_input, octets in pairs:
        VERIFIERS[client.algorithm](signing_input, known.material, octets)
    verified = time.process_time()
    for proof in proofs[:PROOFS]:
        verify(proof, known)
    proven = time.process_time()
    for proof in proofs[PROOFS:]:
        verify(proof, None)
    times = (verified - started, proven - verified, time.process_time() - proven)
    return tuple(each / PROOFS * MICRO for each in times)  # type: ignore[return-value]
