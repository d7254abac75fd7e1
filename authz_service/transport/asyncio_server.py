"""The server on asyncio: our own HTTP/2, for the little that a sidecar is asked.

Law: a call that can be decided at once is answered inside the callback that read it: no task, no other turn of the
loop, and one write for all the calls that came together. As in the other transport, no limit is enforced by a gRPC
error where a denial can enforce it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from authz_service.core.errors import StartFailed
from authz_service.telemetry.logs import fields
from authz_service.transport.addresses import BACKLOG, bound_with_care, listening_sockets, shared_sockets, unlinked
from authz_service.transport.http2.connection import Connection
from authz_service.transport.http2.headers import Status
from authz_service.transport.tls import ServerContext, certificate_files

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable

    from authz_service.config.model import Tls
    from authz_service.transport.addresses import Shared
    from authz_service.transport.certificates import CertificateFiles
    from authz_service.transport.http2.call import Call

    # The answer at once, or what awaits it.
    Check = Callable[[bytes, float | None], bytes | Coroutine[None, None, bytes]]

SERVICE: Final = "envoy.service.auth.v3.Authorization"
_HEALTH = "grpc.health.v1.Health"
_STOPPED = "shutting down"
_TICK = 1.0  # seconds, as the connection counts them
_HANDSHAKE = 10.0  # seconds for TLS
_CLOSING = 5  # ticks for a peer to read our last words
_ABORTING = 1.0  # seconds for the loop to let go of what was ended
_WRITTEN = 1 << 20  # octets that may wait for a peer to read them; then nothing more is read from it


class AsyncioServer:
    """Serves Check, health and reflection on one address."""

    def __init__(
        self,
        address: str,
        tls: Tls | None,
        check: Check,
        max_message_bytes: Callable[[], int],
        shared: Shared | None = None,
    ) -> None:
        """``address`` is ``host:port``, ``[v6]:port`` or ``unix:/path``. A longer message is handed over in part.

        ``shared`` is how other processes serve the address too.

        Raises:
            StartFailed: when the certificates can not be used.
        """
        self._address = address
        self._shared = shared
        self._certificates = certificate_files(tls) if tls else None
        self._context = ServerContext(self._certificates) if self._certificates else None
        self._service = _Service(check, max_message_bytes)
        self._servers: list[asyncio.Server] = []
        self._peers: set[_Peer] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self.port = 0

    @property
    def certificates(self) -> CertificateFiles | None:
        """What it serves TLS with, if it does."""
        return self._certificates

    async def start(self) -> None:
        """Listen; health says NOT_SERVING until ``set_serving``.

        Raises:
            StartFailed: when the address can not be had.
        """
        try:
            sockets = self._listening()
        except OSError:
            raise StartFailed(f"can not listen on {self._address}: in use, or not allowed") from None
        self.port = 0 if self._address.startswith("unix:") else sockets[0].getsockname()[1]
        self._servers = [await self._serving(each) for each in sockets]
        self._tick()

    def _listening(self) -> list[socket.socket]:
        if self._shared is not None:
            return shared_sockets(self._shared)
        with bound_with_care(self._address):
            return listening_sockets(self._address)

    async def _serving(self, listening: socket.socket) -> asyncio.Server:
        loop, context = asyncio.get_running_loop(), self._context
        serve = loop.create_unix_server if self._address.startswith("unix:") else loop.create_server
        handshake = _HANDSHAKE if context else None
        named: dict[str, Any] = {}
        if self._address.startswith("unix:") and sys.version_info >= (3, 13):
            named["cleanup_socket"] = False  # the file is ours to unlink, or of who shares the socket with us
        return await serve(
            self._peer, sock=listening, backlog=BACKLOG, ssl=context, ssl_handshake_timeout=handshake, **named
        )

    async def set_serving(self, *, serving: bool) -> None:
        """What health answers from now on."""
        self._service.set_serving(serving=serving)

    async def stop(self, grace: float) -> None:
        """Accept nothing new, and give what is in flight ``grace`` seconds."""
        if self._ticking is None:
            return
        if self._shared is None:
            unlinked(self._address)  # before it is closed: from then on another process may put its own there
        for server in self._servers:
            server.close()
        self._service.stop()
        for peer in list(self._peers):
            peer.drain()
        await _ended((peer.gone for peer in self._peers), grace)
        for peer in list(self._peers):
            peer.abort()
        await _ended((peer.gone for peer in self._peers), _ABORTING)
        await _ended(self._service.tasks, _ABORTING)
        self._ticking.cancel()
        self._ticking = None

    def _peer(self) -> _Peer:
        return _Peer(self._service, self._peers)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(_TICK, self._tick)
        for peer in list(self._peers):
            peer.tick()


async def _ended(waited_for: Iterable[asyncio.Future[Any]], seconds: float) -> None:
    """Wait, not longer than this, until all of them have."""
    if waiting := set(waited_for):
        await asyncio.wait(waiting, timeout=seconds)


class _Peer(asyncio.Protocol):
    """A connection on a socket."""

    def __init__(self, service: _Service, peers: set[_Peer]) -> None:
        self._service = service
        self._peers = peers
        self._writing = False  # whether more is written than the peer reads
        self._closing = 0  # ticks since we wanted it to end
        self._connection = Connection(service, self._closed)
        self.data_received = self._connection.receive  # type: ignore[method-assign] # without a call between
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._service.stopped:  # its TLS handshake went on meanwhile
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_WRITTEN)
        self._peers.add(self)
        self._connection.start(self._transport.write)

    def pause_writing(self) -> None:
        """Read nothing more from who does not read: what it asks for would have to be kept."""
        self._writing = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writing = False
        self._transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self._peers.discard(self)
        self._connection.lost()
        if not self.gone.done():
            self.gone.set_result(None)

    def tick(self) -> None:
        """A second has passed."""
        self._connection.tick(writing=self._writing)
        if self._connection.over:
            self._closing += 1
            if self._closing > _CLOSING:
                self.abort()

    def drain(self) -> None:
        """Take no new calls."""
        self._connection.drain()

    def abort(self) -> None:
        """End it as it is."""
        self._transport.abort()

    def _closed(self, why: str) -> None:
        """Say no more; the peer closes when it has read all, or see tick."""
        self._service.told(why)
        if self._transport.can_write_eof():
            self._transport.write_eof()  # to close with something unread would take back what we said
        else:
            self._transport.close()


class _Service:
    """Answers the calls of every connection."""

    def __init__(self, check: Check, max_message_bytes: Callable[[], int]) -> None:
        self._check = check
        self._max_message_bytes = max_message_bytes
        self._serving = False
        self._watching: dict[Call, bool] = {}  # and whether we are what they watch
        self.tasks: set[asyncio.Task[bytes]] = set()
        self.stopped = False
        self._logger = logging.getLogger("authz.transport")
        self._reflection = reflection.ReflectionServicer((SERVICE, _HEALTH, reflection.SERVICE_NAME))
        reflected = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo".encode()
        self.streamed = frozenset({reflected})
        self._methods: dict[bytes, Callable[[Call, bytes], None]] = {
            reflected: self._serve_reflection,
            f"/{SERVICE}/Check".encode(): self._serve_check,
            f"/{_HEALTH}/Check".encode(): self._serve_health,
            f"/{_HEALTH}/Watch".encode(): self._serve_watch,
        }

    @property
    def max_message_bytes(self) -> int:
        return self._max_message_bytes()

    def told(self, why: str) -> None:
        """A connection has been ended by us."""
        self._logger.debug("connection ended", extra=fields(cause=why))

    def serve(self, call: Call, message: bytes) -> None:
        method = self._methods.get(call.head.path)
        if method is None:
            call.refuse(Status.UNIMPLEMENTED, "unknown method")
            return
        try:
            method(call, message)
        except Exception as fault:  # noqa: BLE001 - one call's fault must not end the connection, which is that of others
            self._failed(call, fault)

    def _failed(self, call: Call, fault: BaseException) -> None:
        self._logger.error("serving failed", exc_info=fault)
        call.refuse(Status.INTERNAL, "a fault of the server")

    def _serve_check(self, call: Call, message: bytes) -> None:
        answer = self._check(message, call.head.timeout)
        if isinstance(answer, bytes):
            call.answer(answer)
        else:
            task = asyncio.create_task(answer)
            self.tasks.add(task)
            task.add_done_callback(partial(self._answer_later, call))
            call.cancelled = task.cancel

    def _answer_later(self, call: Call, task: asyncio.Task[bytes]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            return
        if (fault := task.exception()) is None:
            call.answer(task.result())
        else:
            self._failed(call, fault)

    def _serve_reflection(self, call: Call, message: bytes) -> None:
        try:
            question = ServerReflectionRequest.FromString(message)
        except DecodeError:
            call.refuse(Status.INTERNAL, "the request can not be read")
            return
        answers = self._reflection.ServerReflectionInfo(iter((question,)), None)  # type: ignore[arg-type] # not looked at
        answer = next(answers)
        if call.remote_closed:
            call.answer(answer.SerializeToString())
        else:
            call.send(answer.SerializeToString())

    # Health (grpc.health.v1).

    def set_serving(self, *, serving: bool) -> None:
        """Tell everybody who asks, and who watches."""
        changed, self._serving = serving != self._serving, serving
        if changed:
            for call in [call for call, known in self._watching.items() if known]:
                call.send(self._status(known=True))

    def stop(self) -> None:
        """Nobody watches any longer."""
        self.stopped = True
        for call in list(self._watching):
            call.refuse(Status.UNAVAILABLE, _STOPPED)
        self._watching.clear()

    def _serve_health(self, call: Call, message: bytes) -> None:
        known = self._is_known(call, message)
        if known:
            call.answer(self._status(known=True))
        elif known is not None:
            call.refuse(Status.NOT_FOUND, "unknown service")

    def _serve_watch(self, call: Call, message: bytes) -> None:
        known = self._is_known(call, message)
        if known is None:
            return
        call.send(self._status(known=known))
        if self.stopped:
            call.refuse(Status.UNAVAILABLE, _STOPPED)
        else:
            self._watching[call] = known
            call.cancelled = partial(self._watching.pop, call)

    def _is_known(self, call: Call, message: bytes) -> bool | None:
        """Whether we are asked about; None when it was no question, which has been said."""
        try:
            return HealthCheckRequest.FromString(message).service in {"", SERVICE}
        except DecodeError:
            call.refuse(Status.INTERNAL, "the request can not be read")
            return None

    def _status(self, *, known: bool) -> bytes:
        if not known:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()
        serving = HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=serving).SerializeToString()
