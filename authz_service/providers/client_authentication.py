"""Proving to an introspection server who asks (RFC 6749 section 2.3.1, RFC 7523 section 2.2).

Law: secrets are read from files alone, anew when what is in them changes, and enter a request and nothing else: no log
line, no error's text. Each assertion is made for one call, and is soon worth nothing.
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

from authz_service.config import files
from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from authz_service.config.model import IntrospectionSettings

_LOOK_INTERVAL = 1.0  # seconds between two looks at a file
_MAX_FILE = 1 << 16  # bytes; an RSA key of 16384 bits takes 13 KiB
_ASSERTION_LIFETIME = 60  # seconds: enough for a call and two clocks that differ a little
_MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


class ClientAuthentication(Protocol):
    """Puts the proof into a request."""

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:
        """Complete the form; what it returns are further headers.

        Raises:
            FetchFailed: when the file with the secret cannot be used.
        """


def authentication_of(
    settings: IntrospectionSettings, issuer: str, *, clock: Callable[[], float], timer: Callable[[], float]
) -> ClientAuthentication:
    """The configured one. ``clock`` gives seconds since the epoch, ``timer`` seconds of a clock that is never set."""
    match settings.auth_method:
        case "private_key_jwt":
            file = SecretFile(settings.private_key_file, timer)
            return PrivateKeyJwt(settings.client_id, issuer, file, clock)
        case "client_secret_post":
            return ClientSecretPost(settings.client_id, SecretFile(settings.client_secret_file, timer))
        case _:
            return ClientSecretBasic(settings.client_id, SecretFile(settings.client_secret_file, timer))


class SecretFile:
    """A secret in a file, read again at most once a second."""

    def __init__(self, path: Path | None, timer: Callable[[], float]) -> None:
        self._path = path
        self._timer = timer
        self._looked_at = 0.0
        self._content: bytes | None = None

    def read(self) -> bytes:
        """The content, at most a second old; the last good content if the file cannot be read any more.

        Raises:
            FetchFailed: when the file has never been readable.
        """
        now = self._timer()
        if self._content is None or now - self._looked_at >= _LOOK_INTERVAL:
            self._looked_at = now
            self._content = self._look() or self._content
        if self._content is None:
            raise FetchFailed("the file with the client's secret or key cannot be read, is empty or too large")
        return self._content

    def _look(self) -> bytes | None:
        if self._path is None:
            return None
        try:
            content = files.read(self._path, _MAX_FILE)
        except OSError:
            return None
        return content.removesuffix(b"\n").removesuffix(b"\r") or None


def _secret(file: SecretFile) -> str:
    try:
        return file.read().decode()
    except UnicodeDecodeError:
        raise FetchFailed("the client's secret is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """``client_secret_basic``: both parts are form-urlencoded before they are joined and encoded."""

    client_id: str
    file: SecretFile

    def add_to(self, form: dict[str, str]) -> Mapping[str, str]:  # noqa: ARG002 - nothing stands in the form
        """See ClientAuthentication."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(_secret(self.file))}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode('ascii')).decode('ascii')}"}


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
class SigningKey:
    """The client's private key, and how it signs."""

    material: Any
    algorithm: str
    kid: str | None


class PrivateKeyJwt:
    """``private_key_jwt``.

    The audience is the issuer and nothing else: a server that is told another server's address as its own could use an
    assertion for that address there.
    """

    def __init__(self, client_id: str, issuer: str, file: SecretFile, clock: Callable[[], float]) -> None:
        self._client_id = client_id
        self._issuer = issuer
        self._file = file
        self._clock = clock
        self._read: bytes | None = None
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
        if self._key is None or content != self._read:
            self._key = signing_key(content)
            self._read = content
        return self._key


def signing_key(content: bytes) -> SigningKey:
    """A private key, PEM or JWK.

    Raises:
        FetchFailed: when it is none that can sign; the text quotes nothing of it.
    """
    try:
        return _from_jwk(content) if content.lstrip().startswith(b"{") else _from_pem(content)
    except FetchFailed:
        raise
    except Exception as error:  # noqa: BLE001 - two libraries' worth of types, each of which means the same to us
        raise FetchFailed(f"the client's private key cannot be read ({type(error).__name__})") from None


def _from_pem(content: bytes) -> SigningKey:
    material = load_pem_private_key(content, None)
    return SigningKey(material, _algorithms(material)[0], None)


def _from_jwk(content: bytes) -> SigningKey:
    jwk = strict_json.loads(content)
    material = _PARSERS[jwk["kty"]](jwk)
    fitting = _algorithms(material)
    algorithm, kid = jwk.get("alg", fitting[0]), jwk.get("kid")
    if algorithm not in fitting or not (kid is None or isinstance(kid, str)):
        raise FetchFailed("the client's private key: its alg is not one of its type and curve, or its kid is no text")
    return SigningKey(material, algorithm, kid)


def _algorithms(material: Any) -> tuple[str, ...]:
    """What a private key may sign with, the usual first."""
    match material:
        case rsa.RSAPrivateKey() if material.key_size >= _MIN_RSA_BITS:
            return "RS256", *sorted(_RSA - {"RS256"})
        case ec.EllipticCurvePrivateKey() if material.curve.name in _CURVES:
            return (_CURVES[material.curve.name],)
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            return ("EdDSA",)
        case _:
            raise FetchFailed(
                "the client's private key is none of RSA with 2048 bits or more, P-256, P-384, P-521, Ed25519, Ed448"
            )


def problem_of(settings: IntrospectionSettings) -> str | None:
    """What is wrong with the file that the configured authentication needs, as far as looking at it tells."""
    try:
        authentication_of(settings, "", clock=lambda: 0.0, timer=lambda: 0.0).add_to({})
    except FetchFailed as failure:
        return str(failure)
    return None
