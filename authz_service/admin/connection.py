"""One connection of the admin server: reads requests and writes their responses, one after the other.

The time for each step is bounded, and the size of a request in ``exchange``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from authz_service.admin import limits
from authz_service.admin.exchange import AdminExchange
from authz_service.telemetry.connection_log import address_of

if TYPE_CHECKING:
    import h11

    from authz_service.admin.exchange import AdminResponse
    from authz_service.http1 import TcpConnection, TurnBudget


class AdminConnection:
    """A connection and the state of its current request."""

    def __init__(self, connection: TcpConnection, turn_budget: TurnBudget) -> None:
        self._connection = connection
        self._turn_budget = turn_budget
        self._idle_timeout = limits.HEADER_TIMEOUT  # until the next request begins
        self.exchange = AdminExchange()
        self.is_open = True  # for another request
        self.has_request = False  # a request was received and its response is not sent yet

    async def receive_request(self) -> h11.Request:
        """The next request.

        Raises:
            OSError: when none arrives in time, or the client has disconnected.
            BadMessage: when it is too large or contains forbidden bytes.
            h11.RemoteProtocolError: when it is not an HTTP request.
        """
        self.exchange.begin()
        if not self.exchange.has_data:
            async with asyncio.timeout(self._idle_timeout):
                await self._receive()
        async with asyncio.timeout(limits.HEADER_TIMEOUT):
            while (head := self.exchange.take_head()) is None:
                await self._receive()
        self.has_request = True
        async with self._turn_budget:
            return self.exchange.parse(head)

    async def _receive(self) -> None:
        data = await self._connection.receive()
        if not data:
            raise ConnectionResetError
        self.exchange.feed(data)

    async def send(self, response: AdminResponse) -> None:
        """Send a response; closes the connection after a request with a body or one that could not be read.

        Raises:
            OSError: when the client does not take the response in time, or has disconnected.
        """
        async with self._turn_budget:
            self._connection.send(self.exchange.encode(response))
        async with asyncio.timeout(limits.SEND_TIMEOUT):
            await self._connection.drain()
        self._idle_timeout = limits.KEEPALIVE_TIMEOUT
        self.has_request = False
        self.is_open = self.exchange.is_open
        if not self.is_open:
            await self._linger()

    async def _linger(self) -> None:
        """Let the client read the response: closing at once would reset the connection while it is still sending."""
        self._connection.send_eof()
        async with asyncio.timeout(limits.LINGER_TIMEOUT):
            while await self._connection.receive():
                pass

    @property
    def peer(self) -> str:
        """The client's address."""
        return address_of(self._connection.peername)[1]

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()
