"""A key set over HTTPS: from ``jwks_uri``, or from the address that the issuer's metadata name.

Law: no answer is larger than ``max_bytes``, and all that one fetch takes is done within ``timeout``. A key set is asked
for anew only when it changed.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.source import Fetched
from authz_service.providers.client import ProviderClient
from authz_service.providers.discovery import Discovery

if TYPE_CHECKING:
    from authz_service.config.model import Keys
    from authz_service.providers.client import Network
    from authz_service.providers.exchange import Headers

_MAX_CONNECTIONS: Final = 2  # one for the metadata, one for the key set, should they be at two places
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,9})", re.IGNORECASE)
# Not no-cache, which Keycloak sends: to be asked for a change at each refresh is what it means.
_NOT_STORED = re.compile(r"(?:^|[,\s])no-store(?:[,\s=]|$)", re.IGNORECASE)


class HttpSource:
    """Keys from ``jwks_uri`` or by discovery."""

    def __init__(self, issuer: str, settings: Keys, network: Network | None = None) -> None:
        """``network`` is what the clients of a process share."""
        self._settings = settings
        self._client = ProviderClient(
            accept="application/json, application/jwk-set+json",
            max_connections=_MAX_CONNECTIONS,
            network=network,
            ca_file=settings.ca_file,
            allow_http=settings.allow_http,
        )
        self._discovery = Discovery(issuer, settings, self._client)
        self._validators: dict[str, str] = {}  # conditional headers for the key set that was fetched last
        self._fetched_uri = ""

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Get the key set, asking only for a change when ``have_keys``.

        Raises:
            FetchFailed: for any trouble with network, TLS, time, status, size or content.
        """
        try:
            async with asyncio.timeout(self._settings.timeout):
                uri = self._settings.jwks_uri or await self._discovery.address("jwks_uri")
                conditional = self._validators if have_keys and uri == self._fetched_uri else {}
                response = await self._client.get(uri, self._settings.max_bytes, conditional)
        except FetchFailed:
            await self.close()
            raise
        except TimeoutError:
            await self.close()
            raise FetchFailed(f"no complete answer within {self._settings.timeout:g} s") from None
        headers = response.headers
        lifetime = lifetime_of(headers.joined("cache-control"), headers.get("age"), self._settings)
        if response.status == HTTPStatus.NOT_MODIFIED:
            return Fetched(None, lifetime)
        key_set = keyset.parse(response.body, self._settings.max_keys)
        self._remember(uri, headers)
        return Fetched(key_set, lifetime)

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._client.close()

    def _remember(self, uri: str, headers: Headers) -> None:
        self._fetched_uri = uri
        self._validators = {
            condition: headers.get(header)
            for header, condition in (("etag", "If-None-Match"), ("last-modified", "If-Modified-Since"))
            if header in headers
        }


def lifetime_of(control: str, age: str, settings: Keys) -> float:
    """Seconds until the next fetch, between the configured bounds.

    ``control`` and ``age`` are the headers Cache-Control and Age (RFC 9111 section 5), empty where they are absent.
    """
    max_age = _MAX_AGE.search(control)
    if _NOT_STORED.search(control):
        wanted = 0.0
    elif max_age:
        wanted = float(max_age[1]) - (float(age) if age.isascii() and age.isdigit() else 0.0)
    else:
        wanted = settings.refresh_interval
    return min(max(wanted, settings.min_refresh_interval), settings.max_refresh_interval)
