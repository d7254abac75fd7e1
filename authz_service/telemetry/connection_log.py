"""Counts connections, and logs why they fail.

Invariants: a failure is one warning per reason and interval, with the peer's address and a remedy, and never with
anything that the peer sent. A connection that is closed before it sent a byte is not a failure: TCP health checks do
that.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from authz_service.core.connection_failure import REMEDIES, ConnectionFailure
from authz_service.telemetry.logs import RateLimitedLog, fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.telemetry.connection_metrics import TransportMetrics

_INTERVAL: Final = 10.0  # seconds between two warnings with the same reason


class FailureLog:
    """The connections that failed."""

    def __init__(self, record: Callable[[ConnectionFailure], None]) -> None:
        """``record`` counts a failure."""
        self._record = record
        self._logger = logging.getLogger("authz.transport")
        self._warnings = RateLimitedLog(self._logger, time.monotonic, _INTERVAL)

    def failed(self, failure: ConnectionFailure, cause: str, peer: str) -> None:
        """A connection failed."""
        self._record(failure)
        remedy = REMEDIES[failure]
        self._warnings.warning(failure, "connection failed", reason=failure, cause=cause, peer=peer, remedy=remedy)


class ConnectionLog(FailureLog):
    """What happened to the connections of a transport."""

    def __init__(self, metrics: TransportMetrics) -> None:
        super().__init__(metrics.record_failure)
        self._metrics = metrics

    def accepted(self) -> None:
        """The HTTP/2 preface has arrived."""
        self._metrics.record_connection("accepted")

    def empty(self) -> None:
        """The peer closed the connection before it sent anything."""
        self._metrics.record_connection("empty")

    def refused(self, peer: str) -> None:
        """There was no room for a new connection."""
        self._metrics.record_connection("refused")
        self.failed(ConnectionFailure.TOO_MANY, "too many connections, and all are busy", peer)

    def not_accepted(self, failure: ConnectionFailure, cause: str, peer: str) -> None:
        """A connection failed before the HTTP/2 preface arrived."""
        self._metrics.record_connection("failed")
        self.failed(failure, cause, peer)

    def cannot_accept(self, error: OSError) -> None:
        """The system has no resources for another connection."""
        self._warnings.warning("accept", "cannot accept connections", cause=error.strerror)

    def drained(self, peer: str) -> None:
        """A connection was closed as intended."""
        self._logger.debug("connection closed", extra=fields(peer=peer))


def address_of(peername: Any) -> tuple[str, str]:
    """The host of a peer, and its address for the log; a unix socket has neither."""
    if not isinstance(peername, tuple):
        return "", "unix"
    host, port, *_ = peername
    return str(host), f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
