"""The HTTP client for one provider: which requests may be sent, over which connection, and what becomes of a redirect.

Plain http is used on this machine only unless allowed, a redirect to another origin is not followed, no response is
larger than the caller accepts, and cookies are ignored. A proxy gets no more trust than a provider: its response to
CONNECT is bounded in the same way. The caller limits the time, by ``errors.fetch_timeout``.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from authz_service import __version__
from authz_service.config.values import https_or_loopback
from authz_service.core.errors import FetchFailed
from authz_service.http1 import TurnBudget
from authz_service.providers import happy_eyeballs, urls
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.client_certificate import ClientCertificate
from authz_service.providers.connection import ProviderConnection
from authz_service.providers.errors import FOREIGN_ERRORS, NoDocument, fetch_failed
from authz_service.providers.exchange import Exchange, HttpRequest, HttpResponse
from authz_service.providers.idle_connections import IdleConnections
from authz_service.providers.proxy import Proxies
from authz_service.providers.resolver import Resolver
from authz_service.providers.trust_anchors import TrustAnchors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from authz_service.config.model import Keys
    from authz_service.providers.proxy import Proxy
    from authz_service.providers.urls import Origin, Url

USER_AGENT: Final = f"authz-service/{__version__}"
MAX_REDIRECTS: Final = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_PROXY_CREDENTIALS = "put user and password into the proxy's URL in the environment"
_CASE = {"user-agent": "User-Agent"}  # a configured one replaces our own
_SUCCESSFUL = range(200, 300)
_FETCH_BODY_STATUSES = frozenset({HTTPStatus.OK, HTTPStatus.NOT_MODIFIED})


@dataclass(frozen=True, slots=True)
class ClientResources:
    """What all clients of a process share, so that many providers cost little more than one."""

    turn_budget: TurnBudget = field(default_factory=TurnBudget)
    trust_anchors: TrustAnchors = field(default_factory=TrustAnchors)  # the system's


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
        self._resources = resources or ClientResources()
        ca_file = settings.ca_file
        anchors = self._resources.trust_anchors if ca_file is None else TrustAnchors(ca_file)
        certificate = _certificate_of(settings)
        self._trust_anchors = anchors if certificate is None else TrustAnchors(ca_file, certificate)
        self._proxy_trust_anchors = anchors  # without the certificate, which is for the provider
        self._bearer = None
        if settings.bearer_token_file is not None and address is not None:
            self._bearer = _Bearer(BearerToken(settings.bearer_token_file, time.monotonic), urls.parse(address).origin)
        self._allow_http = settings.allow_http
        self._proxies = Proxies(settings.proxy, os.environ)
        self._resolver = Resolver()
        self._slots = asyncio.Semaphore(max_connections)
        self._idle = IdleConnections(max_connections, keepalive_timeout)

    async def prepare(self) -> None:
        """Load the trust anchors, so that the first request does not wait for them.

        Raises:
            FetchFailed: if they cannot be read.
        """
        await self._trust_anchors.context()

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
        proxy = self._proxies.proxy_for(url.origin)
        all_headers = {"Host": url.authority, **self._headers, **headers}
        target = url.target
        if proxy is not None and url.origin.scheme == "http":
            target = f"{url.root}{url.target}"  # the absolute form (RFC 9112 section 3.2.2)
            all_headers |= _authorization_for(proxy)
        request = HttpRequest(method, target, all_headers, body, max_bytes, body_statuses)
        async with self._slots:
            try:
                return await self._exchange(url.origin, proxy, request)
            except asyncio.CancelledError as cancelled:
                cancelled.add_note(url.redacted)  # for ``errors.fetch_timeout``
                raise
            except FOREIGN_ERRORS as error:
                if isinstance(error, ssl.SSLCertVerificationError):
                    self._trust_anchors.discard()
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
        connection = await self._connect(origin, proxy)
        return await self._exchange_over(connection, origin, Exchange(request))

    async def _connect(self, origin: Origin, proxy: Proxy | None) -> ProviderConnection:
        connection = await (self._open(origin) if proxy is None else self._open_through(proxy, origin))
        if origin.scheme == "https":
            try:
                context = await self._trust_anchors.context()
                await connection.start_tls(self._resources.turn_budget, context, origin.host)
            except BaseException:
                connection.abort()
                raise
        return connection

    async def _open(self, origin: Origin) -> ProviderConnection:
        addresses = await self._resolver.resolve(origin.host, origin.port)
        return await ProviderConnection.over(await happy_eyeballs.connect(addresses))

    async def _open_through(self, proxy: Proxy, origin: Origin) -> ProviderConnection:
        """A connection to a proxy, with a tunnel to the origin if that uses TLS."""
        try:
            connection = await self._open(proxy.origin)
            try:
                if proxy.origin.scheme == "https":
                    context = await self._proxy_trust_anchors.context()
                    await connection.start_tls(self._resources.turn_budget, context, proxy.origin.host)
                if origin.scheme == "https":
                    await self._open_tunnel(connection, proxy, origin)
            except BaseException:
                connection.abort()
                raise
        except FOREIGN_ERRORS as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                self._proxy_trust_anchors.discard()
            raise fetch_failed(error, f"the proxy {proxy.root}") from None
        return connection

    async def _open_tunnel(self, connection: ProviderConnection, proxy: Proxy, origin: Origin) -> None:
        """CONNECT (RFC 9110 section 9.3.6)."""
        target = urls.host_and_port(origin)
        headers = {"Host": target, "User-Agent": self._headers["User-Agent"], **_authorization_for(proxy)}
        exchange = Exchange(HttpRequest("CONNECT", target, headers, b"", 0, ()))
        response = await self._complete(connection, exchange)
        if response.status not in _SUCCESSFUL:
            raise FetchFailed(_refused_tunnel(proxy, target, response.status))
        if exchange.has_unread_data:  # a TLS server waits for the client
            raise FetchFailed(f"the proxy {proxy.root} sent data of its own into the tunnel to {target}")

    async def _exchange_over(self, connection: ProviderConnection, origin: Origin, exchange: Exchange) -> HttpResponse:
        try:
            response = await self._complete(connection, exchange)
        except BaseException:
            connection.abort()
            raise
        if exchange.connection_is_reusable:
            self._idle.add(origin, connection)
        else:
            connection.abort()
        return response

    async def _complete(self, connection: ProviderConnection, exchange: Exchange) -> HttpResponse:
        connection.send(exchange.encode_request())
        while exchange.response is None:
            exchange.feed(await connection.receive())
            await self._parse(exchange)
        return exchange.response

    async def _parse(self, exchange: Exchange) -> None:
        while True:
            async with self._resources.turn_budget:
                if not exchange.advance():
                    return


def _certificate_of(settings: Keys) -> ClientCertificate | None:
    if settings.client_certificate_file is None or settings.client_key_file is None:
        return None
    return ClientCertificate(settings.client_certificate_file, settings.client_key_file, time.monotonic)


def _authorization_for(proxy: Proxy) -> Mapping[str, str]:
    return {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}


def _refused_tunnel(proxy: Proxy, target: str, status: int) -> str:
    refused = f"the proxy {proxy.root} refused a tunnel to {target} with status {status}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"{refused}: {_PROXY_CREDENTIALS}"
    return f"{refused}: allow {target} in the proxy, or name it in NO_PROXY"


def _require_fetched(url: Url, response: HttpResponse, hint: str, *, conditional: bool) -> None:
    if response.status == HTTPStatus.OK or (response.status == HTTPStatus.NOT_MODIFIED and conditional):
        return
    failed = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in _TEMPORARY_STATUSES
    kind = FetchFailed if failed else NoDocument
    message = f"{url.redacted} responded with status {response.status}"
    if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        message += f": {_PROXY_CREDENTIALS}"
    elif response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        message += hint
    raise kind(message, retry_after=response.retry_after(time.time()))
