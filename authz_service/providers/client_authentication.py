"""Authenticates this client to a provider.

RFC 6749 section 2.3.1 (secret), RFC 7523 section 2.2 (private_key_jwt), RFC 8705 section 2 (client certificate), and
RFC 7662 section 2.1 (bearer token).

Secrets and private keys are read from files and go into requests only, never into an error or a log line.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.secret_file import SecretFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_ASSERTION_LIFETIME = 60  # seconds: enough for a request, and for a small difference between the clocks
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


class ClientAuthentication(Protocol):
    """Adds the client's authentication to a request."""

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:
        """Add what belongs into the form, and return the headers to send.

        Raises:
            FetchFailed: if the file with the secret or key is not usable.
        """


class ClientSettings(Protocol):
    """The settings of a client: of introspection, or of security events."""

    @property
    def client_id(self) -> str: ...  # noqa: D102 - as in the configuration
    @property
    def auth_method(self) -> str: ...  # noqa: D102
    @property
    def client_secret_file(self) -> Path | None: ...  # noqa: D102
    @property
    def private_key_file(self) -> Path | None: ...  # noqa: D102
    @property
    def bearer_token_file(self) -> Path | None: ...  # noqa: D102


def authentication_of(
    settings: ClientSettings, issuer: str, *, clock: Callable[[], float], timer: Callable[[], float]
) -> ClientAuthentication:
    """The configured method. ``clock`` returns seconds since the epoch, ``timer`` those of a monotonic clock."""
    match settings.auth_method:
        case "private_key_jwt":
            file = SecretFile(settings.private_key_file, timer)
            return PrivateKeyJwt(settings.client_id, issuer, file, clock)
        case "tls_client_auth":
            return TlsClientAuth(settings.client_id)
        case "bearer_token" if settings.bearer_token_file is not None:
            return BearerTokenAuthentication(BearerToken(settings.bearer_token_file, timer))
        case "client_secret_post":
            return ClientSecretPost(settings.client_id, SecretFile(settings.client_secret_file, timer))
        case _:
            return ClientSecretBasic(settings.client_id, SecretFile(settings.client_secret_file, timer))


def problem_of(settings: ClientSettings) -> str | None:
    """Why the configured authentication cannot work, as far as its file shows; None if the file is usable."""
    try:
        authentication_of(settings, "", clock=lambda: 0.0, timer=lambda: 0.0).add_to({})
    except FetchFailed as failure:
        return str(failure)
    return None


def _secret(file: SecretFile) -> str:
    try:
        return file.read().decode()
    except UnicodeDecodeError:
        raise FetchFailed("the client's secret is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """``client_secret_basic``: client id and secret are form-urlencoded before they are joined and encoded."""

    client_id: str
    file: SecretFile

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:  # noqa: ARG002 - the header holds everything
        """See ClientAuthentication."""
        credentials = f"{quote_plus(self.client_id)}:{quote_plus(_secret(self.file))}"
        return {"Authorization": f"Basic {base64.b64encode(credentials.encode('ascii')).decode('ascii')}"}


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """``client_secret_post``."""

    client_id: str
    file: SecretFile

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:
        """See ClientAuthentication."""
        form |= {"client_id": self.client_id, "client_secret": _secret(self.file)}
        return {}


@dataclass(frozen=True, slots=True)
class TlsClientAuth:
    """``tls_client_auth``: the connection has the client's certificate, and the form its ``client_id``."""

    client_id: str

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:
        """See ClientAuthentication."""
        form["client_id"] = self.client_id
        return {}


@dataclass(frozen=True, slots=True)
class BearerTokenAuthentication:
    """``bearer_token``: an access token that lets its holder introspect other tokens."""

    token: BearerToken

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:  # noqa: ARG002 - the header holds everything
        """See ClientAuthentication."""
        return {"Authorization": self.token.authorization()}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The client's private key, and the algorithm to sign with."""

    material: Any
    algorithm: str
    kid: str | None


class PrivateKeyJwt:
    """``private_key_jwt``, with an assertion for each request.

    The audience is the issuer only. An assertion for an endpoint's URL could be used elsewhere by a server that makes
    the client take that URL for its own.
    """

    def __init__(self, client_id: str, issuer: str, file: SecretFile, clock: Callable[[], float]) -> None:
        self._client_id = client_id
        self._issuer = issuer
        self._file = file
        self._clock = clock
        self._parsed: bytes | None = None  # the content that _key was parsed from
        self._key: SigningKey | None = None

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:
        """See ClientAuthentication."""
        form |= {
            "client_id": self._client_id,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._assertion(),
        }
        return {}

    def _assertion(self) -> str:
        key, now = self._current_key(), int(self._clock())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._issuer,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + _ASSERTION_LIFETIME,
        }
        return jwt.encode(claims, key.material, key.algorithm, {"kid": key.kid} if key.kid else None)

    def _current_key(self) -> SigningKey:
        content = self._file.read()
        if self._key is None or content != self._parsed:
            self._key = parse_signing_key(content)
            self._parsed = content
        return self._key


def parse_signing_key(content: bytes) -> SigningKey:
    """Parse a private key in PEM or as a JWK.

    Raises:
        FetchFailed: if it is not a private key that can sign. The message does not quote it.
    """
    try:
        return _from_jwk(content) if content.lstrip().startswith(b"{") else _from_pem(content)
    except FetchFailed:
        raise
    except Exception as error:  # noqa: BLE001 - PyJWT and cryptography raise many types for a malformed key
        raise FetchFailed(
            f"the client's private key cannot be parsed ({type(error).__name__}): expected unencrypted PEM or a JWK"
        ) from None


def _from_pem(content: bytes) -> SigningKey:
    material = load_pem_private_key(content, None)
    return SigningKey(material, _algorithms(material)[0], None)


def _from_jwk(content: bytes) -> SigningKey:
    jwk = strict_json.loads(content)
    material = _PARSERS[jwk["kty"]](jwk)
    supported = _algorithms(material)
    algorithm, kid = jwk.get("alg", supported[0]), jwk.get("kid")
    if algorithm not in supported:
        raise FetchFailed(f"the client's private key has an alg that does not fit: expected {' or '.join(supported)}")
    if not (kid is None or isinstance(kid, str)):
        raise FetchFailed("the client's private key has a kid that is not a string")
    return SigningKey(material, algorithm, kid)


def _algorithms(material: Any) -> tuple[str, ...]:
    """The algorithms that a private key can sign with, the default first."""
    match material:
        case rsa.RSAPrivateKey() if material.key_size >= _MIN_RSA_BITS:
            return "RS256", *sorted(_RSA - {"RS256"})
        case ec.EllipticCurvePrivateKey() if material.curve.name in _CURVES:
            return (_CURVES[material.curve.name],)
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            return ("EdDSA",)
        case _:
            raise FetchFailed(
                "the client's private key has an unsupported type: expected RSA with at least 2048 bits, P-256, P-384, "
                "P-521, Ed25519 or Ed448"
            )
