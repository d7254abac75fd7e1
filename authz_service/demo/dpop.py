"""DPoP (RFC 9449) as a client and a token endpoint do it: proofs of a key, and finding the key of a proof.

As a program it prints a proof: ``python -m authz_service.demo.dpop KEY_FILE METHOD URL [TOKEN]``.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authz_service.core import base64url
from authz_service.keys import jwk

_TYPE = "dpop+jwt"
_MAX_AGE = 60  # seconds


class DpopKey:
    """The key of a client."""

    def __init__(self, pem: bytes | None = None) -> None:
        """Without ``pem``, a new one."""
        self._private: Any = (
            ec.generate_private_key(ec.SECP256R1()) if pem is None else serialization.load_pem_private_key(pem, None)
        )
        self._public = jwk.members_of(self._private.public_key())

    @property
    def jkt(self) -> str:
        """What the ``cnf.jkt`` of its tokens must be."""
        return _jkt(self._public)

    def pem(self) -> bytes:
        """The private key."""
        encoding, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        pem: bytes = self._private.private_bytes(encoding, format_, serialization.NoEncryption())
        return pem

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        """A proof for one request, with this token unless it is a request for one. It is valid for a minute."""
        claims = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            claims["ath"] = base64url.encode(hashlib.sha256(token.encode()).digest())
        return jwt.encode(claims, self._private, "ES256", {"typ": _TYPE, "jwk": self._public})


def jkt_of(proof: str, method: str, url: str) -> str:
    """The ``cnf.jkt`` for a token, by the proof in the request for it.

    Raises:
        ValueError: if the proof is invalid.
    """
    try:
        header = jwt.get_unverified_header(proof)
        claims = jwt.decode(proof, jwt.PyJWK.from_dict(header["jwk"], "ES256"), ["ES256"])
        expected = (_TYPE, method, url)
        is_valid = (header["typ"], claims["htm"], claims["htu"]) == expected and claims["iat"] > time.time() - _MAX_AGE
    except (jwt.PyJWTError, KeyError) as error:
        raise ValueError("the DPoP proof is invalid") from error
    if not is_valid:
        raise ValueError("the DPoP proof is for another request")
    return _jkt(header["jwk"])


def _jkt(members: dict[str, Any]) -> str:
    return base64url.encode(jwk.thumbprint(members))


if __name__ == "__main__":
    key_file, *request = sys.argv[1:]
    print(DpopKey(Path(key_file).read_bytes()).proof(*request))
