"""The URL of a provider's endpoint: as configured, or as the issuer's metadata name it.

Discovered metadata is refreshed in the background; a discovered URL stays in use until another one is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.providers.discovery import Discovery
from authz_service.providers.errors import fetch_timeout
from authz_service.single_flight import SharedTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.config.model import Issuer
    from authz_service.providers.client import ProviderClient


class Endpoint:
    """One endpoint of one issuer."""

    def __init__(
        self,
        name: str,
        configured: str | None,
        issuer: Issuer,
        client: ProviderClient,
        timer: Callable[[], float],
        *,
        mutual_tls: bool = False,
    ) -> None:
        """``name`` is that of the metadata, such as ``token_endpoint``; for ``mutual_tls`` see ``Discovery``."""
        self._name = name
        self._configured = configured
        self._mutual_tls = mutual_tls
        self._keys = issuer.keys
        self._discovery = Discovery(issuer.issuer, issuer.keys, client)
        self._timer = timer
        self._discovered: str | None = None
        self._refresh_at = 0.0
        self._refreshing: SharedTask[str] | None = None

    async def url(self) -> str:
        """The URL, discovered if it has to be.

        Raises:
            FetchFailed: if none was ever discovered.
        """
        if self._configured is not None:
            return self._configured
        if self._discovered is None:
            return await self._refresh().result()
        if self._timer() >= self._refresh_at:
            self._refresh()
        return self._discovered

    def _refresh(self) -> SharedTask[str]:
        if self._refreshing is None or self._refreshing.is_done:
            self._refresh_at = self._timer() + self._keys.min_refresh_interval
            self._refreshing = SharedTask(self._discover(), name=f"discovery of {self._name}")
        return self._refreshing

    async def _discover(self) -> str:
        async with fetch_timeout(self._keys.timeout, "metadata"):
            self._discovered = await self._discovery.endpoint(self._name, mutual_tls=self._mutual_tls)
        self._refresh_at = self._timer() + self._keys.refresh_interval
        return self._discovered

    async def close(self) -> None:
        """Cancel a refresh."""
        if self._refreshing is not None:
            await self._refreshing.cancel()
