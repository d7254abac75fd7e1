"""The certificates that a provider's certificate must chain to: the system's, and those in ``keys.ca_file``."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from authz_service.core.errors import FetchFailed
from authz_service.single_flight import SharedTask

if TYPE_CHECKING:
    from pathlib import Path


class TrustAnchors:
    """Loads the certificates in a thread on first use: it takes tens of milliseconds and nearly a megabyte."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._ca_file = ca_file
        self._loading: SharedTask[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """The context for TLS connections to a provider.

        Raises:
            FetchFailed: if the certificates cannot be read.
        """
        if self._loading is None:
            self._loading = SharedTask(asyncio.to_thread(_load, self._ca_file), name="load trust anchors")
        try:
            return await self._loading.result()
        except FetchFailed:
            self.discard()
            raise

    def discard(self) -> None:
        """Load them again on the next use: the files may have been replaced."""
        self._loading = None


def _load(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            raise FetchFailed("keys.ca_file holds no certificate that can be read: write PEM") from None
        except OSError as error:
            raise FetchFailed(f"keys.ca_file cannot be read: {error.strerror}") from None
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context
