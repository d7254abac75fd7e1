"""The server's certificates, read again when the files change.

Law: what is handed to the server has been tried: a certificate and a key that belong together. A pair that does not fit
(half written, expired files swapped one by one) is logged once and the good one before it stays.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from authz_service.config import files
from authz_service.core.errors import StartFailed
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.x509 import Certificate

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
        self._stamps: tuple[object, ...] = ()
        try:
            self._current = self._handed_out = self._read()
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
        stamps = self._look()
        if stamps == self._stamps:
            return
        try:
            certificates = self._read()
        except (OSError, ValueError) as error:
            self._stamps = stamps  # say it once; another change brings another look
            self._logger.warning("certificates refused, the old ones stay", extra=fields(cause=str(error)))
            return
        if certificates != self._current:
            self._current = certificates
            self._logger.info("certificates re-read")

    def _files(self) -> tuple[Path, ...]:
        tls = self._tls
        return (tls.certificate_file, tls.key_file, *((tls.client_ca_file,) if tls.client_ca_file else ()))

    def _look(self) -> tuple[object, ...]:
        """What tells one state of the files from another, wherever their names lead now."""
        try:
            return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in map(Path.stat, self._files()))
        except OSError as error:
            return (error.errno,)

    def _read(self) -> Certificates:
        stamps = self._look()
        chain, key, *rest = map(_content, self._files())
        client_ca = rest[0] if rest else None
        certificates = Certificates(chain, key, client_ca, _try(chain, key, client_ca))
        self._use(certificates)
        self._stamps = stamps
        return certificates


def _content(file: Path) -> bytes:
    try:
        content = files.read(file, _MAX_BYTES)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{file.name} is larger than {_MAX_BYTES >> 20} MiB")
    return content


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
