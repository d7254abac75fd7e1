"""The server's certificate, key and client authority, reloaded when their files change.

Invariants: what is handed to the server was validated: the key belongs to the certificate, and TLS can be served with
both. Files that do not fit (half-written, or swapped one by one) are logged once, and the previous ones stay in use.
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
    from authz_service.config.server import Tls

_MAX_BYTES = 1 << 20  # the most that a Kubernetes Secret holds


class Validity(NamedTuple):
    """The time in which every certificate of a chain is valid, in seconds since the epoch."""

    not_before: float
    not_after: float

    @classmethod
    def of(cls, chain: Iterable[Certificate]) -> Validity:
        """That of these certificates, of which there is at least one."""
        begins, ends = zip(*((each.not_valid_before_utc, each.not_valid_after_utc) for each in chain), strict=True)
        return cls(max(begins).timestamp(), min(ends).timestamp())


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files' contents in PEM, as of one read."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    validity: Validity


class CertificateFiles:
    """The files of ``server.tls``. Safe to call from any thread."""

    def __init__(self, tls: Tls, require_usable: Callable[[Certificates], object] = lambda _: None) -> None:
        """Read and validate the files. ``require_usable`` raises ValueError if the TLS library rejects them.

        Raises:
            StartFailed: if they cannot be read or do not fit together.
        """
        self._tls = tls
        self._require_usable = require_usable
        self._logger = logging.getLogger("authz.tls")
        self._lock = threading.Lock()
        self._signatures = self._current_signatures()  # before the read, so that a later change is noticed
        versions = self._versions()
        self._digests = _digests(versions)  # of the last read, whether it was accepted or refused
        try:
            self._current = self._returned = self._certificates(versions)
        except (OSError, ValueError) as error:
            raise StartFailed(str(error)) from None

    @property
    def current(self) -> Certificates:
        """The last good certificates."""
        return self._current

    def changed(self) -> Certificates | None:
        """The current certificates, if they are others than those of the last call."""
        with self._lock:
            self._refresh()
            if self._current == self._returned:
                return None
            self._returned = self._current
            return self._current

    def validity(self) -> Validity:
        """The validity of the certificates that the next handshake uses."""
        with self._lock:
            self._refresh()
            return self._current.validity

    def _refresh(self) -> None:
        signatures = self._current_signatures()
        if None not in signatures and signatures == self._signatures:
            return
        self._signatures = signatures
        versions = self._versions()
        digests = _digests(versions)
        if digests == self._digests:
            return
        self._digests = digests  # a refusal is logged once, until the files change again
        try:
            certificates = self._certificates(versions)
        except (OSError, ValueError) as error:
            self._logger.warning("certificates rejected; the previous ones stay active", extra=fields(cause=str(error)))
            return
        if certificates != self._current:
            self._current = certificates
            self._logger.info("certificates reloaded")

    def _files(self) -> tuple[Path, ...]:
        tls = self._tls
        return (tls.certificate_file, tls.key_file, *((tls.client_ca_file,) if tls.client_ca_file else ()))

    def _current_signatures(self) -> list[tuple[int, ...] | None]:
        return [files.signature_of(file) for file in self._files()]

    def _versions(self) -> list[FileVersion]:
        return [files.version_of(file, _MAX_BYTES) for file in self._files()]

    def _certificates(self, versions: Sequence[FileVersion]) -> Certificates:
        chain, key, *optional = map(_content, self._files(), versions)
        client_ca = optional[0] if optional else None
        certificates = Certificates(chain, key, client_ca, _validate(chain, key, client_ca))
        self._require_usable(certificates)
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


def _validate(chain: bytes, key: bytes, client_ca: bytes | None) -> Validity:
    """The validity of the chain.

    Raises:
        ValueError: if a file cannot be parsed, or the key does not belong to the certificate.
    """
    try:
        return _validate_supported(chain, key, client_ca)
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - the library has many exceptions for what it does not support
        raise ValueError(f"unsupported kind of certificate or key ({type(error).__name__})") from None


def _validate_supported(chain: bytes, key: bytes, client_ca: bytes | None) -> Validity:
    certificates = _parse(chain, "certificate_file")
    try:
        private_key = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("key_file holds no private key that can be read without a password") from None
    if _public_der(private_key.public_key()) != _public_der(certificates[0].public_key()):
        raise ValueError("key_file does not belong to the first certificate in certificate_file")
    if client_ca is not None:
        _parse(client_ca, "client_ca_file")
    return Validity.of(certificates)


def _parse(pem: bytes, file: str) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{file} holds no certificates in PEM") from None


def _public_der(public_key: Any) -> Any:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
