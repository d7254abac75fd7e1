"""Opens connections to providers: directly or through a proxy, with or without TLS.

A proxy gets no more trust than a provider. Its response to CONNECT is bounded in the same way, TLS with the provider
runs inside the tunnel, and the client certificate is presented there only.
"""

from __future__ import annotations

import os
import ssl
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from authz_service.core.errors import FetchFailed
from authz_service.providers import happy_eyeballs, urls
from authz_service.providers.client_certificate import ClientCertificate
from authz_service.providers.connection import ProviderConnection
from authz_service.providers.errors import FOREIGN_ERRORS, PROXY_CREDENTIALS, fetch_failed
from authz_service.providers.exchange import Exchange, HttpRequest
from authz_service.providers.proxy import Proxies
from authz_service.providers.resolver import Resolver
from authz_service.providers.trust_anchors import TrustAnchors

if TYPE_CHECKING:
    from authz_service.config.model import Keys
    from authz_service.http1 import TurnBudget
    from authz_service.providers.proxy import Proxy
    from authz_service.providers.urls import Origin

_SUCCESSFUL = range(200, 300)


class Connector:
    """Opens the connections of one client."""

    def __init__(self, settings: Keys, user_agent: str, turn_budget: TurnBudget, system: TrustAnchors) -> None:
        """``system`` are the system's trust anchors, and ``user_agent`` is sent to proxies."""
        self._user_agent = user_agent
        self._turn_budget = turn_budget
        self._resolver = Resolver()
        self._proxies = Proxies(settings.proxy, os.environ)
        certificate = _certificate_of(settings)
        self._proxy_trust_anchors = system if settings.ca_file is None else TrustAnchors(settings.ca_file)
        self._trust_anchors = self._proxy_trust_anchors
        if certificate is not None:
            self._trust_anchors = TrustAnchors(settings.ca_file, certificate)

    async def prepare(self) -> None:
        """Load the trust anchors, so that the first connection does not wait for them.

        Raises:
            FetchFailed: if they cannot be read.
        """
        await self._trust_anchors.context()

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The proxy for requests to this origin; None for a direct connection.

        Raises:
            FetchFailed: if the proxy's URL is not usable.
        """
        return self._proxies.proxy_for(origin)

    async def connect(self, origin: Origin, proxy: Proxy | None) -> ProviderConnection:
        """A connection to the origin; to the proxy if there is one and the origin uses plain http.

        Raises:
            FetchFailed: if the proxy fails, or the trust anchors cannot be read.
            OSError: if the connection breaks or the handshake with the provider fails.
        """
        context = await self._trust_anchors.context() if origin.scheme == "https" else None
        connection = await (self._open(origin) if proxy is None else self._open_through(proxy, origin))
        if context is not None:
            try:
                await connection.start_tls(self._turn_budget, context, origin.host)
            except BaseException as error:
                connection.abort()
                if isinstance(error, ssl.SSLCertVerificationError):
                    self._trust_anchors.discard()
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
                    await connection.start_tls(self._turn_budget, context, proxy.origin.host)
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
        headers = {"Host": target, "User-Agent": self._user_agent, **proxy.headers}
        exchange = Exchange(HttpRequest("CONNECT", target, headers, b"", 0, ()))
        response = await connection.complete(exchange, self._turn_budget)
        if response.status not in _SUCCESSFUL:
            raise FetchFailed(_refused_tunnel(proxy, target, response.status))
        if exchange.has_unread_data:  # a TLS server waits for the client
            raise FetchFailed(f"the proxy {proxy.root} sent data of its own into the tunnel to {target}")


def _certificate_of(settings: Keys) -> ClientCertificate | None:
    if settings.client_certificate_file is None or settings.client_key_file is None:
        return None
    return ClientCertificate(settings.client_certificate_file, settings.client_key_file, time.monotonic)


def _refused_tunnel(proxy: Proxy, target: str, status: int) -> str:
    refused = f"the proxy {proxy.root} refused a tunnel to {target} with status {status}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"{refused}: {PROXY_CREDENTIALS}"
    return f"{refused}: allow {target} in the proxy, or name it in NO_PROXY"
