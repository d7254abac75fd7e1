"""A circuit breaker that opens by what a server makes of a question of our own, not by what callers' tokens cause.

Invented tokens are free, and one of them may make a healthy server fail. So calls that fail are only a suspicion:
``FAILURES_TO_PROBE`` different tokens in a row, or one answer that asks for a pause or refuses our credentials. A probe
follows: a question about a token that nobody sent. The breaker opens where that fails too, and no caller's token was
answered meanwhile. While it is open, the pause between two tries grows. A try is a probe, and beside it one call of
each kind (``proven`` tokens and others), so no caller can keep the others from it. Any answer closes the breaker.

Pure; takes the time, in seconds of a clock that is never set. What a call that began in an earlier state brings back no
longer counts: a crowd that fails is one failure.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum
from typing import NamedTuple

FAILURES_TO_PROBE = 5  # in a row: what a server that is restarted gives away, and no more
PROBE_INTERVAL = 1.0  # seconds between two probes while it is closed, however many calls fail
FIRST_BACKOFF = 0.25  # seconds; doubled with each try that fails
MAX_BACKOFF = 5.0  # seconds: nobody new is served meanwhile, so recovery must be quick
_JITTER = 0.1  # of a pause, so that many sidecars do not come back at once


class State(StrEnum):
    """Whether calls are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Permit(NamedTuple):
    """Leave to make one call."""

    epoch: int  # the state that it was given in, and is good for
    at: float  # not before this time


class Breaker:
    """Lets calls through, or not."""

    def __init__(self) -> None:
        self._until: float | None = None  # while it is not closed: when it may be tried
        self._backoffs = 0  # since it was closed last
        self._epoch = 0
        self._suspects: set[bytes] = set()  # tokens whose calls failed since there was an answer
        self._suspicious = False
        self._trying: set[bool] = set()  # the kinds of call that have their part in the next try
        self._probing = False
        self._probed_at = -math.inf
        self._answered = False  # since the last probe began

    def state(self, now: float) -> State:
        """The state at this time."""
        if self._until is None:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def wait(self, now: float) -> float:
        """Seconds until a call may be let through; 0 where one may be now, or soon."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    # Calls.

    def permit(self, now: float, *, proven: bool, max_wait: float) -> Permit | None:
        """Leave to make one call within ``max_wait`` seconds; None where there is none.

        To be given back to ``answered`` or ``failed``. ``proven`` tells tokens that cannot be invented from others.
        """
        if self._until is None:
            return Permit(self._epoch, now)
        if self._until - now > max_wait or proven in self._trying:
            return None
        self._trying.add(proven)
        return Permit(self._epoch, max(now, self._until))

    def holds(self, permit: Permit) -> bool:
        """Whether a permit that was given earlier is still good."""
        return permit.epoch == self._epoch

    def answered(self, permit: Permit) -> None:
        """The server answered a call, or a probe."""
        if not self.holds(permit):
            return
        self._suspects.clear()
        self._suspicious = False
        self._answered = True
        if self._until is not None:
            self._until = None
            self._backoffs = 0
            self._change()

    def failed(self, permit: Permit, token: bytes, *, urgent: bool) -> None:
        """The call about the token with this digest failed; ``urgent``: in a way that speaks of the server or of us."""
        if not self.holds(permit) or self._until is not None:
            return
        if len(self._suspects) < FAILURES_TO_PROBE:
            self._suspects.add(token)
        self._suspicious |= urgent or len(self._suspects) == FAILURES_TO_PROBE

    # Probes.

    def probe(self, now: float) -> Permit | None:
        """Leave to make a probe, where one is due. To be given back to ``probed``."""
        if self._until is None:
            due = self._suspicious and now >= self._probed_at + PROBE_INTERVAL
        else:
            due = bool(self._trying) and now >= self._until
        if self._probing or not due:
            return None
        self._suspects.clear()
        self._suspicious = self._answered = False
        self._probing, self._probed_at = True, now
        return Permit(self._epoch, now)

    def probed(self, permit: Permit, now: float, *, answered: bool) -> None:
        """The probe ended so."""
        self._probing = False
        if answered:
            self.answered(permit)
        elif self.holds(permit) and not self._answered:
            self._open(now)

    def _open(self, now: float) -> None:
        backoff = min(FIRST_BACKOFF * 2.0 ** min(self._backoffs, 16), MAX_BACKOFF)
        self._until = now + backoff * (1.0 + random.uniform(-_JITTER, _JITTER))  # noqa: S311 - spreads load
        self._backoffs += 1
        self._change()

    def _change(self) -> None:
        self._trying.clear()
        self._epoch += 1


def whole_seconds(wait: float) -> int:
    """A time to wait as Retry-After says it."""
    return max(1, math.ceil(wait))
