"""The signature algorithms that keys verify here. Pure.

PyJWT verifies those of RFC 7518 and RFC 8037. ``Ed25519`` and ``Ed448`` (RFC 9864) are EdDSA by another name. ML-DSA
(RFC 9964) is verified with ``cryptography``, where its version and its OpenSSL support it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from jwt.algorithms import get_default_algorithms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# A key on an Edwards curve verifies both names of its algorithm, whichever of them its own alg has.
BY_CURVE: Final = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
    ("OKP", "Ed448"): frozenset({"EdDSA", "Ed448"}),
}


class MlDsa(NamedTuple):
    """One parameter set of ML-DSA (FIPS 204)."""

    octets: int  # of a public key
    key_type: Any  # cryptography's class of public keys


def _ml_dsa() -> Mapping[str, MlDsa]:
    """The parameter sets that are supported here."""
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa  # noqa: PLC0415 - older versions lack it
    except ImportError:
        return {}
    known = {
        "ML-DSA-44": MlDsa(1312, mldsa.MLDSA44PublicKey),
        "ML-DSA-65": MlDsa(1952, mldsa.MLDSA65PublicKey),
        "ML-DSA-87": MlDsa(2592, mldsa.MLDSA87PublicKey),
    }
    return {name: each for name, each in known.items() if _is_supported(each)}


def _is_supported(parameters: MlDsa) -> bool:
    try:
        parameters.key_type.from_public_bytes(bytes(parameters.octets))
    except UnsupportedAlgorithm:
        return False
    return True


def _verify_ml_dsa(message: bytes, material: Any, signature: bytes) -> bool:
    try:
        material.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _verifiers() -> Mapping[str, Callable[[bytes, Any, bytes], bool]]:
    library = get_default_algorithms()
    names = RSA.union(*BY_CURVE.values()) - {"Ed25519", "Ed448"}
    verifiers: dict[str, Callable[[bytes, Any, bytes], bool]] = {name: library[name].verify for name in names}
    verifiers |= dict.fromkeys(("Ed25519", "Ed448"), library["EdDSA"].verify)
    return verifiers | dict.fromkeys(ML_DSA, _verify_ml_dsa)


ML_DSA: Final = _ml_dsa()
VERIFIERS: Final = _verifiers()
ALGORITHMS: Final = frozenset(VERIFIERS)
