"""The signature algorithms that keys verify here. Pure.

They are those of RFC 7518 (RSA and ECDSA), RFC 8037 (EdDSA), RFC 9864 (``Ed25519`` and ``Ed448``, which are EdDSA by
another name) and RFC 9964 (ML-DSA, which has keys where the installed ``cryptography`` and its OpenSSL support it).

Invariants:
- A signature has exactly the length that its algorithm and its key prescribe: nothing is added to one, and no zero in
  front of one is omitted.
- A salt of RSASSA-PSS is as long as the digest (RFC 7518 section 3.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from authz_service.core import ml_dsa

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding

    # The signed octets, a public key of the algorithm, and the signature.
    Verifier = Callable[[bytes, Any, bytes], bool]

RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# A key on an Edwards curve verifies both names of its algorithm, whichever of them its own alg has.
BY_CURVE: Final = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
    ("OKP", "Ed448"): frozenset({"EdDSA", "Ed448"}),
}
_SHA256, _SHA384, _SHA512 = hashes.SHA256(), hashes.SHA384(), hashes.SHA512()


def _rsa(padding: AsymmetricPadding, digest: hashes.HashAlgorithm) -> Verifier:
    def verify(message: bytes, material: Any, signature: bytes) -> bool:
        if len(signature) != (material.key_size + 7) // 8:  # OpenSSL accepts a shorter one of RSASSA-PSS
            return False
        try:
            material.verify(signature, message, padding, digest)
        except InvalidSignature:
            return False
        return True

    return verify


def _pss(digest: hashes.HashAlgorithm) -> Verifier:
    return _rsa(PSS(MGF1(digest), salt_length=digest.digest_size), digest)


def _ecdsa(octets: int, digest: hashes.HashAlgorithm) -> Verifier:
    """``octets`` is the length of each of the two numbers of a signature (RFC 7518 section 3.4)."""
    algorithm = ECDSA(digest)

    def verify(message: bytes, material: Any, signature: bytes) -> bool:
        if len(signature) != 2 * octets:
            return False
        r, s = int.from_bytes(signature[:octets], "big"), int.from_bytes(signature[octets:], "big")
        try:
            material.verify(encode_dss_signature(r, s), message, algorithm)
        except InvalidSignature:
            return False
        return True

    return verify


def _verify_pure(message: bytes, material: Any, signature: bytes) -> bool:
    """EdDSA and ML-DSA, whose keys determine everything else."""
    try:
        material.verify(signature, message)
    except InvalidSignature:
        return False
    return True


VERIFIERS: Final[dict[str, Verifier]] = {
    "RS256": _rsa(PKCS1v15(), _SHA256),
    "RS384": _rsa(PKCS1v15(), _SHA384),
    "RS512": _rsa(PKCS1v15(), _SHA512),
    "PS256": _pss(_SHA256),
    "PS384": _pss(_SHA384),
    "PS512": _pss(_SHA512),
    "ES256": _ecdsa(32, _SHA256),
    "ES384": _ecdsa(48, _SHA384),
    "ES512": _ecdsa(66, _SHA512),
    **dict.fromkeys(("EdDSA", "Ed25519", "Ed448", *ml_dsa.NAMES), _verify_pure),
}
ALGORITHMS: Final = frozenset(VERIFIERS)
