"""TLS of the server on asyncio, with the certificates that are good at each handshake.

Law: HTTP/2 as RFC 9113 section 9.2 wants it: TLS 1.2 or newer, ``h2`` by ALPN. Keys are handed to OpenSSL without being
written to a disk.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.transport.certificates import CertificateFiles, Certificates


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    """A context whose handshakes are made with what the files hold at the time."""
    serving = _context(files.current)

    def choose(handshake: ssl.SSLObject, _name: str | None, _entry: ssl.SSLContext) -> None:
        nonlocal serving
        if (changed := files.changed()) is not None:
            serving = _context(changed)
        handshake.context = serving

    entry = _context(files.current)
    entry.sni_callback = choose  # called in every handshake, whether the peer names a server or not
    return entry


def _context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with _as_file(certificates.chain + b"\n" + certificates.key) as path:
        context.load_cert_chain(path)
    if certificates.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=certificates.client_ca.decode("ascii"))
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
