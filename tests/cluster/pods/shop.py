"""The application behind Envoy: it answers every request with JSON about what reached it, never with a token.

/slow?seconds=3 answers after that time, at most 30 seconds. LISTEN is the address, 127.0.0.1:8080 by default. On
SIGTERM it closes its socket and idle connections, finishes the requests in flight, and exits.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import h11

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

_MAX_DELAY = 30.0  # seconds
_STOP_TIMEOUT = _MAX_DELAY + 5
_READ = 1 << 16


class Shop:
    """A server that counts its connections, so that it can end when they have."""

    def __init__(self, pod: str) -> None:
        self._pod = pod
        self._stopping = False
        self._idle: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, host: str, port: int, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set and the requests in flight are answered."""
        server = await asyncio.start_server(self._accept, host, port)
        sys.stderr.write(f"listening on {server.sockets[0].getsockname()[1]}\n")
        sys.stderr.flush()
        await stop.wait()
        server.close()
        self._stopping = True
        for writer in self._idle:
            writer.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A client that sends no HTTP or leaves ends its own connection only.
            with suppress(h11.RemoteProtocolError, ConnectionError):
                await self._answer_all(reader, writer)
        finally:
            self._tasks.remove(task)
            writer.close()

    async def _answer_all(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        while (request := await self._request(connection, reader, writer)) is not None:
            await asyncio.sleep(_delay(request.target.decode()))
            body = json.dumps(self._seen(request)).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
            if self._stopping:
                headers.append(("connection", "close"))
            for event in (h11.Response(status_code=200, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()

    async def _request(
        self, connection: h11.Connection, reader: StreamReader, writer: StreamWriter
    ) -> h11.Request | None:
        """The next request, once its body has been read; None if there is none."""
        request = None
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed):
                return None
            elif event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                idle = request is None and not connection.trailing_data[0]
                connection.receive_data(await self._read(reader, writer, idle=idle))

    async def _read(self, reader: StreamReader, writer: StreamWriter, *, idle: bool) -> bytes:
        if not idle:
            return await reader.read(_READ)
        if self._stopping:
            return b""
        self._idle.add(writer)
        try:
            return await reader.read(_READ)
        finally:
            self._idle.remove(writer)

    def _seen(self, request: h11.Request) -> dict[str, object]:
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        return {
            "pod": self._pod,
            "request": f"{request.method.decode()} {request.target.decode()}",
            "headers": {name: value for name, value in headers.items() if name.startswith("x-auth-")},
            "authorization": "authorization" in headers,
        }


def _delay(target: str) -> float:
    """The seconds that a request for /slow takes."""
    parts = urlsplit(target)
    if parts.path != "/slow":
        return 0.0
    try:
        seconds = float(parse_qs(parts.query).get("seconds", ["3"])[0])
    except ValueError:
        return 0.0
    return min(seconds, _MAX_DELAY) if seconds > 0 else 0.0


async def main() -> None:
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:8080").rpartition(":")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Shop(os.environ.get("HOSTNAME", "")).serve(host.strip("[]"), int(port), stop)


if __name__ == "__main__":
    asyncio.run(main())
