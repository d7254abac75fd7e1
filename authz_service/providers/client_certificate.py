"""The client certificate for mutual TLS with a provider: ``keys.client_certificate_file`` and ``client_key_file``.

A pair is used only if certificate and key belong together, so that a pair of which one file is already replaced never
reaches a connection. The key stays in memory: it is written to no disk and into no message.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

from authz_service.config import files
from authz_service.core.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_READ_INTERVAL = 1.0  # seconds between two reads of the files
_MAX_FILE = 1 << 18  # bytes

_MISMATCH = "keys.client_key_file does not belong to the first certificate in keys.client_certificate_file"
_NO_KEY = "keys.client_key_file holds no private key that can be read without a password: write PEM"
_PROBLEMS = {
    "KEY_VALUES_MISMATCH": _MISMATCH,
    "KEY_TYPE_MISMATCH": _MISMATCH,
    "EE_KEY_TOO_SMALL": "the key in keys.client_certificate_file is too weak",
    "CA_MD_TOO_WEAK": "the signature in keys.client_certificate_file is too weak",
}


class Pair(NamedTuple):
    """A certificate chain and the key of its first certificate, in PEM."""

    chain: bytes
    key: bytes

    def add_to(self, context: ssl.SSLContext) -> None:
        """Present this certificate in handshakes.

        Raises:
            FetchFailed: if OpenSSL cannot use it.
        """
        try:
            with files.in_memory(self.chain) as chain, files.in_memory(self.key) as key:
                context.load_cert_chain(chain, key, password=_no_password)
        except ssl.SSLError as error:
            raise FetchFailed(_PROBLEMS.get(error.reason, _NO_KEY)) from None


def _no_password() -> bytes:
    """Without it, OpenSSL would read a password from the terminal."""
    return b""


class ClientCertificate:
    """The pair in the two files, which are read again when a second has passed since the last time."""

    def __init__(self, certificate_file: Path, key_file: Path, timer: Callable[[], float]) -> None:
        """``timer`` returns seconds of a monotonic clock."""
        self._paths = (certificate_file, key_file)
        self._timer = timer
        self._read_at = 0.0
        self._current: Pair | None = None

    def current(self) -> Pair:
        """The last usable pair.

        Raises:
            FetchFailed: if there was never one.
        """
        now = self._timer()
        if self._current is None or now - self._read_at >= _READ_INTERVAL:
            self._read_at = now
            try:
                self._current = self._read()
            except FetchFailed:
                if self._current is None:
                    raise
        return self._current

    def _read(self) -> Pair:
        pair = Pair(*map(_content, ("client_certificate_file", "client_key_file"), self._paths))
        if pair != self._current:
            _require_usable(pair)
        return pair


def _content(name: str, path: Path) -> bytes:
    try:
        return files.read(path, _MAX_FILE)
    except OSError as error:
        raise FetchFailed(f"keys.{name} cannot be read: {error.strerror}") from None


def _require_usable(pair: Pair) -> None:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        load_pem_x509_certificates(pair.chain)
    except ValueError:
        raise FetchFailed("keys.client_certificate_file holds no certificates in PEM") from None
    pair.add_to(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
