"""HTTP/1.1 as our client and our server meet it: the octets of a peer that may be anybody.

Owns what holds before a message is parsed: how much is read in one turn of the event loop, how large a head may be,
which octets it may hold, and how much time of a turn all that takes. That bounds the parser's work as well: some
malformed lines take h11's regular expressions time that grows with the square of their length. What a message means is
nothing that this module knows.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final, Self, cast

from authz_service.core.errors import BadMessage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MAX_TURN: Final = 0.001  # seconds of one turn of the event loop, after which no further step begins
MAX_PIECE: Final = 8192  # bytes that are read from one connection in one turn of the event loop
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_END_OVERLAP = 2  # octets of the end of a head that may have come with an earlier piece
# RFC 9112 section 2.2 has no bare CR, section 5.2 lets us refuse folded lines, and RFC 9110 section 5.5 lets us refuse
# control characters.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n[ \t]")


class HeadBuffer:
    """Collects octets until they hold a whole head: start line, header fields and the empty line behind them."""

    def __init__(self, max_bytes: int, max_lines: int) -> None:
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._octets = bytearray()
        self._searched = 0  # octets in which a head does not end

    def __bool__(self) -> bool:
        return bool(self._octets)

    def feed(self, octets: bytes) -> None:
        """Take what the peer sent."""
        self._octets += octets

    def take(self) -> bytes | None:
        """The first head, once it is whole. What came after it stays.

        Raises:
            BadMessage: for one that is too large, or that holds octets that no head may hold.
        """
        end = _END_OF_HEAD.search(self._octets, self._searched)
        size = end.end() if end else len(self._octets)
        if size > self._max_bytes:
            raise BadMessage(f"has a header section of more than {self._max_bytes} bytes", too_large=True)
        if end is None:
            self._searched = max(0, size - _END_OVERLAP)
            return None
        head = bytes(self._octets[:size])
        del self._octets[:size]
        self._searched = 0
        if head.count(b"\n") > self._max_lines:
            raise BadMessage(f"has a header section of more than {self._max_lines} lines", too_large=True)
        if _FORBIDDEN.search(head):
            raise BadMessage("has control characters or a folded line in its header section")
        return head

    def rest(self) -> bytes:
        """What came after the heads that were taken, and is not kept any longer."""
        rest = bytes(self._octets)
        self._octets.clear()
        self._searched = 0
        return rest


class Wire(asyncio.BufferedProtocol):
    """A TCP connection that is read only when asked, and then at most ``MAX_PIECE`` octets in a turn of the loop.

    asyncio's own streams read ahead: up to 256 KiB in a turn, of each of the connections that have something to say.
    """

    def __init__(self, opened: Callable[[Wire], None] = lambda _: None) -> None:
        """``opened`` is called once it is connected."""
        self._opened = opened
        self._transport: asyncio.Transport
        self._buffer = bytearray(MAX_PIECE)
        self._piece = b""  # was read, and not yet taken
        self._ended = False  # the peer sends no more
        self._error: Exception | None = None
        self._closed = asyncio.Event()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def receive(self) -> bytes:
        """The next octets; none once the peer sends no more.

        Raises:
            OSError: when the connection is broken.
        """
        if not self._readable.is_set():
            self._transport.resume_reading()
            await self._readable.wait()
        piece, self._piece = self._piece, b""
        if not self._ended:
            self._readable.clear()
        if not piece and self._error is not None:
            raise self._error
        return piece

    def send(self, octets: bytes) -> None:
        """Send it, now or as soon as the peer takes it."""
        self._transport.write(octets)

    async def drain(self) -> None:
        """Wait until everything is sent.

        Raises:
            OSError: when the connection is broken.
        """
        self._transport.set_write_buffer_limits(high=0)
        await self._writable.wait()
        if self._error is not None:
            raise self._error

    def watch(self) -> None:
        """Read while nobody asks, so that ``is_quiet`` knows of what comes meanwhile."""
        if not self._readable.is_set():
            self._transport.resume_reading()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come that nobody asked for, the end included."""
        return not self._readable.is_set() and not self._transport.is_closing()

    def end(self) -> None:
        """Send no more once everything is sent; the peer sees the end, and may go on sending."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close it once everything is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close it now."""
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        await self._closed.wait()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol. uvloop starts to read all the same: a first piece may come unasked."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not derived from it
        self._transport.pause_reading()
        self._opened(self)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - the size is ours to choose
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        self._transport.pause_reading()
        self._piece += self._buffer[:nbytes]
        self._readable.set()

    def eof_received(self) -> bool:
        """See asyncio.BufferedProtocol. Our side stays open: an answer may still be on its way."""
        self._ended = True
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
        self._ended = True
        self._error = exc
        for event in (self._readable, self._writable, self._closed):
            event.set()


class Pace:
    """How much of the event loop's time many connections take together. Belongs to one event loop.

    A peer that sends what is expensive to read costs itself time, and nobody else: what it sent is read in small steps,
    each within ``async with pace:`` and awaiting nothing, and once a turn of the loop has spent its share, the others
    wait for the next turns.
    """

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        """``timer`` gives seconds of a clock that is never set."""
        self._timer = timer
        self._spent = 0.0
        self._begun = 0.0
        self._turn_counts = False  # whether the next turn will find this one's time to forget
        self._queue = asyncio.Lock()  # who waits longest goes first

    async def __aenter__(self) -> Self:
        """Wait until the turn has time left."""
        if self._spent >= MAX_TURN or self._queue.locked():
            async with self._queue:
                while self._spent >= MAX_TURN:  # noqa: ASYNC110 - see below
                    await asyncio.sleep(0)  # which is a turn of the loop: what is waited for
        if not self._turn_counts:
            self._turn_counts = True
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._begun = self._timer()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the step's time."""
        self._spent += self._timer() - self._begun

    def _begin_turn(self) -> None:
        self._spent = 0.0
        self._turn_counts = False
