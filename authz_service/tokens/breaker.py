"""A circuit breaker: after failures in a row a server is left alone for a while, then tried with one call.

Law: pure; told the time, in seconds of a clock that is never set. What calls that were begun in an earlier state bring
back no longer counts: the failures of a crowd are one failure to recover, and not a reason to wait ever longer.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum

FAILURES_TO_OPEN = 5  # in a row: what a server that is restarted gives away, and no more
FIRST_REST = 1.0  # seconds; doubled with each probe that fails
LONGEST_REST = 30.0  # seconds: half a minute after a server is back, at the latest, it is asked again
LONGEST_WISH = 300.0  # seconds for which a server is left alone because it asks for it, whatever it asks for
_JITTER = 0.1  # of a rest, so that many sidecars do not come back at once


class State(StrEnum):
    """Whether calls are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Lets calls through, or not."""

    def __init__(self) -> None:
        self._failures = 0  # in a row
        self._rests = 0  # since it was closed last
        self._until: float | None = None  # while it is not closed: when a probe is due
        self._probing = False
        self._epoch = 0  # counts the states: a permit is good for the one that it was given in

    def state(self, now: float) -> State:
        """The state at this time."""
        if self._until is None:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def permit(self, now: float) -> int | None:
        """Leave to make one call, to be given back to ``succeeded`` or ``failed``; None where there is none."""
        if self._until is not None:
            if now < self._until or self._probing:
                return None
            self._probing = True
            self._epoch += 1
        return self._epoch

    def holds(self, permit: int) -> bool:
        """Whether a permit that was given earlier is still good."""
        return permit == self._epoch

    def wait(self, now: float) -> float:
        """Seconds until a call may be let through; 0 where one may be now, or soon."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    def succeeded(self, permit: int) -> None:
        """The call was answered."""
        if permit == self._epoch:
            self._failures = self._rests = 0
            self._until = None
            self._probing = False

    def failed(self, permit: int, now: float, wish: float = 0.0) -> None:
        """The call failed; ``wish`` is for how many seconds the server asked to be left alone."""
        if permit != self._epoch:
            return
        self._failures += 1
        if wish or self._probing or self._failures >= FAILURES_TO_OPEN:
            self._open(now, wish)

    def _open(self, now: float, wish: float) -> None:
        rest = min(FIRST_REST * 2.0 ** min(self._rests, 16), LONGEST_REST)
        rest *= 1.0 + random.uniform(-_JITTER, _JITTER)  # noqa: S311 - spreads load, guards nothing
        self._until = now + max(rest, min(wish, LONGEST_WISH))
        self._rests += 1
        self._probing = False
        self._epoch += 1


def whole_seconds(wait: float) -> int:
    """A time to wait as Retry-After says it."""
    return max(1, math.ceil(wait))
