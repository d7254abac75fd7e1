"""A generated key that signs JWTs. It never leaves the process.

JWTs are built without a JOSE library, so that a test case can have an invalid one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from authz_service.core import base64url, ml_dsa
from authz_service.keys import jwk

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_RSA_BITS = 2048  # the minimum that is accepted, and the fastest to generate
# The fastest to generate first.
_BY_PREFERENCE = (
    *("EdDSA", "Ed25519", "ES256", "Ed448", "ES384", "ES512", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"),
    *("RS256", "PS256", "RS384", "PS384", "RS512", "PS512"),
)
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_ALGORITHMS = get_default_algorithms()


class SigningKey:
    """A new key pair."""

    def __init__(self, algorithms: Collection[str]) -> None:
        """``algorithms`` are configured ones, of which the key is for the one that is fastest to generate."""
        self.algorithm = next(name for name in _BY_PREFERENCE if name in algorithms)
        self._key = _private_key(self.algorithm)

    @property
    def public_jwk(self) -> dict[str, Any]:
        """The public key as a JWK, without ``kid`` and usage."""
        return jwk.members_of(self._key.public_key())

    def jwt(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """A JWT with this header and these claims."""
        signing_input = ".".join(base64url.encode(json.dumps(part).encode()) for part in (header, claims))
        return f"{signing_input}.{base64url.encode(self._signature(signing_input.encode()))}"

    def _signature(self, message: bytes) -> bytes:
        if self.algorithm[:2] in {"Ed", "ML"}:
            signature: bytes = self._key.sign(message)
            return signature
        return _ALGORITHMS[self.algorithm].sign(message, self._key)


def _private_key(algorithm: str) -> Any:
    if algorithm in {"EdDSA", "Ed25519"}:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if algorithm in ml_dsa.NAMES:
        return ml_dsa.supported()[algorithm].private_key_type.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
