"""Asking one provider over HTTP: connections, trust anchors, and answers that are bounded.

Strict: no redirect leaves the origin, no plain http leaves the machine (unless allowed), no answer is larger than its
reader says, and no cookie is kept. Time is the caller's to bound.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from authz_service import __version__
from authz_service.config.values import https_or_loopback
from authz_service.core.errors import FetchFailed
from authz_service.http1 import TurnBudget
from authz_service.providers import urls
from authz_service.providers.channel import Channel
from authz_service.providers.dialing import Resolver, connected
from authz_service.providers.exchange import Exchange, Request, Response
from authz_service.providers.failures import FOREIGN, failure_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from authz_service.providers.urls import Origin, Url

USER_AGENT: Final = f"authz-service/{__version__}"
_MAX_REDIRECTS = 3  # a key set behind more is a configuration to mend
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_WHEN_FETCHED = frozenset({HTTPStatus.OK, HTTPStatus.NOT_MODIFIED})


class Absent(FetchFailed):
    """There is nothing at this address, so the next one may be tried."""


class TrustAnchors:
    """The certificates that a provider's must lead to: the system's, and those of ``ca_file``.

    Loaded in a thread when they are first needed, which takes tens of milliseconds and nearly a megabyte.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        self._ca_file = ca_file
        self._loading: asyncio.Task[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """How to speak TLS to a provider.

        Raises:
            FetchFailed: when the certificates cannot be read.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(_context, self._ca_file), name="trust anchors")
        loading = self._loading
        await asyncio.wait([loading])
        try:
            return loading.result()
        except FetchFailed:
            self.forget()
            raise

    def forget(self) -> None:
        """Load them anew the next time: they may have been replaced."""
        self._loading = None


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            raise FetchFailed("keys.ca_file holds no certificate that can be read: write PEM") from None
        except OSError as error:
            raise FetchFailed(f"keys.ca_file cannot be read: {error.strerror}") from None
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Network:
    """What all clients of a process share, so that many providers cost little more than one."""

    pace: TurnBudget = field(default_factory=TurnBudget)
    trust_anchors: TrustAnchors = field(default_factory=TrustAnchors)  # the system's


class ProviderClient:
    """Sends requests to one provider, over connections that are made when they are needed and used again."""

    def __init__(
        self,
        *,
        accept: str,
        max_connections: int,
        network: Network | None = None,
        ca_file: Path | None = None,
        allow_http: bool = False,
        keepalive: float = 15.0,
    ) -> None:
        """At most ``max_connections`` at a time, of which an idle one is kept for ``keepalive`` seconds."""
        self._headers = {"User-Agent": USER_AGENT, "Accept": accept, "Accept-Encoding": "identity"}
        self._network = network or Network()
        self._trust_anchors = self._network.trust_anchors if ca_file is None else TrustAnchors(ca_file)
        self._allow_http = allow_http
        self._keepalive = keepalive
        self._resolver = Resolver()
        self._max_connections = max_connections
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[_Idle] = []

    async def prepare(self) -> None:
        """Load the trust anchors, so that the first request does not wait for that.

        Raises:
            FetchFailed: when they cannot be read.
        """
        await self._trust_anchors.context()

    async def close(self) -> None:
        """Close the idle connections. Whoever goes on using this gets new ones."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.expiry.cancel()
            each.channel.close()
        for each in idle:
            await each.channel.wait_closed()

    async def get(self, url: str, max_bytes: int, conditional: Mapping[str, str] | None = None) -> Response:
        """What is at an address, following redirects within its origin.

        Its status is 200, or 304 where ``conditional`` headers ask for that.

        Raises:
            FetchFailed: for any other status than 200, and whatever else goes wrong.
        """
        at = urls.parse(url)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._send("GET", at, max_bytes, _READ_WHEN_FETCHED, conditional or {})
            if response.status not in _REDIRECTS:
                return _fetched(at, response, conditional=bool(conditional))
            target = at.joined(response.headers.get("location"))
            if target.origin != at.origin:
                raise FetchFailed(f"{at.shown} redirects to another origin: name that address in the configuration")
            at = target
        raise FetchFailed(f"more than {_MAX_REDIRECTS} redirects from {at.shown}")

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], max_bytes: int, reads: Collection[int]
    ) -> Response:
        """The answer to a POST, of whatever status; its content is read for a status of ``reads``.

        It follows no redirect, and is never sent twice.

        Raises:
            FetchFailed: when there is no answer.
        """
        return await self._send("POST", urls.parse(url), max_bytes, reads, headers, body)

    async def _send(
        self,
        method: str,
        at: Url,
        max_bytes: int,
        reads: Collection[int],
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Response:
        if not (self._allow_http or https_or_loopback(at.root)):
            raise FetchFailed(f"plain http off this machine is not allowed: {at.shown}")
        every = {"Host": at.authority, **self._headers, **headers}
        request = Request(method, at.target, every, body, max_bytes, reads)
        async with self._slots:
            try:
                return await self._exchanged(at, request)
            except FOREIGN as error:
                if isinstance(error, ssl.SSLCertVerificationError):
                    self._trust_anchors.forget()
                raise failure_of(error, at.shown) from None

    async def _exchanged(self, at: Url, request: Request) -> Response:
        """Ask over an idle connection if there is one, and once more over a new one where that had just ended."""
        channel = self._take_idle(at.origin)
        if channel is not None:
            exchange = Exchange(request)
            try:
                return await self._exchange(at.origin, channel, exchange)
            except FOREIGN:
                if not exchange.is_untouched or request.method != "GET":
                    raise
        return await self._exchange(at.origin, await self._open(at), Exchange(request))

    async def _open(self, at: Url) -> Channel:
        scheme, host, port = at.origin
        context = await self._trust_anchors.context() if scheme == "https" else None
        link = await connected(await self._resolver.addresses(host, port))
        return await Channel.over(link, self._network.pace, context, host)

    async def _exchange(self, origin: Origin, channel: Channel, exchange: Exchange) -> Response:
        try:
            channel.send(exchange.send())
            while exchange.response is None:
                exchange.feed(await channel.receive())
                await self._read(exchange)
        except BaseException:
            channel.abort()
            raise
        if exchange.leaves_connection_clean:
            self._keep_idle(origin, channel)
        else:
            channel.abort()
        return exchange.response

    async def _read(self, exchange: Exchange) -> None:
        while True:
            async with self._network.pace:
                if not exchange.advance():
                    return

    # Connections that nobody uses just now.

    def _take_idle(self, origin: Origin) -> Channel | None:
        for each in reversed(self._idle):  # the one used last, so that those that are not needed expire
            if each.origin == origin:
                self._idle.remove(each)
                each.expiry.cancel()
                if each.channel.is_quiet:
                    return each.channel
                each.channel.abort()
        return None

    def _keep_idle(self, origin: Origin, channel: Channel) -> None:
        channel.rest()
        if len(self._idle) >= self._max_connections or not channel.is_quiet:
            channel.abort()
            return
        expiry = asyncio.get_running_loop().call_later(self._keepalive, self._expire, channel)
        self._idle.append(_Idle(origin, channel, expiry))

    def _expire(self, channel: Channel) -> None:
        self._idle = [each for each in self._idle if each.channel is not channel]
        channel.close()


class _Idle(NamedTuple):
    """A connection that can be used again."""

    origin: Origin
    channel: Channel
    expiry: asyncio.TimerHandle


def _fetched(at: Url, response: Response, *, conditional: bool) -> Response:
    if response.status == HTTPStatus.OK or (response.status == HTTPStatus.NOT_MODIFIED and conditional):
        return response
    failure = Absent if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE} else FetchFailed
    wanted = retry_after(response.headers.get("retry-after"), time.time())
    raise failure(f"{at.shown} answered with status {response.status}", retry_after=wanted)


def retry_after(value: str, now: float) -> float:
    """Seconds for which a provider asks to be left alone (RFC 9110 section 10.2.3); 0 where it does not."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):  # no date, or one beyond all calendars
        return 0.0
