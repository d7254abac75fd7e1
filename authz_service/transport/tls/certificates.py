"""The server's certificates, read again when the files change.

Law: what is handed to the server has been tried: a certificate and a key that belong together. A pair that does not fit
(half written, expired files swapped one by one) is logged once and the good one before it stays.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from authz_service.config import files
from authz_service.config.files import FileTooLargeError
from authz_service.core.errors import StartFailed
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from cryptography.x509 import Certificate

    from authz_service.config.files import FileVersion
    from authz_service.config.model import Tls

_MAX_BYTES = 1 << 20  # bytes; the most that a Kubernetes Secret holds


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts, as the files held them at one time."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    valid: Validity


class Validity(NamedTuple):
    """The time in which every certificate of a chain is valid, in seconds since the epoch."""

    since: float
    until: float


class CertificateFiles:
    """Reads the certificates of ``server.tls``. Safe to call from any thread."""

    def __init__(self, tls: Tls, use: Callable[[Certificates], object] = lambda _: None) -> None:
        """Read and try them. ``use`` raises ValueError where who is to serve with them cannot.

        Raises:
            StartFailed: when they cannot be read or do not fit.
        """
        self._tls = tls
        self._use = use
        self._logger = logging.getLogger("authz.tls")
        self._lock = threading.Lock()
        versions = self._versions()
        self._digests = _digests(versions)  # of the files when they were last looked at, whether accepted or refused
        try:
            self._current = self._handed_out = self._certificates(versions)
        except (OSError, ValueError) as error:
            raise StartFailed(str(error)) from None

    @property
    def current(self) -> Certificates:
        """The last good ones."""
        return self._current

    def changed(self) -> Certificates | None:
        """New certificates, if the files changed into good ones since the last call."""
        with self._lock:
            self._refresh()
            if self._current == self._handed_out:
                return None
            self._handed_out = self._current
            return self._current

    def valid(self) -> Validity:
        """When those are valid that the next handshake will be made with."""
        with self._lock:
            self._refresh()
            return self._current.valid

    def _refresh(self) -> None:
        versions = self._versions()
        digests = _digests(versions)
        if digests == self._digests:
            return
        self._digests = digests  # a refusal is logged once, until the files change again
        try:
            certificates = self._certificates(versions)
        except (OSError, ValueError) as error:
            self._logger.warning("certificates refused, the old ones stay", extra=fields(cause=str(error)))
            return
        if certificates != self._current:
            self._current = certificates
            self._logger.info("certificates re-read")

    def _files(self) -> tuple[Path, ...]:
        tls = self._tls
        return (tls.certificate_file, tls.key_file, *((tls.client_ca_file,) if tls.client_ca_file else ()))

    def _versions(self) -> list[FileVersion]:
        return [files.version_of(file, _MAX_BYTES) for file in self._files()]

    def _certificates(self, versions: Sequence[FileVersion]) -> Certificates:
        chain, key, *optional = map(_content, self._files(), versions)
        client_ca = optional[0] if optional else None
        certificates = Certificates(chain, key, client_ca, _try(chain, key, client_ca))
        self._use(certificates)
        return certificates


def _digests(versions: Iterable[FileVersion]) -> tuple[bytes, ...]:
    return tuple(version.digest for version in versions)


def _content(file: Path, version: FileVersion) -> bytes:
    try:
        return version.require()
    except FileTooLargeError:
        raise ValueError(f"{file.name} is larger than {_MAX_BYTES >> 20} MiB") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def _try(chain: bytes, key: bytes, client_ca: bytes | None) -> Validity:
    """When these are valid; raises ValueError when TLS could not be served with them."""
    try:
        return _require_pair(chain, key, client_ca)
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - the library has many types for what it does not support
        raise ValueError(f"a certificate or key of a kind that is not supported ({type(error).__name__})") from None


def _require_pair(chain: bytes, key: bytes, client_ca: bytes | None) -> Validity:
    certificates = _certificates(chain, "certificate_file")
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("key_file holds no private key that can be read without a password") from None
    if _public(private.public_key()) != _public(certificates[0].public_key()):
        raise ValueError("key_file does not belong to certificate_file")
    if client_ca is not None:
        _certificates(client_ca, "client_ca_file")
    return Validity(
        max(each.not_valid_before_utc.timestamp() for each in certificates),
        min(each.not_valid_after_utc.timestamp() for each in certificates),
    )


def _certificates(pem: bytes, file: str) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{file} holds no certificates") from None


def _public(key: Any) -> Any:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
