"""The signature algorithms that keys verify here. Pure.

PyJWT verifies those of RFC 7518 and RFC 8037. ``Ed25519`` and ``Ed448`` (RFC 9864) are EdDSA by another name. ML-DSA
(RFC 9964) is verified with ``cryptography``, where its version and its OpenSSL support it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from jwt.algorithms import get_default_algorithms

from authz_service.core import ml_dsa

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
    return verifiers | dict.fromkeys(ml_dsa.SUPPORTED, _verify_ml_dsa)


VERIFIERS: Final = _verifiers()
ALGORITHMS: Final = frozenset(VERIFIERS)
