"""Introspection over HTTP (RFC 7662 section 2).

Owns the request and what its response means: a JSON object, plain or signed, or one of the failures of ``client``.
``response`` interprets the object.

Invariants:
- A request is sent once, follows no redirect, and reads at most ``MAX_RESPONSE`` bytes within ``timeout``.
- Nothing that the server wrote appears in an error message: it may hold the token.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from authz_service.core.errors import FetchFailed
from authz_service.providers import json_object
from authz_service.providers.client import POST_KEEPALIVE_TIMEOUT, ProviderClient
from authz_service.providers.endpoint import Endpoint
from authz_service.providers.errors import fetch_timeout
from authz_service.providers.urls import redact
from authz_service.tokens.introspection.client import ClientRefused, Forbidden, RequestRefused
from authz_service.tokens.introspection.signed_response import MEDIA_TYPE, SignedResponseVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.config.model import IntrospectionSettings, Issuer
    from authz_service.keys.cache import KeyCache
    from authz_service.providers.client_authentication import ClientAuthentication
    from authz_service.providers.client_resources import ClientResources
    from authz_service.providers.exchange import HttpResponse

MAX_RESPONSE = 1 << 16  # bytes; the largest known response has 4 KiB, and a signed one is a third longer
_READ_STATUSES = frozenset({HTTPStatus.OK, HTTPStatus.BAD_REQUEST})  # whose bodies are read
_CHECK_CREDENTIALS = "check client_id, its secret or key, and auth_method"


class HttpIntrospectionClient:
    """Sends requests to one issuer's introspection endpoint."""

    def __init__(
        self,
        issuer: Issuer,
        settings: IntrospectionSettings,
        authentication: ClientAuthentication,
        keys: KeyCache,
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
        resources: ClientResources | None = None,
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock.

        ``resources`` is shared by the clients of a process.
        """
        self._timeout = settings.timeout
        self._authentication = authentication
        self._clock = clock
        self._client = ProviderClient(
            issuer.keys,
            accept="application/json",
            max_connections=settings.max_concurrent + 1,  # one for the metadata
            resources=resources,
            keepalive_timeout=POST_KEEPALIVE_TIMEOUT,
            address=issuer.keys.address(issuer.issuer) if settings.endpoint is None else None,
        )
        mutual_tls = settings.auth_method == "tls_client_auth"
        self._endpoint = Endpoint(
            "introspection_endpoint", settings.endpoint, issuer, self._client, timer, mutual_tls=mutual_tls
        )
        self._signed_responses = SignedResponseVerifier(issuer, settings.client_id, keys, clock)

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """The response body for a token.

        Raises:
            FetchFailed: for any problem with network, TLS, time, status, size or content.
        """
        async with fetch_timeout(self._timeout):
            return await self._introspect(await self._endpoint.url(), token)

    async def prepare(self) -> None:
        """Discover the endpoint and load the trust anchors, so that the first request need not wait for that."""
        with contextlib.suppress(FetchFailed):  # the first request reports it
            if redact(await self._endpoint.url()).startswith("https:"):
                await self._client.prepare()

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()
        await self._client.close()

    async def _introspect(self, url: str, token: str) -> Mapping[str, Any]:
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self._authentication.add_to(form)}
        data = urlencode(form).encode("ascii")
        response = await self._client.post(url, data, headers, MAX_RESPONSE, _READ_STATUSES)
        if response.status != HTTPStatus.OK:
            raise self._failure(redact(url), response)
        if response.content_type == "application/json":
            return json_object.parse(response.body, "the response")
        if response.content_type == MEDIA_TYPE:
            return await self._signed_responses.verify(response.body)
        raise FetchFailed(f"{redact(url)} responded with a content type other than application/json and {MEDIA_TYPE}")

    def _failure(self, url: str, response: HttpResponse) -> FetchFailed:
        cause = f"{url} responded with status {response.status}"
        match response.status:
            case HTTPStatus.UNAUTHORIZED:
                return ClientRefused(f"{cause}: {_CHECK_CREDENTIALS}")
            case HTTPStatus.FORBIDDEN:
                return Forbidden(f"{cause}: check client_id, its permissions, and any firewall in front of the server")
            case HTTPStatus.BAD_REQUEST:
                return _bad_request(cause, response.body)
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNPROCESSABLE_ENTITY:
                return RequestRefused(cause)
            case _:
                return FetchFailed(cause, retry_after=response.retry_after(self._clock()))


def _bad_request(cause: str, body: bytes) -> FetchFailed:
    """Some servers reject an unknown client with 400 (RFC 6749 section 5.2); all other errors are about the token."""
    try:
        error = json_object.parse(body, "the response").get("error")
    except FetchFailed:
        error = None
    if error in ("invalid_client", "unauthorized_client"):  # a tuple: an unhashable error would fail in a set
        return ClientRefused(f"{cause}, {error}: {_CHECK_CREDENTIALS}")
    if error == "unsupported_token_type":  # RFC 7009 section 2.2.1
        return RequestRefused(f"{cause}, unsupported_token_type: the server does not introspect such tokens")
    return RequestRefused(cause)
