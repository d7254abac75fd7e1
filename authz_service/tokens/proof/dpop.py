"""Verifying one DPoP proof: a JWT by which a client proves that it has the key of its access token (RFC 9449).

Pure. A proof is parsed as strictly as a token, by the same parser. Cheap steps come first: form, thumbprint, and claims
before the key and its signature. So a flood of bad proofs costs less than a flood of bad tokens, and one of forged
signatures as much.

Invariants:
- No key is parsed and no signature verified unless everything else in the proof is right, and its key the token's.
- A proof is recorded as seen only after its signature was verified. Proofs are never cached; their keys are.
- Causes quote nothing of a proof.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from authz_service.core import base64url, ml_dsa
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.keys import jwk
from authz_service.keys.signatures import ALGORITHMS, VERIFIERS
from authz_service.tokens.jwt import jws
from authz_service.tokens.jwt.cache import digest_of
from authz_service.tokens.proof.replay import ReplayCache

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from authz_service.core.attributes import Attributes
    from authz_service.tokens.proof.nonce import Nonces
    from authz_service.tokens.proof.target import Targets

MAX_PROOF_BYTES: Final = 8192  # one with an RSA key of 4096 bits has 2 KiB
MAX_ML_DSA_PROOF_BYTES: Final = 16384  # if ML-DSA is accepted: one with ML-DSA-87 has 11 KiB
_TYPE = "dpop+jwt"
_MAX_JTI = 256  # characters
_MAX_RSA_BITS = 4096
_NUMBERS = frozenset({"n", "e", "x", "y", "pub"})
_ABSENT = (None, "")  # as in published keys
_INVALID = Reason.INVALID_PROOF


class ProofKey:
    """The key of a proof that was accepted, cached with the token that is bound to it.

    The next proof of the same client has the same header, which is then not parsed again.
    """

    __slots__ = ("algorithm", "header", "material", "thumbprint")

    def __init__(self, header: bytes, algorithm: str, thumbprint: bytes, material: Any) -> None:
        self.header = header  # SHA-256 of the encoded header
        self.algorithm = algorithm
        self.thumbprint = thumbprint
        self.material = material  # a public key of cryptography

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is valid."""
        return VERIFIERS[self.algorithm](signing_input, self.material, signature)


class VerifiedProof(NamedTuple):
    """What the caller needs to know of an accepted proof."""

    key: ProofKey | None  # to be cached with the token; None if it takes too much memory
    nonce_age: float | None  # seconds; None if no nonce is required


class DpopVerifier:
    """Verifies proofs by one configuration."""

    def __init__(
        self,
        *,
        algorithms: Collection[str],
        max_age: float,
        targets: Targets,
        replays: ReplayCache,
        nonces: Nonces | None = None,
    ) -> None:
        """``algorithms`` are asymmetric. ``max_age`` is in seconds. With ``nonces``, each proof needs a current one."""
        self._algorithms = frozenset(algorithms)
        accepts_ml_dsa = not self._algorithms.isdisjoint(ml_dsa.NAMES)
        self._max_bytes = MAX_ML_DSA_PROOF_BYTES if accepts_ml_dsa else MAX_PROOF_BYTES
        self._max_age = max_age
        self._targets = targets
        self._replays = replays
        self._nonces = nonces

    def without_history(self) -> DpopVerifier:
        """A verifier by the same configuration that has not seen any proof."""
        return DpopVerifier(
            algorithms=self._algorithms,
            max_age=self._max_age,
            targets=self._targets,
            replays=ReplayCache(1, self._max_age, lambda: None),
            nonces=self._nonces,
        )

    def verify(
        self,
        proof: str,
        attributes: Attributes,
        token: str,
        thumbprint: bytes,
        *,
        leeway: float,
        now: float,
        known: ProofKey | None = None,
    ) -> VerifiedProof:
        """Verify the value of the ``DPoP`` header of a request with this access token.

        ``thumbprint`` is that of the key to which the token is bound, ``known`` the key of an earlier proof for it.

        Raises:
            Rejected: ``invalid_proof``, ``nonce_required`` or ``replayed_proof``.
        """
        header, encoded_claims, encoded_signature = _parts_of(proof, self._max_bytes)
        digest = hashlib.sha256(header.encode()).digest()
        if known is not None and (known.header, known.thumbprint) == (digest, thumbprint):
            algorithm, members = known.algorithm, None
            self._require_accepted(algorithm)
        else:
            algorithm, members = self._parse_header(header)
            _require_thumbprint(members, thumbprint)
        claims = jws.claims_of(encoded_claims, _INVALID)
        issued_at, jti = self._validate(claims, attributes, token, leeway, now)
        nonce_age = self._age_of_nonce(claims, now)
        signature = jws.signature_of(encoded_signature, _INVALID)
        key = known if members is None else ProofKey(digest, algorithm, thumbprint, _material(members, algorithm))
        if key is None or not key.verifies(f"{header}.{encoded_claims}".encode(), signature):
            raise Rejected(_INVALID, "the signature does not verify")
        if self._replays.seen(thumbprint, jti, now, issued_at):
            raise Rejected(Reason.REPLAYED_PROOF, "its jti was used before, with the same key")
        return VerifiedProof(None if key.algorithm in ml_dsa.NAMES else key, nonce_age)

    def _parse_header(self, encoded: str) -> tuple[str, dict[str, Any]]:
        header = jws.header_of(encoded, _INVALID)
        typ, algorithm, members = header.get("typ"), header["alg"], header.get("jwk")
        if not isinstance(typ, str) or typ.lower().removeprefix("application/") != _TYPE:
            raise Rejected(_INVALID, f"typ in the header is not {_TYPE}")
        self._require_accepted(algorithm)
        if not isinstance(members, dict):
            raise Rejected(_INVALID, "jwk in the header is missing or not an object")
        return algorithm, members

    def _require_accepted(self, algorithm: str) -> None:
        if algorithm not in self._algorithms:
            raise Rejected(_INVALID, f"alg in the header is not one of {', '.join(sorted(self._algorithms))}")

    def _validate(
        self, claims: Mapping[str, Any], attributes: Attributes, token: str, leeway: float, now: float
    ) -> tuple[float, str]:
        """``iat`` and ``jti``."""
        if claims.get("htm") != attributes.method:
            raise Rejected(_INVALID, "htm is not the method of the request")
        self._targets.require(_string(claims, "htu"), attributes.host, attributes.path)
        issued_at = self._time(claims, leeway, now)
        jti = _string(claims, "jti")
        if not 0 < len(jti) <= _MAX_JTI:
            raise Rejected(_INVALID, f"jti is empty or has more than {_MAX_JTI} characters")
        expected = base64url.encode(digest_of(token))
        if not hmac.compare_digest(_string(claims, "ath").encode(), expected.encode()):
            raise Rejected(_INVALID, "ath is not the SHA-256 digest of the token")
        return issued_at, jti

    def _time(self, claims: Mapping[str, Any], leeway: float, now: float) -> float:
        issued_at = _number(claims, "iat")
        if issued_at > now + leeway:
            raise Rejected(_INVALID, f"iat is in the future (leeway {leeway:g} s)")
        if issued_at < now - self._max_age:
            raise Rejected(_INVALID, f"iat is longer ago than {self._max_age:g} s (dpop.max_age)")
        if "exp" in claims and now >= _number(claims, "exp") + leeway:
            raise Rejected(_INVALID, f"exp has passed (leeway {leeway:g} s)")
        if "nbf" in claims and now < _number(claims, "nbf") - leeway:
            raise Rejected(_INVALID, f"nbf is in the future (leeway {leeway:g} s)")
        return issued_at

    def _age_of_nonce(self, claims: Mapping[str, Any], now: float) -> float | None:
        nonce = _string(claims, "nonce") if "nonce" in claims else None
        if self._nonces is None:
            return None
        if nonce is None:
            raise Rejected(Reason.NONCE_REQUIRED, "it has no nonce")
        age = self._nonces.age(nonce, now)
        if age is None:
            cause = "its nonce has expired, or was issued with another key (dpop.nonce_key_file)"
            raise Rejected(Reason.NONCE_REQUIRED, cause)
        return age


def _parts_of(proof: str, max_bytes: int) -> list[str]:
    if len(proof) > max_bytes:
        raise Rejected(_INVALID, f"longer than {max_bytes} bytes")
    if "," in proof:
        raise Rejected(_INVALID, "more than one DPoP header")
    if not proof.isascii():
        raise Rejected(_INVALID, "not ASCII")
    return jws.parts_of(proof, _INVALID)


def _require_thumbprint(members: Mapping[str, Any], expected: bytes) -> None:
    try:
        found = jwk.thumbprint(members)
    except jwk.UnusableKey as error:
        raise Rejected(_INVALID, f"jwk in the header: {error}") from None
    if not hmac.compare_digest(found, expected):
        raise Rejected(_INVALID, "jwk in the header is not the key to which the token is bound")


def _material(members: Mapping[str, Any], algorithm: str) -> Any:
    """The parsed key. Of the members that causes could quote, only known values get as far as the parser."""
    if members.get("use") not in (*_ABSENT, "sig"):
        raise Rejected(_INVALID, "jwk in the header has a use other than sig")
    if members.get("alg") not in (*_ABSENT, *ALGORITHMS):
        raise Rejected(_INVALID, "jwk in the header has an unknown alg")
    try:
        key = jwk.parse(members)
        for name in _NUMBERS & key.jwk.keys():
            base64url.decode(members[name])
    except (jwk.UnusableKey, ValueError) as error:
        raise Rejected(_INVALID, f"jwk in the header: {error}") from None
    if algorithm not in key.algorithms:
        raise Rejected(_INVALID, "jwk in the header is not a key for its alg")
    if key.jwk["kty"] == "RSA" and key.material.key_size > _MAX_RSA_BITS:
        raise Rejected(_INVALID, f"jwk in the header is an RSA key of more than {_MAX_RSA_BITS} bits")
    return key.material


def _string(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Rejected(_INVALID, f"{name} is missing or not a string")
    return value


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Rejected(_INVALID, f"{name} is missing or not a number")
    return value
