"""TLS of the server on asyncio, with the certificates that are good at each handshake.

Law: HTTP/2 as RFC 9113 section 9.2 wants it: TLS 1.2 or newer, no renegotiation, forward secrecy, ``h2`` by ALPN. Keys
are handed to OpenSSL without being written to a disk, on Linux at least.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from authz_service.transport.tls.certificates import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config.model import Tls
    from authz_service.transport.tls.certificates import Certificates

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: what RFC 9113's appendix A leaves of what is strong


def certificate_files(tls: Tls) -> CertificateFiles:
    """The files of ``server.tls``; what they hold is tried with OpenSSL, which refuses more than is malformed.

    Raises:
        StartFailed: when it cannot be used.
    """
    return CertificateFiles(tls, context_of)


class ServerContext(ssl.SSLContext):
    """Makes each handshake with what the files hold at the time.

    Each time they change, by a context that is new as a whole: with it the sessions of the old one end. A client that
    resumes a session is not verified again, so it would outlive the authority that it was verified by.
    """

    def __new__(cls, _files: CertificateFiles) -> Self:
        """As any context of a server."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: CertificateFiles) -> None:
        """``files`` are those of ``certificate_files``."""
        self._files = files
        self._serving = context_of(files.current)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a handshake; asyncio and uvloop both call this for each connection."""
        if (changed := self._files.changed()) is not None:
            self._serving = context_of(changed)
        return self._serving.wrap_bio(*arguments, **named)


def context_of(certificates: Certificates) -> ssl.SSLContext:
    """The context that serves with these.

    Raises:
        ValueError: when OpenSSL does not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    try:
        with _as_file(certificates.chain) as chain, _as_file(certificates.key) as key:
            context.load_cert_chain(chain, key)
        if certificates.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            with _as_file(certificates.client_ca) as authorities:
                context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise ValueError(f"OpenSSL does not serve with these certificates ({error.reason})") from None
    return context


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A file's name for bytes, since OpenSSL's binding takes nothing else; in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor, path = os.memfd_create("certificate"), None
    else:
        descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            yield path or f"/proc/self/fd/{descriptor}"
    finally:
        if path is not None:
            Path(path).unlink()
