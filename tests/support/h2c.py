"""Cleartext HTTP/2 based on the h2 library: an upstream that records requests, and a POST without validation."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, TrailersReceived

from support.h2_client import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

_READ = 65_536  # bytes

Headers = list[tuple[str, str]]


@dataclass
class Received:
    """A request as the upstream received it."""

    headers: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)


@dataclass
class Upstream:
    """Its port, and the requests so far."""

    port: int
    received: list[Received] = field(default_factory=list)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """An HTTP/2 server on loopback that answers every request with 200."""
    received: list[Received] = []
    server = await asyncio.start_server(partial(_serve, received), "127.0.0.1", 0)
    try:
        yield Upstream(server.sockets[0].getsockname()[1], received)
    finally:
        server.close()


async def _serve(received: list[Received], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    streams: dict[int, Received] = {}
    try:
        writer.write(connection.data_to_send())
        while octets := await reader.read(_READ):
            for event in connection.receive_data(octets):
                _record(connection, streams, received, event)
            writer.write(connection.data_to_send())
    except ConnectionError:  # Envoy closes its connections when it stops
        pass
    finally:
        writer.close()


def _record(connection: H2Connection, streams: dict[int, Received], received: list[Received], event: Event) -> None:
    if isinstance(event, RequestReceived):
        streams[event.stream_id] = Received(_decoded(event.headers))
    elif isinstance(event, DataReceived):
        streams[event.stream_id].body += event.data
        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    elif isinstance(event, TrailersReceived):
        streams[event.stream_id].trailers = _decoded(event.headers)
    elif isinstance(event, StreamEnded):
        received.append(streams.pop(event.stream_id))
        connection.send_headers(event.stream_id, [(":status", "200")], end_stream=True)


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    assert len(dict(pairs)) == len(pairs), pairs  # a dictionary would hide repeated fields
    return dict(pairs)


async def post(port: int, path: str, headers: Headers, *, body: bytes = b"x", trailers: Headers | None = None) -> int:
    """The status of a POST with these headers and trailers, which are sent without validation."""
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "api.demo"), (":path", path)]
    async with connected(port) as client:
        stream = client.send(
            _encoded([*head, *headers]), body, trailers=None if trailers is None else _encoded(trailers)
        )
        response = client.responses[stream]
        await client.until(lambda: bool(response.headers) or response.done)
    assert response.headers, f"the stream was reset with {response.reset}"
    return response.status


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
