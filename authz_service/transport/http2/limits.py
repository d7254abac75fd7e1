"""Limits on the work that one peer causes: per interval between two ticks, per field block and per turn of the loop.

A proxy relays the requests, header fields and cancellations of its clients, so no number of them closes a connection.
The limits are on work that no working proxy causes. A proxy sends a few other frames with each request, so each request
raises the limit on those.
"""

from __future__ import annotations

from typing import Final

from authz_service.transport.http2.compression import MAX_STRING
from authz_service.transport.http2.frames import MAX_FRAME_SIZE, ErrorCode, Http2ConnectionError

# Streams.
MAX_CONCURRENT_STREAMS: Final = 1000  # Envoy opens another connection for more
UNCOUNTED_STREAMS: Final = 64  # each open stream beyond these is counted in the connection's share of memory
STREAM_OCTETS: Final = 1024  # for which it counts

# Per interval.
MAX_FRAMES: Final = 2000  # that carry no part of a request: WINDOW_UPDATE, PING, SETTINGS, PRIORITY, empty DATA...
FRAMES_PER_REQUEST: Final = 10  # by which each request raises that
STREAMS_PER_FRAME: Final = 100  # a frame that makes us visit every stream counts once more for so many of them
# Streams that we reset after a stream error (CVE-2025-8671). Each completed response allows one more.
MAX_RESETS: Final = 1000

# Per field block (CVE-2024-27316): more than the 8 MiB of header fields that Envoy can be configured to accept.
MAX_FIELD_BLOCK: Final = 16 << 20
MAX_CONTINUATIONS: Final = MAX_FIELD_BLOCK // MAX_FRAME_SIZE + 100
FIELD_BLOCK_OCTETS: Final = 2 * MAX_STRING  # for which a field block counts as long as it is incomplete

# Per turn: a hundred requests, or so many octets of field blocks.
REQUEST_WORK: Final = 256
MAX_WORK: Final = 32 << 10


class Limits:
    """What one connection may still do before the next tick, and what it has done in this turn."""

    def __init__(self) -> None:
        self.frames_left = MAX_FRAMES
        self.resets_left = MAX_RESETS
        self.work = 0

    def tick(self) -> None:
        """The next interval begins."""
        self.frames_left = MAX_FRAMES
        self.resets_left = min(self.resets_left + MAX_RESETS // 10, MAX_RESETS)

    def count_frame(self) -> None:
        """A frame that carries no part of a request.

        Raises:
            Http2ConnectionError: when there were too many.
        """
        self.frames_left -= 1
        if self.frames_left < 0:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry no request")

    def count_visits(self, streams: int) -> None:
        """A frame made us visit so many streams. If that exceeds the limit, the next counted frame raises."""
        self.frames_left -= streams // STREAMS_PER_FRAME

    def count_reset(self) -> None:
        """A stream was reset after a stream error.

        Raises:
            Http2ConnectionError: when there were too many.
        """
        self.resets_left -= 1
        if self.resets_left < 0:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many stream errors")
