"""OpenSSL contexts of the asyncio server, each handshake with the current certificates.

Invariants: TLS is as RFC 9113 section 9.2 requires: version 1.2 or newer, no renegotiation, forward secrecy, ``h2`` by
ALPN. On Linux, keys reach OpenSSL without being written to a disk.
"""

from __future__ import annotations

import ssl
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, cast

from authz_service.config import files
from authz_service.transport.tls.certificates import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.config.server import Tls
    from authz_service.transport.tls.certificates import Certificates

# How the handshake that the current task begins sends its alert.
send_alert: ContextVar[Callable[[bytes], object]] = ContextVar("send_alert")
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: the strong ones that RFC 9113 appendix A does not prohibit


def openssl_certificate_files(tls: Tls) -> CertificateFiles:
    """The files of ``server.tls``, validated with OpenSSL as well, which also refuses keys that are too weak.

    Raises:
        StartFailed: if TLS cannot be served with them.
    """
    return CertificateFiles(tls, _server_context)


class ReloadingContext(ssl.SSLContext):
    """A server context that makes each handshake with the current certificates.

    When they change, a new context replaces the old one, whose sessions end with it: a client that resumes a session is
    not verified again, and would otherwise outlive the authority that verified it.
    """

    def __new__(cls, _files: CertificateFiles) -> Self:
        """``SSLContext`` chooses the protocol here, not in ``__init__``."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificate_files: CertificateFiles) -> None:
        """``certificate_files`` must come from ``openssl_certificate_files``."""
        self._files = certificate_files
        self._current = _server_context(certificate_files.current)

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **named: Any) -> _SslObject:
        """Begin a handshake. Both asyncio and uvloop call this for each connection."""
        if (changed := self._files.changed()) is not None:
            self._current = _server_context(changed)
        made = cast("_SslObject", self._current.wrap_bio(incoming, outgoing, *arguments, **named))
        made.outgoing, made.send = outgoing, send_alert.get()
        return made


class _SslObject(ssl.SSLObject):
    """Sends the alert of a failed handshake, which both event loops discard."""

    outgoing: ssl.MemoryBIO
    send: Callable[[bytes], object]

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.send(self.outgoing.read())
            raise


def _server_context(certificates: Certificates) -> ssl.SSLContext:
    """A context for these certificates.

    Raises:
        ValueError: if OpenSSL rejects them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _SslObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    try:
        with files.in_memory(certificates.chain) as chain, files.in_memory(certificates.key) as key:
            context.load_cert_chain(chain, key)
        if certificates.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            with files.in_memory(certificates.client_ca) as authorities:
                context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise ValueError(f"OpenSSL rejects the certificates ({error.reason})") from None
    return context
