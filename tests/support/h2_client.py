"""A client based on the h2 library, with its validation switched off: it sends malformed requests as well."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    Fields = Sequence[tuple[bytes, bytes]]

HANG_GUARD = 30.0  # seconds: no test waits for it
_READ = 1 << 16
_FRAME = 16_384


@dataclass
class Response:
    """What was received on one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def done(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> int:
        """The HTTP status, or 0 before the headers."""
        return int(self.headers.get(b":status", b"0"))

    @property
    def grpc_status(self) -> bytes | None:
        return self.trailers.get(b"grpc-status", self.headers.get(b"grpc-status"))


class H2Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(1 << 30)
        self.responses: dict[int, Response] = {}
        self.goaway: int | None = None

    def send(self, headers: Fields, body: bytes | None = None, *, trailers: Fields | None = None) -> int:
        """Send a request and return its stream identifier."""
        stream_id: int = self._h2.get_next_available_stream_id()
        self.responses[stream_id] = Response()
        self._h2.send_headers(stream_id, headers, end_stream=body is None and trailers is None)
        for at in range(0, len(body or b""), _FRAME):
            self._h2.send_data(stream_id, (body or b"")[at : at + _FRAME])
        if trailers is not None:
            self._h2.send_headers(stream_id, trailers, end_stream=True)
        elif body is not None:
            self._h2.end_stream(stream_id)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        self._h2.reset_stream(stream_id, 8)
        self.responses[stream_id].reset = 8

    async def until(self, holds: Callable[[], bool]) -> None:
        """Send and receive until it holds. Fails if the server closes the connection first."""
        async with asyncio.timeout(HANG_GUARD):
            while True:
                self._writer.write(self._h2.data_to_send())
                if holds():
                    await self._writer.drain()
                    return
                assert self.goaway is None, f"the server closed the connection with error code {self.goaway}"
                data = await self._reader.read(_READ)
                assert data, "the server closed the connection"
                for event in self._h2.receive_data(data):
                    self._handle(event)

    async def request(self, headers: Fields, body: bytes | None = None, *, trailers: Fields | None = None) -> Response:
        """Send a request and return its response."""
        response = self.responses[self.send(headers, body, trailers=trailers)]
        await self.until(lambda: response.done)
        return response

    def _handle(self, event: Any) -> None:
        response = self.responses.get(getattr(event, "stream_id", 0) or 0, Response())
        match event:
            case h2.events.ResponseReceived():
                response.headers.update(event.headers)
            case h2.events.TrailersReceived():
                response.trailers.update(event.headers)
            case h2.events.DataReceived():
                response.body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                response.ended = True
            case h2.events.StreamReset():
                response.reset = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[H2Client]:
    """A client of a local port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield H2Client(reader, writer)
    finally:
        writer.close()
