"""HTTP/1.1 below the parser, for the provider client and the admin server: peers whose bytes may be hostile.

Owns how much is read in one turn of the event loop, and how much of a turn's time the reading may take. It does not
parse messages; ``core.http1_head`` bounds them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MAX_TURN_TIME: Final = 0.001  # seconds of one turn of the event loop, after which no further step begins
MAX_READ: Final = 8192  # bytes read from one connection in one turn of the event loop


class TcpConnection(asyncio.BufferedProtocol):
    """A TCP connection that is read on demand only, at most ``MAX_READ`` bytes in a turn of the event loop.

    asyncio's streams read ahead: up to 256 KiB in a turn, from every connection that has data.
    """

    def __init__(self, on_connected: Callable[[TcpConnection], None] = lambda _: None) -> None:
        self._on_connected = on_connected
        self._transport: asyncio.Transport
        self._buffer = bytearray(MAX_READ)
        self._received = b""  # not returned by receive() yet
        self._at_eof = False
        self._error: Exception | None = None
        self._closed = asyncio.Event()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def receive(self) -> bytes:
        """The next bytes; empty at the end of the stream.

        Raises:
            OSError: if the connection is broken.
        """
        if not self._readable.is_set():
            self._transport.resume_reading()
            await self._readable.wait()
        data, self._received = self._received, b""
        if not self._at_eof:
            self._readable.clear()
        if not data and self._error is not None:
            raise self._error
        return data

    def send(self, data: bytes) -> None:
        """Send data, now or as soon as the peer accepts it."""
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until everything is sent.

        Raises:
            OSError: if the connection is broken.
        """
        self._transport.set_write_buffer_limits(high=0)
        await self._writable.wait()
        if self._error is not None:
            raise self._error

    def read_ahead(self) -> None:
        """Read without a call of ``receive``, so that ``is_idle`` notices data and the end of the stream."""
        if not self._readable.is_set():
            self._transport.resume_reading()

    @property
    def peername(self) -> object:
        """The peer's address, as the system has it."""
        return self._transport.get_extra_info("peername")

    @property
    def is_idle(self) -> bool:
        """Whether the connection is open and no data is waiting for ``receive``."""
        return not self._readable.is_set() and not self._transport.is_closing()

    def send_eof(self) -> None:
        """Close the sending side once everything is sent. The peer may go on sending."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._closed.wait()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol. uvloop starts reading despite the pause: the first data may come early."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not derived from it
        self._transport.pause_reading()
        self._on_connected(self)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - the size is fixed
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        self._transport.pause_reading()
        self._received += self._buffer[:nbytes]
        self._readable.set()

    def eof_received(self) -> bool:
        """See asyncio.BufferedProtocol. The sending side stays open: a response may still be on its way."""
        self._at_eof = True
        self._readable.set()
        return True

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self._at_eof = True
        self._error = exc
        for event in (self._readable, self._writable, self._closed):
            event.set()


class TurnBudget:
    """Limits how much of each turn of the event loop many connections together spend on parsing.

    Parsing runs in small steps, each within ``async with budget:`` and without an ``await``. When a turn's time is
    spent, the other connections wait for the next turns, in order. So a peer whose data is expensive to parse delays
    itself only.
    """

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        """``timer`` returns seconds of a monotonic clock."""
        self._timer = timer
        self._spent = 0.0  # seconds of this turn
        self._step_began = 0.0
        self._reset_scheduled = False
        self._queue = asyncio.Lock()  # first come, first served

    async def __aenter__(self) -> Self:
        """Wait until the current turn has time left."""
        if self._spent >= MAX_TURN_TIME or self._queue.locked():
            async with self._queue:
                while self._spent >= MAX_TURN_TIME:  # noqa: ASYNC110 - the next turn is what it waits for
                    await asyncio.sleep(0)
        if not self._reset_scheduled:
            self._reset_scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._step_began = self._timer()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Add the step's time."""
        self._spent += self._timer() - self._step_began

    def _begin_turn(self) -> None:
        self._spent = 0.0
        self._reset_scheduled = False
