"""The metrics of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from authz_service.core.connection_failure import ConnectionFailure

if TYPE_CHECKING:
    from authz_service.telemetry.families import Families

# accepted: until its HTTP/2 preface; empty: closed by the peer without an octet; refused: there was no room for it.
ConnectionResult = Literal["accepted", "empty", "failed", "refused"]


class TransportMetrics:
    """How connections begin, and why they fail."""

    def __init__(self, families: Families) -> None:
        self._connections = {
            result: families.transport_connections_total.labels(result) for result in get_args(ConnectionResult)
        }
        self._failures = {reason: families.transport_failures.labels(reason) for reason in ConnectionFailure}

    def record_connection(self, result: ConnectionResult) -> None:
        """Record how a connection began."""
        self._connections[result].increase()

    def record_failure(self, reason: ConnectionFailure) -> None:
        """Record that a connection failed."""
        self._failures[reason].increase()
