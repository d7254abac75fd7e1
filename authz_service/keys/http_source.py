"""A key set over HTTP: from ``keys.jwks_uri``, or from the ``jwks_uri`` in the issuer's metadata.

Owns one fetch: its time limit, the conditional request, and the lifetime that Cache-Control gives the keys.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.jwk import SIGNATURE_USE
from authz_service.keys.source import Fetched
from authz_service.providers.client import ProviderClient
from authz_service.providers.discovery import Discovery
from authz_service.providers.errors import fetch_timeout

if TYPE_CHECKING:
    from collections.abc import Collection

    from authz_service.config.model import Keys
    from authz_service.providers.client_resources import ClientResources
    from authz_service.providers.exchange import Headers

_MAX_CONNECTIONS: Final = 2  # metadata and key set may be at different origins
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,9})", re.IGNORECASE)
_NO_STORE = re.compile(r"(?:^|[,\s])no-store(?:[,\s=]|$)", re.IGNORECASE)


class HttpSource:
    """Keys from ``jwks_uri`` or by discovery."""

    def __init__(
        self,
        issuer: str,
        settings: Keys,
        resources: ClientResources | None = None,
        uses: Collection[str] = SIGNATURE_USE,
    ) -> None:
        """``resources`` is shared by the clients of a process; ``uses`` are the values of ``use`` that are accepted."""
        self._settings = settings
        self._uses = uses
        self._client = ProviderClient(
            settings,
            accept="application/json, application/jwk-set+json",
            max_connections=_MAX_CONNECTIONS,
            resources=resources,
            address=settings.address(issuer),
        )
        self._discovery = Discovery(issuer, settings, self._client)
        self._fetched_uri = ""
        self._validators: dict[str, str] = {}  # conditional headers for the key set at _fetched_uri

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Fetch the key set; if ``have_keys``, only if it has changed.

        Raises:
            FetchFailed: for any problem with network, TLS, time, status, size or content.
        """
        try:
            async with fetch_timeout(self._settings.timeout):
                uri = self._settings.jwks_uri or await self._discovery.endpoint("jwks_uri")
                conditional = self._validators if have_keys and uri == self._fetched_uri else {}
                response = await self._client.get(uri, self._settings.max_bytes, conditional)
        except FetchFailed:
            await self.close()
            raise
        headers = response.headers
        lifetime = lifetime_of(headers.combined("cache-control"), headers.get("age"), self._settings)
        if response.status == HTTPStatus.NOT_MODIFIED:
            return Fetched(None, lifetime)
        key_set = keyset.parse(response.body, self._settings.max_keys, self._uses)
        self._fetched_uri, self._validators = uri, _validators(headers)
        return Fetched(key_set, lifetime)

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._client.close()


def _validators(headers: Headers) -> dict[str, str]:
    return {
        condition: headers.get(header)
        for header, condition in (("etag", "If-None-Match"), ("last-modified", "If-Modified-Since"))
        if header in headers
    }


def lifetime_of(cache_control: str, age: str, settings: Keys) -> float:
    """Seconds until the next fetch, within the configured bounds.

    The arguments are the values of Cache-Control and Age (RFC 9111 section 5), empty where there is none. ``no-cache``,
    ``no-store`` and ``max-age=0`` ask for revalidation, which each refresh does: they do not change the interval.
    Frameworks add them to every response, where the operator of the provider cannot change them.
    """
    max_age = _MAX_AGE.search(cache_control)
    seconds = 0.0 if max_age is None or _NO_STORE.search(cache_control) else float(max_age[1])
    if seconds:
        lifetime = seconds - (float(age) if age.isascii() and age.isdigit() else 0.0)
    else:
        lifetime = settings.refresh_interval
    return min(max(lifetime, settings.min_refresh_interval), settings.max_refresh_interval)
