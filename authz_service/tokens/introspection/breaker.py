"""A circuit breaker that only a probe opens.

Tokens are free to invent, and some may make a healthy server fail. So failed requests about callers' tokens only lead
to a probe, a request about a random token that no caller sent: after ``FAILURES_TO_PROBE`` different tokens in a row,
or one response that has Retry-After or rejects our credentials. The breaker opens if the probe fails as well and no
caller's token got a response meanwhile.

While it is open, the pauses between attempts grow. An attempt is a probe and one request of each kind (*proven* tokens
and others), so neither kind can keep the other from it. Any response closes the breaker.

No I/O; ``now`` is in seconds of a monotonic clock. A permit belongs to the state in which it was given: a result that
arrives in a later state changes nothing, so a hundred concurrent failures count once.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum
from typing import NamedTuple

from authz_service.core.backoff import exponential, with_jitter

FAILURES_TO_PROBE = 5  # in a row: what a server that is restarting causes
PROBE_INTERVAL = 1.0  # seconds between two probes while it is closed, however many requests fail
INITIAL_BACKOFF = 0.25  # seconds; doubled with each failed attempt
MAX_BACKOFF = 5.0  # seconds: no new token is accepted meanwhile, so recovery must be quick


class BreakerState(StrEnum):
    """Whether requests are permitted."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Permit(NamedTuple):
    """Permission to send one request."""

    epoch: int  # counts the changes of state: it is valid in this one
    at: float  # not before this time


class CircuitBreaker:
    """Permits requests, or not."""

    def __init__(self) -> None:
        self._attempt_at: float | None = None  # while it is not closed: when the next attempt may begin
        self._failed_attempts = 0  # since it was closed last
        self._epoch = 0
        self._failed_tokens: set[bytes] = set()  # whose requests failed since the last response or probe
        self._is_suspicious = False
        self._attempting: set[bool] = set()  # the kinds of request that take part in the next attempt
        self._is_probing = False
        self._probed_at = -math.inf
        self._has_response = False  # since the last probe began

    def state(self, now: float) -> BreakerState:
        """The state at this time."""
        if self._attempt_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._attempt_at else BreakerState.HALF_OPEN

    def wait(self, now: float) -> float:
        """Seconds until the next attempt; 0 if it may begin now, or the breaker is closed."""
        return 0.0 if self._attempt_at is None else max(0.0, self._attempt_at - now)

    # Requests.

    def permit(self, now: float, *, proven: bool, max_wait: float) -> Permit | None:
        """Permission to send one request within ``max_wait`` seconds, if there is one.

        Its result is reported by ``record_response`` or ``record_failure``. ``proven`` is the kind of its token.
        """
        if self._attempt_at is None:
            return Permit(self._epoch, now)
        if self._attempt_at - now > max_wait or proven in self._attempting:
            return None
        self._attempting.add(proven)
        return Permit(self._epoch, max(now, self._attempt_at))

    def is_valid(self, permit: Permit) -> bool:
        """Whether the state is still the one in which the permit was given."""
        return permit.epoch == self._epoch

    def record_response(self, permit: Permit) -> None:
        """The server responded to a request or a probe."""
        if not self.is_valid(permit):
            return
        self._failed_tokens.clear()
        self._is_suspicious = False
        self._has_response = True
        if self._attempt_at is not None:
            self._attempt_at = None
            self._failed_attempts = 0
            self._change_state()

    def record_failure(self, permit: Permit, token: bytes, *, urgent: bool) -> None:
        """The request about the token with this digest failed; ``urgent`` if that cannot be due to the token."""
        if not self.is_valid(permit) or self._attempt_at is not None:
            return
        if len(self._failed_tokens) < FAILURES_TO_PROBE:
            self._failed_tokens.add(token)
        self._is_suspicious |= urgent or len(self._failed_tokens) == FAILURES_TO_PROBE

    # Probes.

    def permit_probe(self, now: float) -> Permit | None:
        """Permission to send a probe, if one is due. Its result is reported by ``record_probe``."""
        if self._attempt_at is None:
            is_due = self._is_suspicious and now >= self._probed_at + PROBE_INTERVAL
        else:
            is_due = bool(self._attempting) and now >= self._attempt_at
        if self._is_probing or not is_due:
            return None
        self._failed_tokens.clear()
        self._is_suspicious = self._has_response = False
        self._is_probing, self._probed_at = True, now
        return Permit(self._epoch, now)

    def record_probe(self, permit: Permit, now: float, *, responded: bool) -> None:
        """The probe ended."""
        self._is_probing = False
        if responded:
            self.record_response(permit)
        elif self.is_valid(permit) and not self._has_response:
            self._open(now)

    def _open(self, now: float) -> None:
        self._failed_attempts += 1
        backoff = exponential(self._failed_attempts, initial=INITIAL_BACKOFF, maximum=MAX_BACKOFF)
        self._attempt_at = now + with_jitter(backoff, random.random())  # noqa: S311 - spreads load, guards nothing
        self._change_state()

    def _change_state(self) -> None:
        self._attempting.clear()
        self._epoch += 1
