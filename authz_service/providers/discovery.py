"""Finds an issuer's endpoints in the metadata that it publishes.

Invariants: metadata is used only if its ``issuer`` is exactly the configured one (OpenID Connect Discovery 1.0 section
4.3, RFC 8414 section 3.3). Metadata of an https issuer leads to no plain http URL unless ``allow_http`` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from authz_service.core.errors import FetchFailed, quoted
from authz_service.providers import json_object, urls
from authz_service.providers.errors import NotFound
from authz_service.providers.urls import redact

if TYPE_CHECKING:
    from authz_service.config.model import Keys
    from authz_service.providers.client import ProviderClient


class Discovery:
    """The metadata of one issuer, fetched for each lookup, since it may change."""

    def __init__(self, issuer: str, settings: Keys, client: ProviderClient) -> None:
        self._issuer = issuer
        self._settings = settings
        self._client = client

    async def endpoint(self, name: str) -> str:
        """The URL with this name, such as ``jwks_uri``, in the first metadata document that exists.

        Raises:
            FetchFailed: if there is none.
        """
        locations = metadata_urls(self._issuer)
        for url in locations:
            try:
                response = await self._client.get(url, self._settings.max_bytes)
            except NotFound:
                continue
            return self._endpoint(name, response.body, redact(url))
        places = " or ".join(map(redact, locations))
        raise FetchFailed(f"there is no metadata at {places}: check the issuer, or configure its {name}")

    def _endpoint(self, name: str, body: bytes, source: str) -> str:
        metadata = json_object.parse(body, f"the metadata at {source}")
        if metadata.get("issuer") != self._issuer:
            raise FetchFailed(_issuer_mismatch(metadata.get("issuer"), self._issuer, source))
        endpoint = metadata.get(name)
        if not isinstance(endpoint, str):
            raise FetchFailed(f"the metadata at {source} has no {name}")
        is_plain = urls.parse(endpoint).origin.scheme == "http"
        if self._issuer.startswith("https:") and is_plain and not self._settings.allow_http:
            raise FetchFailed(
                f"the metadata at {source} has a {name} without TLS, {redact(endpoint)}, although the issuer uses "
                "https; set keys.allow_http: true to accept it"
            )
        return endpoint


def _issuer_mismatch(seen: object, configured: str, source: str) -> str:
    mismatch = (
        f"issuer mismatch: the metadata at {source} says {quoted(seen)} but the configuration says '{configured}'"
    )
    if isinstance(seen, str) and seen.rstrip("/") == configured.rstrip("/"):
        return f"{mismatch} (trailing slash); set the issuer to {quoted(seen)}"
    return f"{mismatch}; set the issuer to the one that this provider puts into its tokens"


def metadata_urls(issuer: str) -> tuple[str, str]:
    """The URLs of an issuer's metadata (OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3)."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return (
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}",
    )
