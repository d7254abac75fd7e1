"""What the asyncio server needs for TLS; it imports this module only if TLS is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_service.transport.tls.allocator import trim_function
from authz_service.transport.tls.contexts import ReloadingContext, openssl_certificate_files
from authz_service.transport.tls.listener import TlsListener

if TYPE_CHECKING:
    import socket

    from authz_service.config.server import Tls
    from authz_service.telemetry.connection_log import ConnectionLog
    from authz_service.transport.peers import Peers
    from authz_service.transport.tls.listener import NewProtocol

_TRIM_AFTER: Final = 256  # connections, which leave up to 80 MB with the allocator


class TlsServer:
    """The certificates, their context, and the listeners that use it."""

    def __init__(self, tls: Tls) -> None:
        """Read the files.

        Raises:
            StartFailed: when the certificates cannot be used.
        """
        self.certificates = openssl_certificate_files(tls)
        self._context = ReloadingContext(self.certificates)
        self._trim = trim_function()

    def listen(
        self, listening: socket.socket, peers: Peers, log: ConnectionLog, new_protocol: NewProtocol
    ) -> TlsListener:
        """Accept connections on a socket."""
        listener = TlsListener(listening, self._context, peers, log, new_protocol)
        listener.start()
        return listener

    def tick(self, peers: Peers) -> None:
        """Return to the system what connections have left, if they were many. Called once per second."""
        if self._trim is not None and peers.left >= _TRIM_AFTER:
            peers.left = 0
            self._trim(0)
