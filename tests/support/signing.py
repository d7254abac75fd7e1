"""Signing keys, and hand-made tokens, including hostile ones."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

_ALGORITHMS = get_default_algorithms()
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


@functools.cache
def private_key(kind: str, kid: str) -> Any:
    """The key with this type and kid, the same for the whole test run."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
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
        parsers: dict[str, Any] = {"RS": RSAAlgorithm, "PS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
        own = parsers[self.algorithm[:2]].to_jwk(self.key.public_key(), as_dict=True)
        own.pop("key_ops", None)
        jwk = own | {"kid": self.kid, "use": "sig"} | members
        return {name: value for name, value in jwk.items() if value is not None}

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
        signature = _ALGORITHMS[self.algorithm].sign(signing_input.encode(), self.key)
        return f"{signing_input}.{base64url(signature)}"
