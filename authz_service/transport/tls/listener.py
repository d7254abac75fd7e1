"""Accepts connections and makes the TLS handshake with each, so that a handshake that fails can be counted and logged.

The event loop's own servers do not report a failed handshake.

Invariants: a handshake counts against the limit on connections from the moment it is accepted. Nothing is allocated for
TLS before the peer has sent an octet that looks like TLS, and nothing for HTTP/2 before TLS is established. One host
has few handshakes at the same time: they need the most memory, and no certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final, cast

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.telemetry.connection_log import address_of
from authz_service.transport.addresses import BACKLOG
from authz_service.transport.http2.preface import LONGEST, is_tls, spoken_in
from authz_service.transport.http2.timeouts import PREFACE_TIMEOUT
from authz_service.transport.tls.contexts import send_alert

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.telemetry.connection_log import ConnectionLog
    from authz_service.transport.peers import Peers

    NewProtocol = Callable[[], asyncio.Protocol]

_MAX_ACCEPTS: Final = 16  # in one turn of the event loop: finding one that makes room takes a fraction of a millisecond
_MAX_HANDSHAKES: Final = 256  # of one host: many proxies may share its address, and each reserves 330 kB
_RETRY_DELAY: Final = 1.0  # seconds, when the system has no resources for another connection
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# The alerts by which a client refuses our certificate, as OpenSSL names them.
_REFUSALS: Final = (
    *("ALERT_BAD_CERTIFICATE", "ALERT_UNSUPPORTED_CERTIFICATE", "ALERT_CERTIFICATE_REVOKED"),
    *("ALERT_CERTIFICATE_EXPIRED", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_UNKNOWN_CA"),
)


class TlsListener:
    """Serves TLS on a listening socket."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        peers: Peers,
        log: ConnectionLog,
        new_protocol: NewProtocol,
    ) -> None:
        self._socket = listening
        self._peers = peers
        self._log = log
        begun: set[Handshake] = set()
        self._new_handshake = partial(Handshake, context, peers, begun, log, new_protocol)
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen."""
        self._socket.settimeout(0)
        self._socket.listen(BACKLOG)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more connections."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTS):
            try:
                connected, peername = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._log.cannot_accept(error)
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(_RETRY_DELAY, self._loop.add_reader, self._socket, self._accept)
                return
            connected.settimeout(0)
            handshake = self._new_handshake(connected, peername)
            if self._peers.admit(handshake):
                handshake.start()
            else:
                handshake.refuse()


class Handshake(asyncio.Protocol):
    """A connection until TLS is established, as one of the ``Peers``; then another protocol takes its place."""

    def __init__(
        self,
        context: ssl.SSLContext,
        peers: Peers,
        begun: set[Handshake],
        log: ConnectionLog,
        new_protocol: NewProtocol,
        connected: socket.socket,
        peername: object,
    ) -> None:
        """``begun`` are the handshakes for which TLS has allocated memory."""
        self._socket = connected
        self._context = context
        self._peers = peers
        self._begun = begun
        self._log = log
        self._new_protocol = new_protocol
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._is_transport = False  # whether a transport owns the socket
        self.host, self._address = address_of(peername)
        self.idle = True
        self.silent = 0  # ticks, since it was accepted
        self.closing = False
        self.closed_ticks = 0
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        """Wait for the first octets."""
        self._loop.add_reader(self._socket, self._first_octets)

    def refuse(self) -> None:
        """Close it, because there is no room."""
        self._log.refused(self._address)
        self._socket.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is established."""
        self._leave()
        protocol = self._new_protocol()
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(transport)

    def _first_octets(self) -> None:
        try:
            octets = self._socket.recv(LONGEST, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            octets = b""
        if is_tls(octets):
            self._begin()
            return
        if octets:
            cause = f"{spoken_in(octets)} without TLS"
            self._log.not_accepted(ConnectionFailure.PLAINTEXT, cause, self._address)
        else:
            self._log.empty()
        self.abort()

    def _begin(self) -> None:
        same_host = [each for each in self._begun if each.host == self.host and not each.closing]
        if len(same_host) >= _MAX_HANDSHAKES:
            max(same_host, key=attrgetter("silent")).make_room("too many handshakes of this host at the same time")
        self._begun.add(self)
        self._loop.remove_reader(self._socket)
        self._task = self._loop.create_task(self._establish())
        self._task.add_done_callback(self._release)

    async def _establish(self) -> None:
        send_alert.set(partial(_send, self._socket))
        try:
            await self._loop.connect_accepted_socket(self._as_protocol, self._socket, ssl=self._context)
        except ssl.SSLError as error:
            self._log.not_accepted(*_failure_of(error), self._address)
        except OSError:
            cause = "the peer closed the connection during the handshake"
            self._log.not_accepted(ConnectionFailure.TLS_HANDSHAKE, cause, self._address)

    def _as_protocol(self) -> asyncio.Protocol:
        self._is_transport = True
        return self

    def _release(self, _task: asyncio.Task[None] | None = None) -> None:
        if not self._is_transport:
            self._socket.close()
        self._leave()
        if not self.lost.done():
            self.lost.set_result(None)

    def _leave(self) -> None:
        self._peers.discard(self)
        self._begun.discard(self)

    def make_room(self, cause: str) -> None:
        """Close, for another connection."""
        self._log.not_accepted(ConnectionFailure.TOO_MANY, cause, self._address)
        self.abort()

    # The server's requests.

    def tick(self) -> None:
        """A second has passed."""
        self.silent += 1
        if self.silent > PREFACE_TIMEOUT and not self.closing:
            cause = "nothing was received in time" if self._task is None else "the handshake was not completed in time"
            self._log.not_accepted(ConnectionFailure.UNFINISHED, cause, self._address)
            self.abort()

    def drain(self) -> None:
        """Close: it has no streams yet."""
        self.abort()

    def displace(self) -> None:
        """Make room for another connection."""
        self.make_room("too many connections, and most of them from this host")

    def abort(self) -> None:
        """Close immediately."""
        self.closing = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._loop.remove_reader(self._socket)
            self._release()


def _send(connected: socket.socket, alert: bytes) -> None:
    with contextlib.suppress(OSError):  # the peer has left
        connected.send(alert)


def _failure_of(error: ssl.SSLError) -> tuple[ConnectionFailure, str]:
    """Why OpenSSL failed, in its own closed list of words."""
    reason = error.reason or "TLS error"
    words = reason.lower().replace("_", " ")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailure.UNTRUSTED_CLIENT_CERTIFICATE, error.verify_message
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return ConnectionFailure.NO_CLIENT_CERTIFICATE, words
    if reason.endswith(_REFUSALS):
        return ConnectionFailure.SERVER_CERTIFICATE_REFUSED, words
    return ConnectionFailure.TLS_HANDSHAKE, words
