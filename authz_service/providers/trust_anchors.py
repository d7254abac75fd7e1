"""The certificates that a provider's certificate must chain to: the system's, and those in ``keys.ca_file``.

Beside them, the certificate that is presented to the provider, if there is one: both belong to the TLS context.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.core.errors import FetchFailed
from authz_service.single_flight import SharedTask

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.providers.client_certificate import ClientCertificate, Pair


class TrustAnchors:
    """Loads the certificates in a thread on first use: it takes tens of milliseconds and nearly a megabyte."""

    def __init__(self, ca_file: Path | None = None, certificate: ClientCertificate | None = None) -> None:
        self._ca_file = ca_file
        self._certificate = certificate
        self._pair: Pair | None = None  # in the context that is loading or loaded
        self._loading: SharedTask[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """The context for TLS connections to a provider.

        Raises:
            FetchFailed: if the certificates cannot be read.
        """
        pair = None if self._certificate is None else self._certificate.current()
        if self._loading is None or pair != self._pair:
            self._pair = pair
            self._loading = SharedTask(asyncio.to_thread(_load, self._ca_file, pair), name="load trust anchors")
        try:
            return await self._loading.result()
        except FetchFailed:
            self.discard()
            raise

    def discard(self) -> None:
        """Load them again on the next use: the files may have been replaced."""
        self._loading = None


def problem_of(ca_file: Path) -> str | None:
    """Why this file cannot be used as ``keys.ca_file``; None if it can."""
    try:
        _add(ca_file, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except FetchFailed as failure:
        return str(failure)
    return None


def _load(ca_file: Path | None, pair: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        _add(ca_file, context)
    if pair is not None:
        pair.add_to(context)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _add(ca_file: Path, context: ssl.SSLContext) -> None:
    try:
        content = files.read(ca_file, files.MAX_CONFIG_BYTES)  # OpenSSL itself would wait for a FIFO
        with files.in_memory(content) as path:
            context.load_verify_locations(path)
    except ssl.SSLError:
        raise FetchFailed("keys.ca_file holds no certificate that can be read: write PEM") from None
    except OSError as error:
        raise FetchFailed(f"keys.ca_file cannot be read: {error.strerror}") from None
