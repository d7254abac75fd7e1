"""Connections that are kept open for the next request to the same origin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from authz_service.providers.connection import ProviderConnection
    from authz_service.providers.urls import Origin


class _Idle(NamedTuple):
    origin: Origin
    connection: ProviderConnection
    expiry: asyncio.TimerHandle


class IdleConnections:
    """The idle connections of one client. Each is closed after ``timeout`` seconds without a request."""

    def __init__(self, max_connections: int, timeout: float) -> None:
        self._max_connections = max_connections
        self._timeout = timeout
        self._idle: list[_Idle] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, origin: Origin) -> ProviderConnection | None:
        """Remove and return a connection to this origin, if there is one that is still usable."""
        for each in reversed(self._idle):  # the most recently used first, so that surplus ones expire
            if each.origin == origin:
                self._idle.remove(each)
                each.expiry.cancel()
                if each.connection.is_idle:
                    return each.connection
                each.connection.abort()
        return None

    def add(self, origin: Origin, connection: ProviderConnection) -> None:
        """Keep a connection whose last response is complete; close it if there are too many."""
        connection.begin_idle()
        if len(self._idle) >= self._max_connections or not connection.is_idle:
            connection.abort()
            return
        expiry = asyncio.get_running_loop().call_later(self._timeout, self._expire, connection)
        self._idle.append(_Idle(origin, connection, expiry))

    def _expire(self, connection: ProviderConnection) -> None:
        self._idle = [each for each in self._idle if each.connection is not connection]
        connection.close()

    async def close(self) -> None:
        """Close all connections and wait until they are closed."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.expiry.cancel()
            each.connection.close()
        for each in idle:
            await each.connection.wait_closed()
