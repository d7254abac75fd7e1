"""The access token with which this client calls an API of a provider: requested (RFC 6749 section 4.4), or from a file.

Owns when a token is requested and how long it is used. The caller sends it to one address only, and discards it when
it is refused.

Invariants:
- Concurrent callers share one request, which is sent once, follows no redirect, and reads at most ``MAX_RESPONSE``
  bytes.
- An error contains nothing of the response but an error code of RFC 6749 section 5.2, and nothing of the token.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from authz_service.core.errors import FetchFailed
from authz_service.providers import json_object
from authz_service.providers.errors import fetch_timeout
from authz_service.providers.urls import redact
from authz_service.single_flight import SharedTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.providers.bearer_token import BearerToken
    from authz_service.providers.client import ProviderClient
    from authz_service.providers.client_authentication import ClientAuthentication
    from authz_service.providers.endpoint import Endpoint
    from authz_service.providers.exchange import HttpResponse

MAX_RESPONSE = 1 << 16  # bytes
_TOKEN = re.compile(r"[!-~]{1,16384}")
_DEFAULT_LIFETIME = 60.0  # seconds, without a usable ``expires_in``
_MIN_USE, _MAX_USE = 1.0, 3600.0  # seconds for which a token is used, whatever its lifetime
_MARGIN = 10.0  # seconds before a token expires, for the request that it is used in
_READ_STATUSES = frozenset({HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED})  # whose bodies are read
_CHECK_CLIENT = "check security_events.client_id and its secret or key"
_CHECK_GRANT = f"{_CHECK_CLIENT}, and that the client may use the client credentials grant"
_ERRORS = {  # RFC 6749 section 5.2, and what to do
    "invalid_client": _CHECK_CLIENT,
    "invalid_grant": _CHECK_GRANT,
    "invalid_request": "check security_events.token_endpoint",
    "invalid_scope": "check security_events.scopes",
    "unauthorized_client": _CHECK_GRANT,
    "unsupported_grant_type": _CHECK_GRANT,
}


class AccessToken(Protocol):
    """An access token of this client."""

    async def authorization(self) -> str:
        """The value of Authorization.

        Raises:
            FetchFailed: if there is no token.
        """

    def discard(self) -> bool:
        """Stop using a token that was refused. Returns whether ``authorization`` can give another one now."""

    async def close(self) -> None:
        """Cancel a request for a token."""


class FileToken:
    """A token from a file."""

    def __init__(self, token: BearerToken) -> None:
        self._token = token

    async def authorization(self) -> str:
        """See AccessToken."""
        return self._token.authorization()

    def discard(self) -> bool:
        """See AccessToken. The file is read again anyway."""
        return False

    async def close(self) -> None:
        """See AccessToken."""


class ClientCredentialsToken:
    """A token of the client credentials grant, requested when it is needed and used until shortly before it expires."""

    def __init__(
        self,
        endpoint: Endpoint,
        client: ProviderClient,
        authentication: ClientAuthentication,
        *,
        scopes: Sequence[str],
        timeout: float,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """``timeout`` limits one request. The endpoint is closed with this object, the client is not.

        ``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock.
        """
        self._endpoint = endpoint
        self._client = client
        self._authentication = authentication
        self._scopes = " ".join(scopes)
        self._timeout = timeout
        self._clock = clock
        self._timer = timer
        self._token: str | None = None
        self._use_until = 0.0
        self._requesting: SharedTask[str] | None = None

    async def authorization(self) -> str:
        """See AccessToken."""
        token = self._token
        if token is None or self._timer() >= self._use_until:
            if self._requesting is None or self._requesting.is_done:
                self._requesting = SharedTask(self._request(), name="request for an access token")
            token = await self._requesting.result()
        return f"Bearer {token}"

    def discard(self) -> bool:
        """See AccessToken."""
        self._token = None
        return True

    async def close(self) -> None:
        """See AccessToken."""
        if self._requesting is not None:
            await self._requesting.cancel()
        await self._endpoint.close()

    async def _request(self) -> str:
        url = await self._endpoint.url()
        form = {"grant_type": "client_credentials"}
        if self._scopes:
            form["scope"] = self._scopes
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self._authentication.add_to(form)}
        body = urlencode(form).encode("ascii")
        sent_at = self._timer()
        async with fetch_timeout(self._timeout, "access token"):
            response = await self._client.post(url, body, headers, MAX_RESPONSE, _READ_STATUSES)
        if response.status != HTTPStatus.OK:
            raise self._failure(redact(url), response)
        what = f"the token response from {redact(url)}"
        members = _members_of(response, what)
        self._token = _token_of(members, what)
        self._use_until = sent_at + _seconds_of_use(members.get("expires_in"))
        return self._token

    def _failure(self, url: str, response: HttpResponse) -> FetchFailed:
        cause = f"{url} responded with status {response.status}"
        try:
            error = json_object.parse(response.body, "the response").get("error")
        except FetchFailed:
            error = None
        if isinstance(error, str) and error in _ERRORS:
            return FetchFailed(f"{cause}, {error}: {_ERRORS[error]}")
        if response.status == HTTPStatus.UNAUTHORIZED:
            return FetchFailed(f"{cause}: {_CHECK_CLIENT}")
        return FetchFailed(cause, retry_after=response.retry_after(self._clock()))


def _members_of(response: HttpResponse, what: str) -> dict[str, Any]:
    if response.content_type != "application/json":
        raise FetchFailed(
            f"{what} has a content type other than application/json: check security_events.token_endpoint"
        )
    return json_object.parse(response.body, what)


def _token_of(members: dict[str, Any], what: str) -> str:
    kind, token = members.get("token_type"), members.get("access_token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise FetchFailed(f"{what} has a token_type other than Bearer: register the client for bearer tokens")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise FetchFailed(f"{what} has no access_token of 1 to 16384 visible ASCII characters")
    return token


def _seconds_of_use(expires_in: object) -> float:
    if not isinstance(expires_in, (int, float)) or isinstance(expires_in, bool):
        expires_in = _DEFAULT_LIFETIME
    return min(max(expires_in - _MARGIN, _MIN_USE), _MAX_USE)
