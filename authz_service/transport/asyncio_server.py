"""The server on asyncio: our own HTTP/2, for the little that a sidecar is asked.

Invariants: a call that can be decided at once is answered inside the callback that read it: no task, no other turn of
the loop, and one write for all the calls that came together. Every call to Check is answered by a CheckResponse,
whatever is wrong with it. How many peers there are is bounded, and what all of them together make the process keep.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from authz_service.core.decision import INTERNAL_ERROR
from authz_service.core.errors import StartFailed
from authz_service.telemetry.logs import SparseLog, fields
from authz_service.transport.addresses import BACKLOG, bound_with_care, listening_sockets, shared_sockets, unlinked
from authz_service.transport.ext_authz import codec
from authz_service.transport.http2.connection import Connection, End
from authz_service.transport.http2.headers import Status
from authz_service.transport.http2.memory import MAX_CONNECTIONS, Memory, Share
from authz_service.transport.tls.contexts import ServerContext, certificate_files

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable

    from authz_service.config.model import Tls
    from authz_service.core.decision import Deny
    from authz_service.transport.addresses import Shared
    from authz_service.transport.http2.call import Call, Unserved
    from authz_service.transport.tls.certificates import CertificateFiles

    # The answer at once, or what awaits it.
    Check = Callable[[bytes, float | None], bytes | Coroutine[None, None, bytes]]

SERVICE: Final = "envoy.service.auth.v3.Authorization"
_CHECK: Final = f"/{SERVICE}/Check".encode()
_HEALTH = "grpc.health.v1.Health"
_STOPPED = "shutting down"
_TICK = 1.0  # seconds, as the connection counts them
_HANDSHAKE = 10.0  # seconds for TLS
_CLOSING = 5  # ticks for a peer to read our last words
_ABORTING = 1.0  # seconds for the loop to let go of what was ended
# Octets that may wait for a peer to read them; then nothing more is taken from it, and they count by what they take.
_WRITTEN = 32 << 10
_LEAVING = 64  # connections beyond the most that may still finish what they are at
_SPARE_FILES = 128  # descriptors for everything but connections
_LOG_INTERVAL = 10.0  # seconds between two log lines about one reason
_OK = 200


class AsyncioServer:
    """Serves Check, health and reflection on one address."""

    def __init__(
        self,
        address: str,
        tls: Tls | None,
        check: Check,
        max_message_bytes: Callable[[], int],
        shared: Shared | None = None,
        *,
        refuse: Callable[[Deny], bytes],
    ) -> None:
        """``address`` is ``host:port``, ``[v6]:port`` or ``unix:/path``.

        ``refuse`` makes the answer to a call that is not handed to ``check``, as a longer message is not. ``shared`` is
        how other processes serve the address too.

        Raises:
            StartFailed: when the certificates cannot be used.
        """
        self._address = address
        self._shared = shared
        self._certificates = certificate_files(tls) if tls else None
        self._context = ServerContext(self._certificates) if self._certificates else None
        self._service = _Service(check, refuse, max_message_bytes)
        self._servers: list[asyncio.Server] = []
        self._peers = _Peers(_max_connections())
        self._ticking: asyncio.TimerHandle | None = None
        self.port = 0

    @property
    def certificates(self) -> CertificateFiles | None:
        """What it serves TLS with, if it does."""
        return self._certificates

    async def start(self) -> None:
        """Listen; health says NOT_SERVING until ``set_serving``.

        Raises:
            StartFailed: when the address cannot be had.
        """
        try:
            sockets = self._listening()
        except OSError:
            raise StartFailed(f"cannot listen on {self._address}: in use, or not allowed") from None
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
        rest = list(self._peers)
        for peer in rest:
            peer.abort()
        await _ended((peer.gone for peer in rest), _ABORTING)
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


def _max_connections() -> int:
    """As many as we serve, and as the system lets us open beside all else."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource  # noqa: PLC0415 - absent on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - _SPARE_FILES))


class _Peers(set["_Peer"]):
    """The connections that are there, and what they have in common."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self.memory = Memory()

    def admit(self, newcomer: _Peer) -> bool:
        """Whether there is room for one more; where there is none, it is made if it can be.

        Of the host that most connections are from, one makes room: so nobody who opens many can shut out who opens few.
        It is the one that has been silent for longest, of those that ask nothing if there are any. Between connections
        of one host that all are busy, those that came first stay.
        """
        if len(self) >= self._limit:
            self._hurry_those_who_leave()
            staying = [peer for peer in self if not peer.leaving]
            if len(staying) >= self._limit and not self._displace_one(staying, newcomer):
                return False
        self.add(newcomer)
        return True

    def _hurry_those_who_leave(self) -> None:
        """Who comes and is turned away must not stay on that account, however many they are."""
        leaving = [peer for peer in self if peer.leaving]
        if len(leaving) > _LEAVING:
            max(leaving, key=_closing).abort()

    @staticmethod
    def _displace_one(staying: list[_Peer], newcomer: _Peer) -> bool:
        hosts = Counter(peer.host for peer in (*staying, newcomer))
        most = max(hosts.values())
        crowd = [peer for peer in staying if hosts[peer.host] == most]
        idle = [peer for peer in crowd if peer.idle]
        if not idle and hosts[newcomer.host] == most:
            return False
        max(idle or crowd, key=_silent).displace()
        return True


def _silent(peer: _Peer) -> int:
    return peer.silent


def _closing(peer: _Peer) -> int:
    return peer.closing


class _Peer(asyncio.Protocol):
    """A connection on a socket."""

    def __init__(self, service: _Service, peers: _Peers) -> None:
        self._service = service
        self._peers = peers
        self._share = Share(peers.memory)
        self._unread = 0  # octets that are written and that the peer does not read; then nothing is read from it
        self.closing = 0  # ticks since we wanted it to end
        self._connection = Connection(service, self._share, self._closed, self._yielded)
        self.data_received = self._connection.receive  # type: ignore[method-assign] # without a call between
        self.leaving = False
        self.host = self._address = ""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.host, self._address = _address_of(transport.get_extra_info("peername"))
        if self._service.stopped:  # its TLS handshake went on meanwhile
            self._transport.abort()
        elif self._peers.admit(self):
            self._transport.set_write_buffer_limits(high=_WRITTEN)
            self._connection.start(self._transport.write)
        else:
            self._service.ended(End.DISPLACED, "too many connections, all of them busy", self._address)
            self._transport.abort()

    def _yielded(self) -> None:
        """Others have their turn before it goes on."""
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._unread:
            self._connection.resume()
            if self._connection.over or not self._connection.stopped:
                self._transport.resume_reading()  # once it is over, to see the peer close

    def pause_writing(self) -> None:
        """Take nothing more from who does not read: what it asks for would have to be kept."""
        self._connection.stop()
        self._transport.pause_reading()
        self._count_unread()

    def resume_writing(self) -> None:
        self._share.hold(-self._unread)
        self._unread = 0
        self._go_on()

    def _count_unread(self) -> None:
        more = self._transport.get_write_buffer_size() + self._connection.waiting - self._unread
        fits = self._share.fits(more)
        self._share.hold(more)
        self._unread += more
        if not fits:
            self._service.ended(End.FLOOD, "no room is left for what it does not read", self._address)
            self.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self._peers.discard(self)
        self._connection.lost()
        if not self.gone.done():
            self.gone.set_result(None)

    def tick(self) -> None:
        """A second has passed."""
        if self._unread:
            self._count_unread()
        self._connection.tick(writing=self._unread > 0)
        if self._connection.over:
            self.closing += 1
            if self.closing > _CLOSING:
                self.abort()

    @property
    def idle(self) -> bool:
        """Whether it asks nothing."""
        return self._connection.idle

    @property
    def silent(self) -> int:
        """For how many ticks nothing has come from it."""
        return self._connection.silent

    def drain(self) -> None:
        """Take no new calls."""
        self.leaving = True
        self._connection.drain()

    def displace(self) -> None:
        """Make room for another one. If it asks nothing, what is on its way is still answered."""
        cause = "too many connections, and most of them from this host"
        if self.idle:
            self._service.ended(End.DISPLACED, cause, self._address)
            self.drain()
        else:
            self._connection.end(End.DISPLACED, cause)

    def abort(self) -> None:
        """End it as it is."""
        self._peers.discard(self)
        self._connection.lost()  # so that nobody writes to it any more
        self._transport.abort()

    def _closed(self, reason: End, cause: str) -> None:
        """Say no more; the peer closes when it has read all, or see tick."""
        self.leaving = True
        self._service.ended(reason, cause, self._address)
        if self._transport.can_write_eof():
            self._transport.write_eof()  # to close with something unread would take back what we said
        else:
            self._transport.close()


def _address_of(peername: Any) -> tuple[str, str]:
    """The host that a connection is from, and the whole address for the log; of a unix socket there is neither."""
    if not isinstance(peername, tuple):
        return "", "unix"
    host, port, *_ = peername
    return str(host), f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


class _Service:
    """Answers the calls of every connection."""

    def __init__(self, check: Check, refuse: Callable[[Deny], bytes], max_message_bytes: Callable[[], int]) -> None:
        self._check = check
        self._refuse = refuse
        self._max_message_bytes = max_message_bytes
        self._serving = False
        self._watching: dict[Call, bool] = {}  # and whether we are what they watch
        self.tasks: set[asyncio.Task[bytes]] = set()
        self.stopped = False
        self._logger = logging.getLogger("authz.transport")
        self._warnings = SparseLog(self._logger, time.monotonic, _LOG_INTERVAL)
        self._reflection = reflection.ReflectionServicer((SERVICE, _HEALTH, reflection.SERVICE_NAME))
        reflected = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo".encode()
        self.streamed = frozenset({reflected})
        self._methods: dict[bytes, Callable[[Call, bytes], None]] = {
            reflected: self._serve_reflection,
            _CHECK: self._serve_check,
            f"/{_HEALTH}/Check".encode(): self._serve_health,
            f"/{_HEALTH}/Watch".encode(): self._serve_watch,
        }

    @property
    def max_message_bytes(self) -> int:
        return self._max_message_bytes()

    def ended(self, reason: End, cause: str, peer: str) -> None:
        """A connection has been ended by us."""
        if reason == End.DRAINED:
            self._logger.debug("connection ended", extra=fields(reason=reason, cause=cause, peer=peer))
        else:
            self._warnings.warning(reason, "connection ended", reason=reason, cause=cause, peer=peer)

    def serve(self, call: Call, message: bytes) -> None:
        head = call.head
        method = self._methods.get(head.path)
        if head.http_status != _OK and head.path != _CHECK:
            call.refuse_http()
        elif method is None:
            call.refuse(Status.UNIMPLEMENTED, "unknown method")
        else:
            try:
                method(call, message)
            except Exception as fault:  # noqa: BLE001 - one call's fault must not end the connection, which is that of others
                self._failed(call, fault)

    def denial(self, call: Call, why: Unserved) -> bytes | None:
        """That of a call to Check, and of one of which nobody can tell what it calls."""
        if call.head.path and call.head.path != _CHECK:
            return None
        return self._refuse(codec.deny_overloaded(why.cause) if why.temporary else codec.deny_malformed(why.cause))

    def _failed(self, call: Call, fault: BaseException) -> None:
        self._logger.error("serving failed", exc_info=fault)
        if call.head.path == _CHECK:
            call.answer(self._refuse(INTERNAL_ERROR))
        else:
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
        if not call.open:
            if not task.cancelled():
                task.exception()  # which is nobody's any more, but must have been looked at
            return
        fault = asyncio.CancelledError() if task.cancelled() else task.exception()
        if fault is None:
            call.answer(task.result())
        else:
            self._failed(call, fault)

    def _serve_reflection(self, call: Call, message: bytes) -> None:
        try:
            question = ServerReflectionRequest.FromString(message)
        except DecodeError:
            call.refuse(Status.INTERNAL, "the request cannot be read")
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
            call.refuse(Status.INTERNAL, "the request cannot be read")
            return None

    def _status(self, *, known: bool) -> bytes:
        if not known:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()
        serving = HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=serving).SerializeToString()
