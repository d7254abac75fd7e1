"""Polls the security events of one transmitter over HTTP (RFC 8936 section 2).

Owns the request and the form of its response. The caller verifies the SETs in it, and decides when to poll again.

Invariants:
- A request is sent once, or twice if the access token has become invalid; it follows no redirect, and at most
  ``MAX_RESPONSE`` bytes are read.
- Nothing that the transmitter wrote appears in an error message.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core.errors import FetchFailed
from authz_service.providers import json_object
from authz_service.providers.access_token import ClientCredentialsToken, FileToken
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.client import POST_KEEPALIVE_TIMEOUT, ProviderClient
from authz_service.providers.client_authentication import authentication_of
from authz_service.providers.endpoint import Endpoint
from authz_service.providers.errors import fetch_timeout
from authz_service.providers.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from authz_service.config.model import Issuer, SecurityEventsSettings
    from authz_service.providers.access_token import AccessToken
    from authz_service.providers.client_resources import ClientResources
    from authz_service.providers.exchange import HttpResponse
    from authz_service.tokens.revocation.event_token import RefusedSetError

MAX_SETS = 50  # of one response
MAX_RESPONSE = 1 << 20  # bytes: fifty SETs of the size that is accepted
WAIT_TIMEOUT = 30.0  # seconds for a poll that waits for events
_MAX_VALUES = 4096  # JSON values in a response: more than a megabyte of SETs needs
_MAX_CONNECTIONS = 3  # the transmitter, the token endpoint and the metadata may be at different origins
_CHECK_ENDPOINT = "check security_events.poll_endpoint"


class PollResponse(NamedTuple):
    """What a poll delivered."""

    sets: Mapping[str, str]  # by the jti to acknowledge, unverified; "" in place of a value that is not a string
    more_available: bool


class PollClient:
    """Polls the security events of one issuer. At most one poll at a time."""

    def __init__(
        self,
        issuer: Issuer,
        settings: SecurityEventsSettings,
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
        resources: ClientResources | None = None,
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock.

        ``resources`` is shared by the clients of a process.
        """
        self._settings = settings
        self._timeout = issuer.keys.timeout
        self._clock = clock
        self._client = ProviderClient(
            issuer.keys,
            accept="application/json",
            max_connections=_MAX_CONNECTIONS,
            resources=resources,
            keepalive_timeout=POST_KEEPALIVE_TIMEOUT,
            address=issuer.keys.metadata_address(issuer.issuer) if settings.discovers_token_endpoint else None,
        )
        self._token = _access_token_of(issuer, settings, self._client, clock, timer)
        self._max_sets = MAX_SETS

    async def poll(self, acks: Sequence[str], errors: Mapping[str, RefusedSetError], *, wait: bool) -> PollResponse:
        """Acknowledge SETs, refuse those of ``errors``, and get the next ones; with ``wait``, once there are any.

        ``acks`` and ``errors`` are by the jti of earlier responses: at most what one of them had.

        Raises:
            FetchFailed: for any problem with network, TLS, time, status, size or content. Nothing is acknowledged then,
                as far as this client knows.
        """
        try:
            response = await self._poll(acks, errors, wait=wait)
        except FetchFailed:
            self._max_sets = max(1, self._max_sets // 2)  # so that large SETs, or a slow server, do not stop it
            raise
        self._max_sets = min(2 * self._max_sets, MAX_SETS)
        return response

    async def close(self) -> None:
        """Close the connections."""
        await self._token.close()
        await self._client.close()

    async def _poll(self, acks: Sequence[str], errors: Mapping[str, RefusedSetError], *, wait: bool) -> PollResponse:
        members: dict[str, Any] = {"maxEvents": self._max_sets, "returnImmediately": not wait}
        if acks:
            members["ack"] = list(acks)
        if errors:
            members["setErrs"] = {jti: {"err": error.code, "description": str(error)} for jti, error in errors.items()}
        body = json.dumps(members, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json"} | ({"Content-Language": "en"} if errors else {})
        seconds = WAIT_TIMEOUT if wait else self._timeout
        response = await self._post(body, headers, seconds)
        if response.status == HTTPStatus.UNAUTHORIZED and self._token.discard():
            response = await self._post(body, headers, seconds)
        url = redact(self._settings.poll_endpoint)
        if response.status != HTTPStatus.OK:
            raise self._failure(url, response)
        if response.content_type != "application/json":
            raise FetchFailed(f"{url} responded with a content type other than application/json: {_CHECK_ENDPOINT}")
        return parse(response.body, f"the poll response from {url}")

    async def _post(self, body: bytes, headers: dict[str, str], seconds: float) -> HttpResponse:
        headers |= {"Authorization": await self._token.authorization()}
        async with fetch_timeout(seconds, "poll response"):
            return await self._client.post(self._settings.poll_endpoint, body, headers, MAX_RESPONSE, {HTTPStatus.OK})

    def _failure(self, url: str, response: HttpResponse) -> FetchFailed:
        cause = f"{url} responded with status {response.status}"
        match response.status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                scopes = "" if self._settings.auth_method == "bearer_token" else " and scopes"
                cause += f": check security_events.{self._settings.credential_key}{scopes}, and the permissions of the "
                cause += "client"
            case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
                cause += f": {_CHECK_ENDPOINT}, and that the stream of this client exists"
            case status if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
                cause += f", which is not followed: {_CHECK_ENDPOINT}"
        return FetchFailed(cause, retry_after=response.retry_after(self._clock()))


def parse(body: bytes, what: str) -> PollResponse:
    """Parse the response to a poll (RFC 8936 section 2.3). ``what`` names it in the error.

    Of more than ``MAX_SETS``, the others remain available at the transmitter.

    Raises:
        FetchFailed: if it is malformed, or would take long to parse.
    """
    # A value costs a hundred times as much to parse as a character of a string.
    if len(body) - len(body.translate(None, b",[{")) > _MAX_VALUES:
        raise FetchFailed(f"{what} has more than {_MAX_VALUES} commas and brackets")
    members = json_object.parse(body, what)
    sets = members.get("sets")
    if not isinstance(sets, dict):
        raise FetchFailed(f"{what} has no object 'sets': {_CHECK_ENDPOINT}")
    first = {jti: text if isinstance(text, str) else "" for jti, text in list(sets.items())[:MAX_SETS]}
    return PollResponse(first, members.get("moreAvailable") is True or len(sets) > MAX_SETS)


def _access_token_of(
    issuer: Issuer,
    settings: SecurityEventsSettings,
    client: ProviderClient,
    clock: Callable[[], float],
    timer: Callable[[], float],
) -> AccessToken:
    if settings.bearer_token_file is not None:
        return FileToken(BearerToken(settings.bearer_token_file, timer))
    return ClientCredentialsToken(
        Endpoint("token_endpoint", settings.token_endpoint, issuer, client, timer),
        client,
        authentication_of(settings, issuer.issuer, clock=clock, timer=timer),
        scopes=settings.scopes,
        timeout=issuer.keys.timeout,
        clock=clock,
        timer=timer,
    )
