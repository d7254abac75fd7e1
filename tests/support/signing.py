"""Signing keys, and hand-made tokens, including hostile ones."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # an older cryptography
    ML_DSA: dict[str, Any] = {}
else:
    ML_DSA = {
        "ML-DSA-44": mldsa.MLDSA44PrivateKey,
        "ML-DSA-65": mldsa.MLDSA65PrivateKey,
        "ML-DSA-87": mldsa.MLDSA87PrivateKey,
    }

_ALGORITHMS = get_default_algorithms()
_EDWARDS: dict[str, Any] = {
    "EdDSA": ed25519.Ed25519PrivateKey,
    "Ed25519": ed25519.Ed25519PrivateKey,
    "Ed448": ed448.Ed448PrivateKey,
}
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


@functools.cache
def private_key(kind: str, kid: str) -> Any:
    """The key with this type and kid, the same for the whole test run."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind in _EDWARDS or kind in ML_DSA:
        return (_EDWARDS | ML_DSA)[kind].generate()
    return ec.generate_private_key(_CURVES[kind]())


class Signer:
    """Signs with one key and one algorithm."""

    def __init__(self, algorithm: str = "RS256", kid: str = "k1", key: Any = None) -> None:
        """Without ``key``, it is the key of this test run."""
        self.algorithm = algorithm
        self.kid = kid
        self.key = key or private_key("RSA" if algorithm[:2] in {"RS", "PS"} else algorithm, kid)

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The published public key; None removes a member."""
        own = self._members()
        own.pop("key_ops", None)
        jwk = own | {"kid": self.kid, "use": "sig"} | members
        return {name: value for name, value in jwk.items() if value is not None}

    def _members(self) -> dict[str, Any]:
        public = self.key.public_key()
        if self.algorithm in ML_DSA:
            return {"kty": "AKP", "alg": self.algorithm, "pub": base64url(public.public_bytes_raw())}
        writers: dict[str, Any] = {"RS": RSAAlgorithm, "PS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
        members: dict[str, Any] = writers[self.algorithm[:2]].to_jwk(public, as_dict=True)
        return members

    def sign(self, claims: Any, header: dict[str, Any] | None = None) -> str:
        """A token; ``header`` overrides the default header, and None removes a member."""
        members = {"alg": self.algorithm, "kid": self.kid, "typ": "at+jwt"} | (header or {})
        present = {name: value for name, value in members.items() if value is not None}
        return self.sign_json(json.dumps(present).encode(), json.dumps(claims).encode())

    def sign_json(self, header: bytes, claims: bytes) -> str:
        """A token with exactly this JSON."""
        return self.sign_parts(base64url(header), base64url(claims))

    def sign_parts(self, header: str, claims: str) -> str:
        """A token with exactly these first two parts."""
        signing_input = f"{header}.{claims}"
        return f"{signing_input}.{base64url(self.signature(signing_input.encode()))}"

    def signature(self, message: bytes) -> bytes:
        if self.algorithm in _EDWARDS or self.algorithm in ML_DSA:
            signature: bytes = self.key.sign(message)
            return signature
        return _ALGORITHMS[self.algorithm].sign(message, self.key)
