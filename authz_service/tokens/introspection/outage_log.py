"""The log of one introspection server's failures and recovery.

Owns what is logged and how often: callers can provoke some failures, so each kind is logged at most once a minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.telemetry.logs import RateLimit, fields
from authz_service.tokens.introspection.breaker import BreakerState
from authz_service.tokens.introspection.client import ClientRefused, Forbidden

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from authz_service.core.errors import FetchFailed
    from authz_service.tokens.introspection.breaker import CircuitBreaker

_REPEAT_INTERVAL = 60.0  # seconds between two events of one kind
_RESPONSES_TO_RECOVER = 5  # in a row: a server that responds now and then has not recovered


class OutageLog:
    """Logs failures by kind, the circuit breaker's changes, and the recovery."""

    def __init__(self, logger: logging.Logger, issuer: str, timer: Callable[[], float]) -> None:
        """``issuer`` is its name, ``timer`` gives seconds of a monotonic clock."""
        self._logger = logger
        self._issuer = issuer
        self._timer = timer
        self._limit = RateLimit(timer, _REPEAT_INTERVAL)
        self._is_open = False  # as logged
        self._has_recovered = True
        self._responses = 0  # in a row, since the last failure

    def log_response(self) -> None:
        """A request about a caller's token got a response."""
        self._responses += 1
        if not self._has_recovered and self._responses >= _RESPONSES_TO_RECOVER:
            self._has_recovered = True
            self._logger.info("introspection recovered", extra=fields(issuer=self._issuer))

    def log_failure(self, failure: FetchFailed) -> None:
        """A request about a caller's token failed."""
        self._responses = 0
        self._log_failure(failure)

    def log_failed_probe(self, failure: FetchFailed) -> None:
        """A probe failed. If it was forbidden, that is not due to its token, which no firewall has seen before."""
        self._log_failure(ClientRefused(str(failure)) if isinstance(failure, Forbidden) else failure)

    def _log_failure(self, failure: FetchFailed) -> None:
        if not self._limit.is_due(type(failure).__name__):
            return
        self._has_recovered = False
        extra = fields(issuer=self._issuer, cause=str(failure))
        if isinstance(failure, ClientRefused):
            self._logger.error("the introspection server rejects this client", extra=extra)
        else:
            self._logger.warning("introspection failed", extra=extra)

    def log_fault(self, fault: Exception) -> None:
        """Our own code failed."""
        self._logger.error("introspection failed unexpectedly", exc_info=fault, extra=fields(issuer=self._issuer))

    def log_healthy_probe(self) -> None:
        """A probe got a response although requests about callers' tokens failed."""
        if self._limit.is_due("healthy probe"):
            extra = fields(issuer=self._issuer)
            self._logger.warning(
                "introspection fails for some tokens only; the server responds to a probe", extra=extra
            )

    def log_state(self, breaker: CircuitBreaker) -> None:
        """The circuit breaker may have opened or closed."""
        now = self._timer()
        is_open = breaker.state(now) is not BreakerState.CLOSED
        if is_open and not self._is_open and self._limit.is_due("open"):
            self._is_open = True
            extra = fields(issuer=self._issuer, breaker=BreakerState.OPEN, retry_in_s=round(breaker.wait(now), 3))
            self._logger.warning("introspection paused: the circuit breaker is open", extra=extra)
        elif not is_open and self._is_open:
            self._is_open = False
            extra = fields(issuer=self._issuer, breaker=BreakerState.CLOSED)
            self._logger.info("introspection resumed: the circuit breaker is closed", extra=extra)
