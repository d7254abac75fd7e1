"""The connections of the asyncio server: how many there may be, and which one makes room for another."""

from __future__ import annotations

import sys
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from authz_service.transport.http2.memory import MAX_CONNECTIONS, Memory

if TYPE_CHECKING:
    import asyncio

_MAX_CLOSING: Final = 64  # connections beyond the limit that may still finish
_RESERVED_FILES: Final = 128  # file descriptors for everything else


def connection_limit() -> int:
    """As many connections as we serve, or fewer if the system does not let us open so many files."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource  # noqa: PLC0415 - absent on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - _RESERVED_FILES))


class Peer(Protocol):
    """One connection, or the TLS handshake before it."""

    host: str
    closing: bool  # draining or closed
    closed_ticks: int  # since it was closed
    lost: asyncio.Future[None]  # done once nothing is left of it

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""

    @property
    def silent(self) -> int:
        """For how many ticks nothing was received."""

    def tick(self) -> None:
        """A second has passed."""

    def drain(self) -> None:
        """Accept no new streams, and close after the last response."""

    def displace(self) -> None:
        """Make room for another connection."""

    def abort(self) -> None:
        """Close immediately."""


class Peers(set[Peer]):
    """The connections, and the memory that they share."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self.memory = Memory()
        self.left = 0  # connections and handshakes that have been removed, until the caller resets it

    def admit(self, newcomer: Peer) -> bool:
        """Add a connection, if there is or can be room for it.

        The host with the most connections gives one up, so a host that opens many cannot exclude one that opens few.
        It gives up the one that has been silent longest, an idle one if possible. Among busy connections of one host,
        the older ones stay.
        """
        if len(self) >= self._limit:
            self._abort_oldest_closing()
            staying = [peer for peer in self if not peer.closing]
            if len(staying) >= self._limit and not self._displace_one(staying, newcomer):
                return False
        self.add(newcomer)
        return True

    def discard(self, peer: object) -> None:
        """Remove a connection, if it has not been removed."""
        if peer in self:
            super().discard(peer)
            self.left += 1

    def _abort_oldest_closing(self) -> None:
        """Connections that were displaced must not add up."""
        closing = [peer for peer in self if peer.closing]
        if len(closing) > _MAX_CLOSING:
            max(closing, key=attrgetter("closed_ticks")).abort()

    @staticmethod
    def _displace_one(staying: list[Peer], newcomer: Peer) -> bool:
        hosts = Counter(peer.host for peer in (*staying, newcomer))
        most = max(hosts.values())
        candidates = [peer for peer in staying if hosts[peer.host] == most]
        idle = [peer for peer in candidates if peer.idle]
        if not idle and hosts[newcomer.host] == most:
            return False
        max(idle or candidates, key=attrgetter("silent")).displace()
        return True
