"""The HTTP client for one provider: which requests may be sent, over which connection, and what becomes of a redirect.

Plain http is used on this machine only unless allowed, a redirect to another origin is not followed, no response is
larger than the caller accepts, and cookies are ignored. The caller limits the time, by ``errors.fetch_timeout``.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from authz_service import __version__
from authz_service.config.values import https_or_loopback
from authz_service.core.errors import FetchFailed
from authz_service.providers import urls
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.client_resources import ClientResources
from authz_service.providers.connector import Connector
from authz_service.providers.errors import FOREIGN_ERRORS, PROXY_CREDENTIALS, NoDocument, fetch_failed
from authz_service.providers.exchange import Exchange, HttpRequest, HttpResponse
from authz_service.providers.idle_connections import IdleConnections

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from authz_service.config.model import Keys
    from authz_service.providers.connection import ProviderConnection
    from authz_service.providers.proxy import Proxy
    from authz_service.providers.urls import Origin, Url

USER_AGENT: Final = f"authz-service/{__version__}"
MAX_REDIRECTS: Final = 3
# Seconds for which an idle connection is kept for POST requests: less than the 5 after which Node.js and Apache close
# theirs, so that a request, which is never sent twice, does not meet a connection that is just being closed.
POST_KEEPALIVE_TIMEOUT: Final = 4.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_CASE = {"user-agent": "User-Agent"}  # a configured one replaces our own
_FETCH_BODY_STATUSES = frozenset({HTTPStatus.OK, HTTPStatus.NOT_MODIFIED})


class _Bearer(NamedTuple):
    """The bearer token, and the only origin that gets it."""

    token: BearerToken
    origin: Origin

    @property
    def hint(self) -> str:
        """What to do where it was not sent."""
        address = f"{self.origin.scheme}://{urls.host_and_port(self.origin)}"
        return f"keys.bearer_token_file is sent to {address} only, and not along a redirect; set keys.jwks_uri"


class ProviderClient:
    """Sends requests to one provider, over connections that it opens on demand and reuses."""

    def __init__(
        self,
        settings: Keys,
        *,
        accept: str,
        max_connections: int,
        resources: ClientResources | None = None,
        keepalive_timeout: float = 15.0,
        address: str | None = None,
    ) -> None:
        """An idle connection is closed after ``keepalive_timeout`` seconds.

        ``address`` is the configured address for GET requests: the bearer token is sent to its origin only.
        """
        own = {"User-Agent": USER_AGENT, "Accept": accept, "Accept-Encoding": "identity"}
        self._headers = own | {_CASE.get(name, name): value for name, value in settings.headers.items()}
        resources = resources or ClientResources()
        self._turn_budget = resources.turn_budget
        user_agent = self._headers["User-Agent"]
        self._connector = Connector(settings, user_agent, self._turn_budget, resources.trust_anchors)
        self._bearer = None
        if settings.bearer_token_file is not None and address is not None:
            self._bearer = _Bearer(BearerToken(settings.bearer_token_file, time.monotonic), urls.parse(address).origin)
        self._allow_http = settings.allow_http
        self._slots = asyncio.Semaphore(max_connections)
        self._idle = IdleConnections(max_connections, keepalive_timeout)

    async def prepare(self) -> None:
        """Load the trust anchors, so that the first request does not wait for them.

        Raises:
            FetchFailed: if they cannot be read.
        """
        await self._connector.prepare()

    async def close(self) -> None:
        """Close the idle connections. The client remains usable."""
        await self._idle.close()

    async def get(self, url: str, max_bytes: int, conditional: Mapping[str, str] | None = None) -> HttpResponse:
        """Fetch a URL, following redirects within its origin.

        The response's status is 200; or 304, if ``conditional`` holds headers such as If-None-Match.

        Raises:
            NoDocument: for a redirect that is not followed, and for any other status that is not a temporary failure.
            FetchFailed: for any other failure.
        """
        location = urls.parse(url)
        headers = dict(conditional or {})
        has_token = self._bearer is not None and location.origin == self._bearer.origin
        if self._bearer is not None and has_token:
            headers["Authorization"] = self._bearer.token.authorization()
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send("GET", location, max_bytes, _FETCH_BODY_STATUSES, headers)
            if response.status not in _REDIRECTS:
                hint = "" if has_token or self._bearer is None else f": {self._bearer.hint}"
                _require_fetched(location, response, hint, conditional=bool(conditional))
                return response
            try:
                target = location.resolve(response.headers.get("location"))
            except FetchFailed as failure:
                raise NoDocument(str(failure)) from None
            if target.origin != location.origin:
                raise NoDocument(
                    f"{location.redacted} redirects to another origin, {target.root}, which is not followed: "
                    "if it is the provider's, put its URL into the configuration"
                )
            location = target
            headers.pop("Authorization", None)
            has_token = False
        raise NoDocument(f"more than {MAX_REDIRECTS} redirects from {location.redacted}")

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], max_bytes: int, body_statuses: Collection[int]
    ) -> HttpResponse:
        """The response to a POST, whatever its status. Its body is read for a status of ``body_statuses``.

        Follows no redirect, and never sends the request twice.

        Raises:
            FetchFailed: if there is no valid response.
        """
        return await self._send("POST", urls.parse(url), max_bytes, body_statuses, headers, body)

    async def _send(
        self,
        method: str,
        url: Url,
        max_bytes: int,
        body_statuses: Collection[int],
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> HttpResponse:
        if not (self._allow_http or https_or_loopback(url.root)):
            raise FetchFailed(
                f"plain http to another host is not allowed: {url.redacted}; use https, or set keys.allow_http: true"
            )
        proxy = self._connector.proxy_for(url.origin)
        all_headers = {"Host": url.authority, **self._headers, **headers}
        target = url.target
        if proxy is not None and url.origin.scheme == "http":
            target = f"{url.root}{url.target}"  # the absolute form (RFC 9112 section 3.2.2)
            all_headers |= proxy.headers
        request = HttpRequest(method, target, all_headers, body, max_bytes, body_statuses)
        async with self._slots:
            try:
                return await self._exchange(url.origin, proxy, request)
            except asyncio.CancelledError as cancelled:
                cancelled.add_note(url.redacted)  # for ``errors.fetch_timeout``
                raise
            except FOREIGN_ERRORS as error:
                raise fetch_failed(error, url.redacted) from None

    async def _exchange(self, origin: Origin, proxy: Proxy | None, request: HttpRequest) -> HttpResponse:
        """Send the request over an idle connection if there is one.

        If the provider closed that connection before it sent anything, a GET is sent again over a new connection.
        """
        idle = self._idle.take(origin)
        if idle is not None:
            exchange = Exchange(request)
            try:
                return await self._exchange_over(idle, origin, exchange)
            except FOREIGN_ERRORS:
                if not exchange.nothing_received or request.method != "GET":
                    raise
        connection = await self._connector.connect(origin, proxy)
        return await self._exchange_over(connection, origin, Exchange(request))

    async def _exchange_over(self, connection: ProviderConnection, origin: Origin, exchange: Exchange) -> HttpResponse:
        try:
            response = await connection.complete(exchange, self._turn_budget)
        except BaseException:
            connection.abort()
            raise
        if exchange.connection_is_reusable:
            self._idle.add(origin, connection)
        else:
            connection.abort()
        return response


def _require_fetched(url: Url, response: HttpResponse, hint: str, *, conditional: bool) -> None:
    if response.status == HTTPStatus.OK or (response.status == HTTPStatus.NOT_MODIFIED and conditional):
        return
    failed = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in _TEMPORARY_STATUSES
    kind = FetchFailed if failed else NoDocument
    message = f"{url.redacted} responded with status {response.status}"
    if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        message += f": {PROXY_CREDENTIALS}"
    elif response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        message += hint
    raise kind(message, retry_after=response.retry_after(time.time()))
