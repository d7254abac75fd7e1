"""Finding an issuer's addresses in the metadata that it publishes.

Law: metadata count only when their ``issuer`` is the configured one, octet for octet (OpenID Connect Discovery 1.0
section 4.3, RFC 8414 section 3.3), and those of an https issuer lead to no address without TLS, unless that is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed
from authz_service.providers import urls
from authz_service.providers.client import Absent

if TYPE_CHECKING:
    from authz_service.config.model import Keys
    from authz_service.providers.client import ProviderClient


class Discovery:
    """One issuer's metadata, read anew each time, since what they say may change."""

    def __init__(self, issuer: str, settings: Keys, client: ProviderClient) -> None:
        self._issuer = issuer
        self._settings = settings
        self._client = client

    async def address(self, name: str) -> str:
        """The address with this name, from the first metadata document that is there.

        Raises:
            FetchFailed: when there is none to be had.
        """
        failure = "the issuer publishes no metadata"
        for url in metadata_urls(self._issuer):
            try:
                response = await self._client.get(url, self._settings.max_bytes)
            except Absent as absent:
                failure = str(absent)
                continue
            return self._named(name, response.body)
        raise FetchFailed(failure)

    def _named(self, name: str, body: bytes) -> str:
        try:
            metadata = strict_json.loads(body)
        except ValueError as error:
            raise FetchFailed(f"the metadata are no JSON that can be read in one way: {error}") from None
        if not isinstance(metadata, dict) or metadata.get("issuer") != self._issuer:
            raise FetchFailed("the issuer in the metadata is not the configured one, octet for octet")
        address = metadata.get(name)
        if not isinstance(address, str):
            raise FetchFailed(f"the metadata name no {name}")
        is_plain = urls.parse(address).origin.scheme == "http"
        if self._issuer.startswith("https:") and is_plain and not self._settings.allow_http:
            raise FetchFailed(f"the metadata of an https issuer name a {name} without TLS")
        return address


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where an issuer's metadata may be (OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3)."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return (
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}",
    )
