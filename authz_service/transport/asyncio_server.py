"""The server on asyncio: it listens on one address, ticks its connections once a second, and drains them at the end.

HTTP/2 is our own (``http2``), limited to what a sidecar needs. One connection is in ``asyncio_protocol.py``, the limit
on connections in ``peers.py``, and the gRPC methods in ``grpc_methods.py``.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from authz_service.core.errors import StartFailed
from authz_service.telemetry.connection_log import ConnectionLog
from authz_service.transport.addresses import BACKLOG, exclusive_bind, listening_sockets, shared_sockets, unlink_socket
from authz_service.transport.asyncio_protocol import PeerProtocol
from authz_service.transport.grpc_methods import GrpcMethods
from authz_service.transport.peers import Peers, connection_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from authz_service.config.server import Tls
    from authz_service.core.decision import Deny
    from authz_service.telemetry.metrics import Metrics
    from authz_service.transport.addresses import SharedAddress
    from authz_service.transport.grpc_methods import Check
    from authz_service.transport.tls.certificates import CertificateFiles
    from authz_service.transport.tls.listener import TlsListener
    from authz_service.transport.tls.server import TlsServer

TICK_INTERVAL: Final = 1.0  # seconds
_ABORT_TIMEOUT: Final = 1.0  # seconds, for the event loop to clean up what was aborted


class AsyncioServer:
    """Serves Check, health and reflection on one address."""

    def __init__(
        self,
        address: str,
        tls: Tls | None,
        check: Check,
        max_message_bytes: Callable[[], int],
        shared: SharedAddress | None = None,
        *,
        refuse: Callable[[Deny], bytes],
        metrics: Metrics,
    ) -> None:
        """``address`` is ``host:port``, ``[v6]:port`` or ``unix:/path``.

        ``refuse`` encodes the denial of a call that does not reach ``check``, for example because its message is too
        long. ``shared`` is how other processes serve the same address.

        Raises:
            StartFailed: when the certificates cannot be used.
        """
        self._address = address
        self._is_unix = address.startswith("unix:")
        self._shared = shared
        self._tls = _tls_server(tls) if tls else None
        self._methods = GrpcMethods(check, refuse, max_message_bytes)
        self._log = ConnectionLog(metrics.transport())
        self._servers: list[asyncio.Server | TlsListener] = []
        self._peers = peers = Peers(connection_limit())
        metrics.watch_connections(lambda: len(peers))
        self._ticking: asyncio.TimerHandle | None = None
        self.port = 0

    @property
    def certificates(self) -> CertificateFiles | None:
        """The certificates of TLS, if it is configured."""
        return None if self._tls is None else self._tls.certificates

    async def start(self) -> None:
        """Listen; health is NOT_SERVING until ``set_serving``.

        Raises:
            StartFailed: when the address cannot be bound.
        """
        try:
            sockets = self._listen()
        except OSError as error:
            raise StartFailed(f"cannot listen on {self._address}: {error.strerror or error}") from None
        self.port = 0 if self._is_unix else sockets[0].getsockname()[1]
        self._servers = [await self._serve(each) for each in sockets]
        self._tick()

    def _listen(self) -> list[socket.socket]:
        if self._shared is not None:
            return shared_sockets(self._shared)
        with exclusive_bind(self._address):
            return listening_sockets(self._address)

    async def _serve(self, listening: socket.socket) -> asyncio.Server | TlsListener:
        new_protocol = partial(PeerProtocol, self._methods, self._peers, self._log)
        if self._tls is not None:
            return self._tls.listen(listening, self._peers, self._log, new_protocol)
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if self._is_unix else loop.create_server
        options: dict[str, Any] = {}
        if self._is_unix and sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # we unlink the file, or the processes that share the socket do
        return await serve(new_protocol, sock=listening, backlog=BACKLOG, **options)

    async def set_serving(self, *, serving: bool) -> None:
        """Change the health status."""
        self._methods.set_serving(serving=serving)

    async def stop(self, grace: float) -> None:
        """Accept no new connections and calls, and give those in flight ``grace`` seconds."""
        if self._ticking is None:
            return
        if self._shared is None:
            unlink_socket(self._address)  # before the close: after it, another process may create its own file there
        for server in self._servers:
            server.close()
        self._methods.stop()
        for peer in list(self._peers):
            peer.drain()
        await _wait((peer.lost for peer in self._peers), grace)
        remaining = list(self._peers)
        for peer in remaining:
            peer.abort()
        await _wait((peer.lost for peer in remaining), _ABORT_TIMEOUT)
        await _wait(self._methods.tasks, _ABORT_TIMEOUT)
        self._ticking.cancel()
        self._ticking = None

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK_INTERVAL, self._tick)
        for peer in list(self._peers):
            peer.tick()
        if self._tls is not None:
            self._tls.tick(self._peers)


def _tls_server(tls: Tls) -> TlsServer:
    from authz_service.transport.tls.server import TlsServer

    return TlsServer(tls)


async def _wait(futures: Iterable[asyncio.Future[Any]], timeout: float) -> None:  # noqa: ASYNC109 - not an error
    """Wait until all are done, or for so many seconds."""
    if waiting := set(futures):
        await asyncio.wait(waiting, timeout=timeout)
