"""The cost of a DPoP proof beside that of its signature: alone, in a decision, and when it is invalid."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.config.load import load
from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.keys import jwk
from authz_service.keys.signatures import VERIFIERS
from authz_service.runtime.application import App
from authz_service.tokens.proof.dpop import DpopVerifier
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets
from bench.subject import GRPCIO, HOST, PATH, Subject, check_request

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        self._public = self._key.public_key()
        self.jwk: dict[str, Any] = {name: value for name, value in members.items() if name != "key_ops"}
        self.thumbprint = jwk.thumbprint(self.jwk)

    def signature(self, proof: str) -> tuple[bytes, Any, bytes]:
        """The arguments for verifying the signature of its proof."""
        signing_input, _, signature = proof.rpartition(".")
        return signing_input.encode(), self._public, base64url.decode(signature)

    def proof(self, token: str = TOKEN, path: str = PATH) -> str:
        """A valid proof for a request with this token."""
        claims = {
            "jti": f"{next(self._jti):022}",
            "htm": "GET",
            "htu": f"https://{HOST}{path.partition('?')[0]}",
            "iat": int(time.time()),
            "ath": base64url.encode(hashlib.sha256(token.encode()).digest()),
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
    signed = [client.signature(proof) for proof in proofs[:PROOFS]]
    started = time.process_time()
    for each in signed:
        VERIFIERS[client.algorithm](*each)
    verified = time.process_time()
    for proof in proofs[:PROOFS]:
        verify(proof, known)
    proven = time.process_time()
    for proof in proofs[PROOFS:]:
        verify(proof, None)
    times = (verified - started, proven - verified, time.process_time() - proven)
    return tuple(each / PROOFS * MICRO for each in times)  # type: ignore[return-value]


def bound_tokens(subject: Subject) -> None:
    """Print the costs of decisions about bound tokens, each the best of several rounds, in which they alternate."""
    print("Decisions about a token that is bound to a DPoP key, wire to wire (CPU, best of 5; 200 rules, token cached)")

    async def measure() -> None:
        app = App(load(subject.config(GRPCIO)))
        await app.active.issuers[0].keys.refresh()
        for algorithm in ("ES256", "EdDSA"):
            rounds = [_decisions(app, subject, Client(algorithm)) for _ in range(ROUNDS)]
            for name in rounds[0]:
                print(f"  {algorithm}  {name:<32} {min(each[name] for each in rounds):6.1f} µs")

    asyncio.run(measure())


def _decisions(app: App, subject: Subject, client: Client) -> dict[str, float]:
    """Microseconds for a signature, for decisions that allow, and for those that deny."""
    token = subject.token("RS256", cnf={"jkt": base64url.encode(client.thumbprint)})
    bearer, thief = subject.token("RS256"), Client(client.algorithm)
    proofs = [client.proof(token) for _ in range(PROOFS)]
    others = [client.proof(token, "/v1/things-199/1") for _ in range(PROOFS)]
    allowed = {
        "bearer token": [check_request(bearer)] * PROOFS,
        "bound token with its proof": [check_request(token, proof) for proof in proofs],
    }
    denied = {
        "bound token without a proof": [check_request(token)] * PROOFS,
        "proof for another URL": [check_request(token, proof) for proof in others],
        "proof of another key": [check_request(token, thief.proof(token)) for _ in range(PROOFS)],
        "proof with a forged signature": [check_request(token, proof) for proof in map(_forged, proofs, others)],
        "forged token, RS256": [check_request(_forged(bearer, other)) for other in others],
        "forged token, ES256": [check_request(_forged(subject.token("ES256"), other)) for other in others],
    }
    _decide(app, 0, [check_request(token, client.proof(token)), check_request(bearer)])  # cached from now on
    signed = [client.signature(proof) for proof in proofs]
    started = time.process_time()
    for each in signed:
        VERIFIERS[client.algorithm](*each)
    times = {"the signature of a proof alone": (time.process_time() - started) / PROOFS * MICRO}
    times |= {name: _decide(app, 0, requests) for name, requests in allowed.items()}
    return times | {name: _decide(app, 16, requests) for name, requests in denied.items()}


def _forged(signed: str, other: str) -> str:
    """A JWS with a part of the signature of another one."""
    return signed[:-60] + other[-60:-20] + signed[-20:]


def _decide(app: App, code: int, requests: Sequence[bytes]) -> float:
    """Microseconds for a decision about each request, all of which must end with this code."""
    started = time.process_time()
    answers = [app.servicer.answer(request, 0.2) for request in requests]
    each = (time.process_time() - started) / len(requests) * MICRO
    for answer in answers:
        if not isinstance(answer, bytes) or CheckResponse.FromString(answer).status.code != code:
            raise AssertionError("the benchmark got an unexpected decision")
    return each
