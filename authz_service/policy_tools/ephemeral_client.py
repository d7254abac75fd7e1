"""The clients of one run of test cases: one to which tokens are bound, and one that has stolen them.

Each has a key for DPoP proofs (RFC 9449) and a client certificate (RFC 8705), generated when a case needs them. Reads
and writes no files; no key leaves the process.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authz_service.core import base64url
from authz_service.core.headers import combined
from authz_service.keys import jwk
from authz_service.policy_tools.client_certificate import with_certificate
from authz_service.policy_tools.signing_key import SigningKey
from authz_service.tokens.proof.target import Targets

if TYPE_CHECKING:
    from authz_service.config.model import Settings
    from authz_service.core.attributes import Attributes
    from authz_service.tokens.proof.nonce import Nonces

Method = Literal["dpop", "mtls"]
_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "policy test")])


class EphemeralClient:
    """A client with a generated key and certificate."""

    def __init__(self, settings: Settings, nonces: Nonces, now: float) -> None:
        """``now`` is in seconds since the epoch."""
        self._dpop = settings.dpop_or_default
        self._mtls = settings.mtls
        self._targets = Targets(self._dpop.origins)
        self._nonces = nonces if self._dpop.nonce == "required" else None
        self._now = now

    @cached_property
    def _key(self) -> SigningKey:
        return SigningKey(self._dpop.algorithms)

    @cached_property
    def _certificate(self) -> x509.Certificate:
        key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.fromtimestamp(self._now, dt.UTC)
        day = dt.timedelta(days=1)
        builder = x509.CertificateBuilder(_NAME, _NAME, key.public_key(), x509.random_serial_number())
        return builder.not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())

    def confirmation(self, method: Method) -> dict[str, str]:
        """The ``cnf`` of a token that is bound to this client."""
        if method == "dpop":
            return {"jkt": base64url.encode(jwk.thumbprint(self._key.public_jwk))}
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        return {"x5t#S256": base64url.encode(hashlib.sha256(der).digest())}

    def proven(self, attributes: Attributes, token: str, method: Method) -> Attributes:
        """The request with this client's proof for the token."""
        if method == "mtls":
            return with_certificate(attributes, self._certificate, self._mtls)
        sent = ("dpop", self._proof(attributes, token))
        return attributes._replace(headers=combined([*attributes.headers.items(), sent]))

    def _proof(self, attributes: Attributes, token: str) -> str:
        origin = next(iter(self._targets.origins_of(attributes.host)), f"https://{attributes.host}")
        claims = {
            "jti": secrets.token_urlsafe(),
            "htm": attributes.method,
            "htu": origin + attributes.path.partition("?")[0],
            "iat": int(self._now),
            "ath": base64url.encode(hashlib.sha256(token.encode()).digest()),
        }
        nonce = {} if self._nonces is None else {"nonce": self._nonces.issue(self._now)}
        header = {"typ": "dpop+jwt", "alg": self._key.algorithm, "jwk": self._key.public_jwk}
        return self._key.jwt(header, claims | nonce)
