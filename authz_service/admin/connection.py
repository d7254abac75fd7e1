"""One HTTP/1.1 connection of the admin server: reads requests and writes their responses, one after the other.

The size of a request's head and the time for each step are bounded. A request's body is not read.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import h11

from authz_service.core.errors import BadMessage
from authz_service.http1 import HeadBuffer
from authz_service.telemetry.connection_log import address_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.http1 import TcpConnection, TurnBudget

MAX_HEAD_BYTES: Final = 1 << 13
MAX_HEAD_LINES: Final = 100
HEADER_TIMEOUT: Final = 5.0  # seconds for a complete request, from its first byte or from the start of the connection
KEEPALIVE_TIMEOUT: Final = 75.0  # seconds to the next request: longer than the usual scrape interval of 15 to 60
SEND_TIMEOUT: Final = 10.0  # seconds for the client to take a response
LINGER_TIMEOUT: Final = 1.0  # seconds in which a client may still send after the last response


class AdminResponse(NamedTuple):
    """A response, complete but for the headers that depend on the connection."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}


class AdminConnection:
    """A connection and the state of its current request."""

    def __init__(self, connection: TcpConnection, turn_budget: TurnBudget) -> None:
        self._connection = connection
        self._turn_budget = turn_budget
        self._heads = HeadBuffer(MAX_HEAD_BYTES, MAX_HEAD_LINES)
        self._h11 = h11.Connection(h11.SERVER)
        self._idle_timeout = HEADER_TIMEOUT  # until the next request begins
        self._send_body = True
        self.is_open = True  # for another request
        self.is_grpc = False  # whether the request is a gRPC client's
        self.has_request = False  # a request was received and its response is not sent yet

    async def receive_request(self) -> h11.Request:
        """The next request.

        Raises:
            OSError: when none arrives in time, or the client has disconnected.
            BadMessage: when it is too large or contains forbidden bytes.
            h11.RemoteProtocolError: when it is not an HTTP request.
        """
        self._h11 = h11.Connection(h11.SERVER)
        self._send_body = True
        if not self._heads:
            async with asyncio.timeout(self._idle_timeout):
                await self._receive()
        async with asyncio.timeout(HEADER_TIMEOUT):
            while (head := self._heads.take()) is None:
                await self._receive()
        self.has_request = True
        async with self._turn_budget:
            return self._parse(head)

    async def _receive(self) -> None:
        data = await self._connection.receive()
        if not data:
            raise ConnectionResetError
        self._heads.feed(data)

    def _parse(self, head: bytes) -> h11.Request:
        self._h11.receive_data(head)
        request = self._h11.next_event()
        self.is_grpc = isinstance(request, h11.Request) and _is_grpc(request)
        if not isinstance(request, h11.Request) or request.http_version not in {b"1.1", b"1.0"}:
            raise BadMessage("is not HTTP/1.1")
        self._send_body = request.method != b"HEAD"
        self._h11.next_event()  # the end of the request, if it has no body
        return request

    async def send(self, response: AdminResponse) -> None:
        """Send a response; closes the connection after a request with a body or one that could not be read.

        Raises:
            OSError: when the client does not take the response in time, or has disconnected.
        """
        async with self._turn_budget:
            self._write(response)
        async with asyncio.timeout(SEND_TIMEOUT):
            await self._connection.drain()
        self._idle_timeout = KEEPALIVE_TIMEOUT
        self.has_request = False
        self.is_open = self._h11.our_state is h11.DONE is self._h11.their_state
        if not self.is_open:
            await self._linger()

    def _write(self, response: AdminResponse) -> None:
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Date": formatdate(usegmt=True),
            "Cache-Control": "no-store",
            **response.headers,
            **({} if self._h11.their_state is h11.DONE else {"Connection": "close"}),
        }
        head = h11.Response(
            status_code=response.status,
            reason=HTTPStatus(response.status).phrase.encode(),
            headers=list(headers.items()),
        )
        body = [h11.Data(data=response.body)] if self._send_body else []
        for event in (head, *body, h11.EndOfMessage()):
            self._connection.send(self._h11.send(event) or b"")

    async def _linger(self) -> None:
        """Let the client read the response: closing at once would reset the connection while it is still sending."""
        self._connection.send_eof()
        async with asyncio.timeout(LINGER_TIMEOUT):
            while await self._connection.receive():
                pass

    @property
    def peer(self) -> str:
        """The client's address."""
        return address_of(self._connection.peername)[1]

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()


def _is_grpc(request: h11.Request) -> bool:
    """Whether it begins HTTP/2's preface, or is a gRPC call over HTTP/1.1."""
    return request.method == b"PRI" or (b"content-type", b"application/grpc") in list(request.headers)
