"""How long a connection waits, in ticks of one second."""

from __future__ import annotations

from typing import Final

KEEPALIVE_IDLE: Final = 30  # without receiving anything, before a PING
KEEPALIVE_TIMEOUT: Final = 20  # for its acknowledgment, or for a write to proceed
PREFACE_TIMEOUT: Final = 10  # for the preface, for the rest of a frame and for the rest of a field block
REQUEST_TIMEOUT: Final = 60  # for the whole of a request
DRAIN_TIMEOUT: Final = 2  # between the first GOAWAY and the final one, for a peer that does not acknowledge the PING


class Timers:
    """When the events happened from which the timeouts run."""

    def __init__(self) -> None:
        self.now = 0
        self.last_received = 0
        self.ping_pending = False
        self.partial_frame_since: int | None = None
        self.drain_since: int | None = None

    @property
    def idle(self) -> int:
        """For how long nothing was received."""
        return self.now - self.last_received

    @property
    def keepalive_due(self) -> bool:
        """Whether a PING must be sent to find out whether the peer is alive."""
        return self.idle > KEEPALIVE_IDLE and not self.ping_pending

    @property
    def keepalive_expired(self) -> bool:
        """Whether the peer must be taken for dead."""
        return self.idle > KEEPALIVE_IDLE + KEEPALIVE_TIMEOUT

    @property
    def drain_expired(self) -> bool:
        """Whether the final GOAWAY is due although the peer has not acknowledged the PING."""
        return self.drain_since is not None and self.now - self.drain_since > DRAIN_TIMEOUT
