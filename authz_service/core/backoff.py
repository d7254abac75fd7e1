"""How long to wait before trying again. Pure: the caller counts the failures and draws the random number."""

from __future__ import annotations

from typing import Final

JITTER: Final = 0.1  # of a delay in either direction, so that many processes do not retry at the same time
_MAX_DOUBLINGS = 64  # keeps the power within a float; any maximum is reached long before


def exponential(failures: int, *, initial: float, maximum: float) -> float:
    """Seconds to wait after this many failures in a row: 0, ``initial``, twice that, and so on up to ``maximum``."""
    if failures < 1:
        return 0.0
    return min(initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), maximum)


def with_jitter(delay: float, random: float) -> float:
    """The delay, spread by up to ``JITTER`` in either direction. ``random`` is uniform in [0, 1)."""
    return delay * (1.0 + JITTER * (2.0 * random - 1.0))
