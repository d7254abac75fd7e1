"""Finds an issuer's endpoints in the metadata that it publishes.

The first address with a usable document counts. A failure that may be temporary (a timeout, a status such as 503) or a
document of another issuer ends the search: it must not decide whether the next address is used.

Invariants: metadata is used only if its ``issuer`` is exactly the configured one (OpenID Connect Discovery 1.0 section
4.3, RFC 8414 section 3.3). Metadata fetched over https leads to no plain http URL unless ``allow_http`` is set.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from authz_service.core.errors import FetchFailed, quoted
from authz_service.providers import json_object, urls
from authz_service.providers.errors import NoDocument
from authz_service.providers.urls import redact

if TYPE_CHECKING:
    from authz_service.config.model import Keys
    from authz_service.providers.client import ProviderClient

_REMEDIES = {
    "jwks_uri": "keys.jwks_uri",
    "introspection_endpoint": "introspection.endpoint",
    "token_endpoint": "security_events.token_endpoint",
}


class Discovery:
    """The metadata of one issuer, fetched for each lookup, since it may change."""

    def __init__(self, issuer: str, settings: Keys, client: ProviderClient) -> None:
        self._issuer = issuer
        self._settings = settings
        self._client = client

    async def endpoint(self, name: str, *, mutual_tls: bool = False) -> str:
        """The URL with this name, such as ``jwks_uri``, in the first usable metadata document.

        For ``mutual_tls``, its alias for clients with a certificate, if there is one (RFC 8705 section 5).

        Raises:
            FetchFailed: if there is none. The message names each URL that was tried, and what came from it.
        """
        return (await self._search(name, mutual_tls=mutual_tls))[0]

    async def document(self) -> dict[str, Any]:
        """The first usable metadata document with a ``jwks_uri``.

        Raises:
            FetchFailed: as ``endpoint``.
        """
        return (await self._search("jwks_uri", mutual_tls=False))[1]

    async def _search(self, name: str, *, mutual_tls: bool) -> tuple[str, dict[str, Any]]:
        """The endpoint, and the document that has it."""
        tried: list[str] = []
        configured = self._settings.metadata_url
        for url in metadata_urls(self._issuer) if configured is None else (configured,):
            try:
                return await self._fetch(name, url, mutual_tls=mutual_tls)
            except NoDocument as failure:
                tried.append(str(failure))
            except asyncio.CancelledError as cancelled:
                for each in tried:
                    cancelled.add_note(each)
                raise
            except FetchFailed as failure:
                raise FetchFailed("; ".join([*tried, str(failure)]), retry_after=failure.retry_after) from None
        raise FetchFailed(f"no metadata: {'; '.join(tried)}; {_remedy(name, configured)}")

    async def _fetch(self, name: str, url: str, *, mutual_tls: bool) -> tuple[str, dict[str, Any]]:
        response = await self._client.get(url, self._settings.max_bytes)
        metadata, source = _metadata_of(response.body, redact(url)), redact(url)
        aliases = metadata.get("mtls_endpoint_aliases") if mutual_tls else None
        endpoint = (aliases.get(name) if isinstance(aliases, dict) else None) or metadata.get(name)
        if metadata.get("issuer") != self._issuer and (
            endpoint is not None or not {"issuer", name}.isdisjoint(metadata)
        ):
            raise FetchFailed(_issuer_mismatch(metadata.get("issuer"), self._issuer, source))
        if not isinstance(endpoint, str) or not endpoint:
            raise NoDocument(f"the metadata at {source} has no {name}")
        scheme = urls.parse(endpoint).origin.scheme
        if url.startswith("https:") and scheme == "http" and not self._settings.allow_http:
            raise FetchFailed(
                f"the metadata at {source} has a {name} without TLS, {redact(endpoint)}, although it uses https "
                "itself; set keys.allow_http: true to accept it"
            )
        return endpoint, metadata


def _remedy(name: str, configured: str | None) -> str:
    check = "check the issuer, or set keys.metadata_url or" if configured is None else "check keys.metadata_url, or set"
    return f"{check} {_REMEDIES[name]}"


def _metadata_of(body: bytes, source: str) -> dict[str, Any]:
    try:
        return json_object.parse(body, f"the metadata at {source}")
    except FetchFailed as failure:
        raise NoDocument(str(failure)) from None


def _issuer_mismatch(seen: object, configured: str, source: str) -> str:
    mismatch = (
        f"issuer mismatch: the metadata at {source} says {quoted(seen)} but the configuration says '{configured}'"
    )
    if not isinstance(seen, str):
        return f"{mismatch}; set the issuer to the one that this provider puts into its tokens"
    kind = difference(seen, configured)
    published = quoted(seen)[1:-1]
    if kind == "trailing slash":
        return f"{mismatch} (trailing slash); set the issuer to {published}"
    return (
        f"{mismatch} ({kind}); set the issuer to the one that this provider puts into its tokens, or correct the "
        f"provider's own base URL, if it should not be {published}"
    )


def difference(seen: str, configured: str) -> str:
    """How two issuers differ, in words: only the first of several differences that is easily overlooked."""
    if seen.rstrip("/") == configured.rstrip("/"):
        return "trailing slash"
    if seen.casefold() == configured.casefold():
        return "upper and lower case"
    scheme, _, authority_and_path = seen.partition("://")
    configured_scheme, _, configured_authority_and_path = configured.partition("://")
    if authority_and_path.rstrip("/") == configured_authority_and_path.rstrip("/"):
        return f"{quoted(scheme)[1:-1]} instead of {configured_scheme}"
    host = authority_and_path.partition("/")[0]
    return "path" if host == configured_authority_and_path.partition("/")[0] else "host"


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """The URLs of an issuer's metadata: OpenID Connect Discovery 1.0 section 4, and RFC 8414 section 3.

    For an issuer with a path, a last one has the OpenID name in the place that RFC 8414 defines, since MCP clients find
    metadata there.
    """
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    standard = (
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        f"{root}/.well-known/oauth-authorization-server{path}",
    )
    return (*standard, f"{root}/.well-known/openid-configuration{path}") if path else standard
